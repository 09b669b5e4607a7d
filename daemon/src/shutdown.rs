//! Stopping in order: no new connections, uploads parked, builds given back, the index closed.
//!
//! There is one token per stage, so that a later stage still works while an earlier one winds down:
//! an upload that is cut short can still be recorded because the index closes last.

use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

/// The stages of a stop and who takes part in them. Cheap to clone; every clone is the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shutdown {
    /// Cancelled first: listeners close, nothing new begins.
    pub(crate) accepting: CancellationToken,
    /// Cancelled second: connections end after what they are writing.
    pub(crate) connections: CancellationToken,
    /// Cancelled third: running builds are cut off; they are queued again at the next start.
    pub(crate) builds: CancellationToken,
    /// Tasks that listen.
    pub(crate) listeners: TaskTracker,
    /// Tasks that serve one connection each.
    pub(crate) serving: TaskTracker,
    /// Tasks that build, forward or dispatch.
    pub(crate) working: TaskTracker,
}

impl Shutdown {
    /// Runs the stages. What does not end within the deadline is reported and left behind.
    pub(crate) async fn run(&self, deadline: Duration) {
        let until = Instant::now() + deadline;
        self.accepting.cancel();
        wind_down("listeners", &self.listeners, until).await;
        self.connections.cancel();
        wind_down("connections", &self.serving, until).await;
        self.builds.cancel();
        wind_down("builds", &self.working, until).await;
    }
}

async fn wind_down(what: &'static str, tasks: &TaskTracker, until: Instant) {
    tasks.close();
    let left = tasks.len();
    if left > 0 {
        info!(what, left, "waiting for {left} {what} to end");
    }
    if tokio::time::timeout_at(until, tasks.wait()).await.is_err() {
        let left = tasks.len();
        warn!(what, left, "{left} {what} did not end in time and are left behind");
    }
}
