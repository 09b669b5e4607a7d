//! Retention: old evaluations are forgotten, and what nobody needs any more goes.
//!
//! First the index: evaluations beyond `[retention]` with their jobs, then the failures and logs of attempts that no
//! evaluation needs. Then the spool: what is left of evaluations are the roots, and connections keep what they were
//! told is valid ([`nixci_store::spool::Lease`]). Compressed NARs go by themselves, the least recently used first.
//!
//! All of it is done a bounded part at a time, beside everything else; dropping the future ends it after the part
//! that is under way.

use std::fs::File;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixci_protocol::nixci::control::{AttemptId, Collected, Millis};
use nixci_store::index::prune::{self, Keep};
use tracing::{info, warn};

use crate::backup;
use crate::core::{Core, now};
use crate::error::{CiError, told};
use crate::http;

/// How long until the next try after a backup was in the way.
const AFTER_BACKUP: Duration = Duration::from_mins(5);
/// How long after the start the first collection comes at the earliest.
const FIRST: Duration = Duration::from_mins(30);
/// The part of an interval by which it may be shorter, so that daemons that start together do not collect together:
/// one of so many.
const JITTER: u32 = 10;
/// Attempts that are forgotten in one transaction.
const ATTEMPTS_AT_ONCE: usize = 4_096;

/// Collects at the configured times, until the daemon stops.
pub(crate) async fn now_and_then(core: Arc<Core>) {
    let stop = core.stop.accepting.clone();
    let mut changes = core.live.changes();
    let mut every = core.settings().config.retention.collect;
    let mut until = every.map(|every| tokio::time::Instant::now() + sooner(every).min(FIRST));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            Ok(()) = changes.changed() => {
                let now = changes.borrow_and_update().config.retention.collect;
                if now != every {
                    every = now;
                    until = every.map(|every| tokio::time::Instant::now() + sooner(every));
                }
                continue;
            }
            () = sleep_until(until) => {}
        }
        until = every.map(|every| tokio::time::Instant::now() + sooner(every));
        match stop.run_until_cancelled(collect(&core, false)).await {
            None | Some(Ok(_)) => {}
            Some(Err(error @ CiError::Conflict(_))) => {
                until = until.map(|until| until.min(tokio::time::Instant::now() + AFTER_BACKUP));
                info!("{error}; it is tried again");
            }
            Some(Err(error)) => warn!(
                "failed to collect what nobody needs: {}; it is tried again",
                told(&error)
            ),
        }
    }
}

async fn sleep_until(at: Option<tokio::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

fn sooner(every: Duration) -> Duration {
    let most = (every / JITTER).as_millis().max(1);
    let random = u128::from(RandomState::new().hash_one(0)) % most;
    every.saturating_sub(Duration::from_millis(u64::try_from(random).unwrap_or(0)))
}

/// Collects, or says what would be collected. Waits while another collection is under way, and is refused while a backup
/// is: that may take as long as where it goes to takes.
pub(crate) async fn collect(core: &Core, dry_run: bool) -> Result<Collected, CiError> {
    let since = Instant::now();
    let turn = if dry_run { None } else { Some(turn(core)?) };
    let settings = core.settings();
    let retention = &settings.config.retention;
    let keep = Keep {
        ended_since: now().saturating_sub(Millis::try_from(retention.evaluations.as_millis()).unwrap_or(Millis::MAX)),
        newest: retention.newest,
    };
    let mut collected = Collected::default();
    let expired = core.index.read(move |conn| prune::expired(conn, keep)).await?;
    collected.evaluations = expired.len() as u64;
    let mut left = expired;
    if !dry_run {
        collected.evaluations = 0;
        for id in std::mem::take(&mut left) {
            let is_gone = core.index.write(move |tx| prune::forget(tx, id, keep)).await?;
            collected.evaluations += u64::from(is_gone);
        }
        forget_attempts(core, keep, &mut collected).await?;
    }
    // What is recorded from now on is kept by whoever records it, and what was recorded before is found.
    let collection = core.spool.collect_holding(turn).await;
    let roots = core.index.read(move |conn| prune::roots(conn, &left)).await?;
    let garbage = collection.mark(roots, retention.uploads).await?;
    let marked = garbage.marked();
    collected.objects_before = marked.objects;
    if dry_run {
        collected.objects = marked.dead;
        collected.nar_bytes = marked.nar_bytes;
        collected.disk_bytes = marked.disk_bytes;
    } else {
        let freed = garbage.sweep().await?;
        collected.objects = freed.objects;
        collected.nar_bytes = freed.nar_bytes;
        collected.disk_bytes = freed.disk_bytes;
    }
    collected.duration_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    if !dry_run {
        http::collected(&collected);
        info!(
            evaluations = collected.evaluations,
            objects = collected.objects,
            bytes = collected.disk_bytes,
            milliseconds = collected.duration_ms,
            "collected {} of {} objects of the spool, {} bytes on disk; forgot {} evaluations and {} bytes of logs",
            collected.objects,
            collected.objects_before,
            collected.disk_bytes,
            collected.evaluations,
            collected.log_bytes
        );
    }
    Ok(collected)
}

/// Keeps backups from beginning while it is held.
fn turn(core: &Core) -> Result<File, CiError> {
    let turn = backup::for_collection(&core.config.state_dir).map_err(|error| {
        CiError::Conflict(format!(
            "failed to lock the spool in {}: {error}; nothing was collected",
            core.config.state_dir.display()
        ))
    })?;
    turn.ok_or_else(|| {
        CiError::Conflict(
            "a backup is being taken, which needs everything that is there; collect again when it is done".to_owned(),
        )
    })
}

/// Forgets what no evaluation needs of attempts. Their logs go first: one without an attempt would never be found.
async fn forget_attempts(core: &Core, keep: Keep, collected: &mut Collected) -> Result<(), CiError> {
    let at = now();
    let attempts: Vec<AttemptId> = core
        .index
        .read(move |conn| prune::unneeded_attempts(conn, keep.ended_since, at))
        .await?;
    for some in attempts.chunks(ATTEMPTS_AT_ONCE) {
        let some = some.to_vec();
        collected.attempts += some.len() as u64;
        collected.log_bytes += core.logs.remove(some.clone()).await;
        core.index.write(move |tx| prune::forget_attempts(tx, &some)).await?;
    }
    Ok(())
}
