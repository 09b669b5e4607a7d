//! What systemd is told: ready, still alive, stopping. Without systemd nothing happens.

use sd_notify::NotifyState;
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::scheduler::Scheduler;

/// Says that connections are accepted.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the stop has begun.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "failed to notify the service manager: {error}");
    }
}

/// Answers the watchdog for as long as the scheduler, the one task everything depends on, answers too.
pub(crate) async fn watchdog(scheduler: Scheduler, stop: CancellationToken) {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut beat = tokio::time::interval(limit / 2);
    while stop.run_until_cancelled(beat.tick()).await.is_some() {
        let answered = tokio::time::timeout(limit / 4, scheduler.live(Vec::new())).await;
        if answered.is_ok() {
            tell(&[NotifyState::Watchdog]);
        } else {
            warn!("the scheduler did not answer within a quarter of the watchdog's limit");
        }
    }
}
