//! What systemd is told: starting takes its time, ready, still alive, reloading, stopping. Without systemd nothing happens.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};
use tracing::warn;

use crate::scheduler::Scheduler;

/// How long the service manager waits for the next word of a start that takes long.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often it gets one.
const WORD: Duration = Duration::from_secs(20);
/// So many words, an hour, are all it gets: a start that hangs is ended some time.
const WORDS: u32 = 180;
/// What a stop may take besides what its connections and builds may: what is in memory is written down.
const CLOSING: Duration = Duration::from_mins(1);

/// Asks for more time, beyond `TimeoutStartSec=`, until the returned value is dropped: migrations and a long queue take
/// minutes. Needs a Tokio runtime.
pub(crate) fn starting() -> Option<DropGuard> {
    std::env::var_os("NOTIFY_SOCKET")?;
    tell(&[NotifyState::Status("opening the state"), more_time(PATIENCE)]);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        let mut beat = interval(WORD);
        beat.tick().await;
        for _ in 0..WORDS {
            if stopped.run_until_cancelled(beat.tick()).await.is_none() {
                return;
            }
            tell(&[more_time(PATIENCE)]);
        }
    });
    Some(stop.drop_guard())
}

/// Says that connections are accepted, or accepted as before after a reload.
pub(crate) fn ready(status: &str) {
    tell(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the configuration is being read again. [`ready`] is to follow.
pub(crate) fn reloading() {
    match NotifyState::monotonic_usec_now() {
        // The time is what systemd from 253 on knows the answer to its signal by.
        Ok(now) => tell(&[
            NotifyState::Reloading,
            now,
            NotifyState::Status("reloading the configuration"),
        ]),
        Err(error) => warn!(%error, "failed to read the clock: {error}"),
    }
}

/// Says that the stop has begun, and that connections and builds may take until `deadline`, longer than
/// `TimeoutStopSec=` though that may be.
pub(crate) fn stopping(deadline: Duration) {
    tell(&[NotifyState::Stopping, more_time(deadline.saturating_add(CLOSING))]);
}

fn more_time(time: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(u32::try_from(time.as_micros()).unwrap_or(u32::MAX))
}

fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        warn!(%error, "failed to notify the service manager: {error}");
    }
}

/// Answers the watchdog for as long as the scheduler, the one task everything depends on, answers too. Between two answers
/// is at most three quarters of the limit.
pub(crate) async fn watchdog(scheduler: Scheduler, stop: CancellationToken) {
    // Of this process; a limit of nothing is none.
    let Some(limit) = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero()) else {
        return;
    };
    let mut beat = interval((limit / 2).max(Duration::from_millis(1)));
    beat.set_missed_tick_behavior(MissedTickBehavior::Skip);
    while stop.run_until_cancelled(beat.tick()).await.is_some() {
        let answered = timeout(limit / 4, scheduler.live(Vec::new())).await;
        if answered.is_ok() {
            tell(&[NotifyState::Watchdog]);
        } else {
            warn!("the scheduler did not answer within a quarter of the watchdog's limit");
        }
    }
}
