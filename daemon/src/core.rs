//! What every room of the daemon shares.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nixci_protocol::nixci::control::{EvaluationId, Millis};
use nixci_store::index::Index;
use tokio::sync::broadcast;

use crate::config::{self, Config};
use crate::scheduler::{Scheduler, StoreId};
use crate::shutdown::Shutdown;
use crate::submit::Attendance;

/// The shared rooms. Everything in it is a handle or has its own lock; no lock is held across an await.
#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: Arc<Config>,
    pub(crate) index: Index,
    pub(crate) scheduler: Scheduler,
    pub(crate) stores: Vec<BuildStore>,
    /// The address of the pages, without a trailing slash.
    pub(crate) pages: Option<String>,
    pub(crate) stop: Shutdown,
    /// Evaluations whose client may still send jobs.
    pub(crate) attendance: Attendance,
    /// Evaluations that got jobs or changed their state. Lossy: who lags looks again.
    pub(crate) evaluations_changed: broadcast::Sender<EvaluationId>,
}

/// A store builds run on, and the connections to it.
#[derive(Debug)]
pub(crate) struct BuildStore {
    pub(crate) id: StoreId,
    pub(crate) config: config::Store,
}

impl Core {
    /// The store of this number; the numbers are those of the configuration.
    pub(crate) fn store(&self, id: StoreId) -> Option<&BuildStore> {
        self.stores.get(usize::from(id.0))
    }

    /// The address of an evaluation's page.
    pub(crate) fn page_of(&self, evaluation: EvaluationId) -> Option<String> {
        self.pages
            .as_ref()
            .map(|pages| format!("{pages}/evaluations/{}", evaluation.0))
    }

    /// Tells those who watch that an evaluation changed other than through its builds.
    pub(crate) fn announce(&self, evaluation: EvaluationId) {
        // An error only says that nobody watches.
        drop(self.evaluations_changed.send(evaluation));
    }
}

/// The time, for records.
pub(crate) fn now() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX))
}
