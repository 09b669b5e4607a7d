//! What every room of the daemon shares.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use nixci_protocol::nixci::control::{EvaluationId, Millis};
use nixci_store::index::Index;
use nixci_store::index::attempts::{AttemptEnd, AttemptResult};
use nixci_store::logs::Logs;
use nixci_store::negotiate::Memory;
use nixci_store::remote::Remote;
use nixci_store::spool::Spool;
use tokio::sync::{Semaphore, broadcast};

use crate::config;
use crate::forward::Holders;
use crate::objects::{Objects, Readers};
use crate::read::Told;
use crate::report::Outbox;
use crate::request::Requests;
use crate::scheduler::{Scheduler, StoreId};
use crate::settings::{Fixed, Live, Settings};
use crate::shutdown::Shutdown;
use crate::sign::Signer;
use crate::submit::Attendance;

/// The shared rooms. Everything in it is a handle or has its own lock; no lock is held across an await.
#[derive(Debug)]
pub(crate) struct Core {
    /// What no reload changes.
    pub(crate) config: Fixed,
    /// Everything else of the configuration.
    pub(crate) live: Live,
    pub(crate) index: Index,
    pub(crate) spool: Spool,
    pub(crate) logs: Logs,
    pub(crate) scheduler: Scheduler,
    pub(crate) stores: Vec<BuildStore>,
    /// Store objects, wherever they are.
    pub(crate) objects: Objects,
    /// Who signs what the stores tell of their builds.
    pub(crate) signer: Signer,
    /// Where HTTP is listened on, with its scheme; none when it is off.
    pub(crate) address: Option<String>,
    pub(crate) stop: Shutdown,
    /// Evaluations whose client may still send jobs.
    pub(crate) attendance: Attendance,
    /// Connections that keep what open evaluations need from being collected.
    pub(crate) holders: Holders,
    /// Who tells forges of verdicts.
    pub(crate) outbox: Outbox,
    /// Clients that wait for builds.
    pub(crate) requests: Requests,
    /// Evaluations that got jobs or changed their state. Lossy: who lags looks again.
    pub(crate) evaluations_changed: broadcast::Sender<EvaluationId>,
}

/// A store builds run on, and the connections to it.
#[derive(Debug)]
pub(crate) struct BuildStore {
    pub(crate) id: StoreId,
    /// As it was at the start; `slots` and `cores` may have changed since.
    pub(crate) config: config::Store,
    pub(crate) remote: Remote,
    /// The connections of the doors.
    pub(crate) readers: Readers,
    /// What it told of itself last.
    pub(crate) told: Told,
    /// One permit: who uploads. Two evaluations that share a closure must not upload it twice at once.
    pub(crate) uploading: Semaphore,
    /// What was sent there or found there; only a hint, for others collect it too.
    pub(crate) has: Memory,
}

impl Core {
    /// What the configuration says now, and what was made of it. Who asks twice may hear of two configurations.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.live.now()
    }

    /// The store of this number; the numbers are those of the configuration.
    pub(crate) fn store(&self, id: StoreId) -> Option<&BuildStore> {
        self.stores.get(usize::from(id.0))
    }

    /// The address of an evaluation's page.
    pub(crate) fn page_of(&self, evaluation: EvaluationId) -> Option<String> {
        let settings = self.settings();
        settings
            .pages
            .as_ref()
            .map(|pages| format!("{pages}/e/{}", evaluation.0))
    }

    /// Tells those who watch that an evaluation changed other than through its builds.
    pub(crate) fn announce(&self, evaluation: EvaluationId) {
        // An error only says that nobody watches.
        drop(self.evaluations_changed.send(evaluation));
    }

    /// What is recorded at the end of an attempt; a failure that is remembered gets its expiry.
    pub(crate) fn end(&self, result: AttemptResult, message: String, log_lines: u64) -> AttemptEnd {
        let kept = Millis::try_from(self.settings().config.retention.failures.as_millis()).unwrap_or(Millis::MAX);
        let expires = match result {
            AttemptResult::Failed(class) if class.is_remembered() => Some(now().saturating_add(kept)),
            AttemptResult::Failed(_) | AttemptResult::Succeeded(_) | AttemptResult::Cancelled => None,
        };
        AttemptEnd {
            result,
            message,
            log_lines,
            expires,
        }
    }
}

/// The time, for records.
pub(crate) fn now() -> Millis {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| Millis::try_from(since.as_millis()).unwrap_or(Millis::MAX))
}
