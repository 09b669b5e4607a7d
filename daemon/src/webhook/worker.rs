//! Does what deliveries ask for, one after the other, in the order in which they came.
//!
//! What a delivery changes in the index is written together with the note that it is done; what it does besides (to
//! restart, to cancel) can be done twice. So a daemon that is killed anywhere in between does it again, with the same effect.

use std::time::Duration;

use nixci_protocol::nixci::control::Millis;
use nixci_store::index::deliveries::{self, DeliveryRow, Outcome};
use nixci_store::index::{pull_requests, pushes};
use tokio::time::{Instant, sleep, sleep_until};
use tracing::{debug, info, warn};

use super::handle::{self, Change, Settled};
use super::{Hooks, metrics};
use crate::ci::Ci;
use crate::core::now;
use crate::error::{CiError, told};
use crate::steer;
use crate::submit::superseded;

/// For how long a delivery is known, so that it is not taken twice: longer than any forge offers to send one again.
pub(super) const REMEMBERED: Duration = Duration::from_hours(30 * 24);
/// For how long closed pull requests are known.
const CLOSED: Duration = Duration::from_hours(365 * 24);
/// How often old rows are forgotten.
const FORGET_EVERY: Duration = Duration::from_hours(1);
/// Rows that are forgotten in one transaction.
const FORGET_AT_ONCE: u32 = 1_000;
/// Deliveries that are fetched at once.
const BATCH: u32 = 64;
/// How often a delivery is tried before it is given up: over about 17 minutes.
const TRIES: u32 = 10;
/// The pause after the first failure; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The pause when the queue itself cannot be read.
const QUEUE_PAUSE: Duration = Duration::from_secs(5);

/// Handles deliveries until the daemon stops. What is under way then is finished or done again after the next start.
pub(crate) async fn run(ci: Ci, hooks: Hooks) {
    let stop = ci.core.stop.accepting.clone();
    let mut forget_at = Instant::now();
    while !stop.is_cancelled() {
        if Instant::now() >= forget_at {
            forget_at = Instant::now() + FORGET_EVERY;
            if let Err(error) = forget(&ci).await {
                warn!("failed to forget old webhook deliveries: {}", told(&error));
            }
        }
        let pause = match round(&ci).await {
            Ok(0) => until_next(&ci).await,
            Ok(_) => Ok(Some(Duration::ZERO)),
            Err(error) => Err(error),
        };
        let until = match pause {
            Ok(Some(pause)) if pause.is_zero() => continue,
            Ok(pause) => pause.map_or(forget_at, |pause| forget_at.min(Instant::now() + pause)),
            Err(error) => {
                warn!("failed to read the queue of webhook deliveries: {}", told(&error));
                stop.run_until_cancelled(sleep(QUEUE_PAUSE)).await;
                continue;
            }
        };
        // A permit is kept while nobody waits, so that what is queued meanwhile is seen.
        tokio::select! {
            () = hooks.queued.notified() => {}
            () = sleep_until(until) => {}
            () = stop.cancelled() => {}
        }
    }
}

/// How long until one that failed is to be tried again.
async fn until_next(ci: &Ci) -> Result<Option<Duration>, CiError> {
    let at = ci.core.index.read(deliveries::next_retry).await?;
    Ok(at.map(|at| Duration::from_millis(u64::try_from(at.saturating_sub(now())).unwrap_or(0))))
}

/// Handles what may be handled now, a bounded part of it, and says how many those were.
async fn round(ci: &Ci) -> Result<usize, CiError> {
    let at = now();
    let due = ci.core.index.read(move |conn| deliveries::due(conn, at, BATCH)).await?;
    let count = due.len();
    for row in due {
        if ci.core.stop.accepting.is_cancelled() {
            break;
        }
        one(ci, row).await?;
    }
    Ok(count)
}

async fn one(ci: &Ci, row: DeliveryRow) -> Result<(), CiError> {
    let index = &ci.core.index;
    let id = row.id;
    // First of all, so that one at which the daemon dies is not tried for ever.
    index.write(move |tx| deliveries::trying(tx, id)).await?;
    let result = if row.tries >= TRIES {
        Ok(Settled::failed(format!("given up after {TRIES} tries")))
    } else {
        handle::handle(ci, &row).await
    };
    let settled = match result {
        Ok(settled) => settled,
        Err(CiError::Stopping) => return Ok(()),
        Err(error @ (CiError::Index(_) | CiError::Spool(_))) if row.tries + 1 < TRIES => {
            let why = told(&error);
            let pause = FIRST_PAUSE.saturating_mul(1 << row.tries.min(16));
            warn!(
                forge = row.forge,
                delivery = id.0,
                "failed to handle {} of `{}`: {why}; it is tried again in {} s",
                row.event,
                row.forge,
                pause.as_secs()
            );
            metrics::retried(&row.forge);
            let retry_at = now().saturating_add(Millis::try_from(pause.as_millis()).unwrap_or(Millis::MAX));
            return Ok(index.write(move |tx| deliveries::again(tx, id, &why, retry_at)).await?);
        }
        Err(CiError::NotFound(why) | CiError::Conflict(why)) => Settled::ignored(why),
        Err(error) => Settled::failed(told(&error)),
    };
    finish(ci, row, settled).await
}

/// Writes what a delivery changes, and that it is done, in one transaction, with which evaluations are cancelled by it.
async fn finish(ci: &Ci, row: DeliveryRow, settled: Settled) -> Result<(), CiError> {
    let Settled { outcome, text, changes } = settled;
    let (id, settings) = (row.id, ci.core.settings());
    let written = ci.core.index.write(move |tx| {
        let (mut text, mut cancelled) = (text, Vec::new());
        for change in &changes {
            match change {
                Change::PullRequest(news) => {
                    pull_requests::put(tx, &news.row)?;
                    cancelled = superseded::sweep(tx, &settings.config.projects, news, now())?;
                    text = format!("{text}; evaluations cancelled: {}", cancelled.len());
                }
                Change::FormerHead(row, head) => pull_requests::left(tx, row, head)?,
                Change::Push(row) => pushes::add(tx, row)?,
            }
        }
        deliveries::done(tx, id, outcome, &text, now())?;
        Ok((text, cancelled))
    });
    let (text, cancelled) = written.await?;
    for evaluation in cancelled {
        // A daemon that ends in between comes back without them.
        steer::stop(&ci.core, evaluation).await?;
    }
    metrics::done(&row.forge, outcome);
    let DeliveryRow {
        forge, event, number, ..
    } = row;
    match outcome {
        Outcome::Handled => info!(forge, event, number, "webhook of `{forge}`, {event}: {text}"),
        Outcome::Ignored => debug!(forge, event, number, "ignored a webhook of `{forge}`, {event}: {text}"),
        Outcome::Failed => warn!(forge, event, number, "gave up a webhook of `{forge}`, {event}: {text}"),
    }
    Ok(())
}

/// Forgets what is too old to come again.
async fn forget(ci: &Ci) -> Result<(), CiError> {
    let before = |age: Duration| now().saturating_sub(Millis::try_from(age.as_millis()).unwrap_or(Millis::MAX));
    let (remembered, closed) = (before(REMEMBERED), before(CLOSED));
    loop {
        let gone = ci.core.index.write(move |tx| {
            let gone = deliveries::prune(tx, remembered, FORGET_AT_ONCE)?;
            let gone = gone.max(pushes::prune(tx, remembered, FORGET_AT_ONCE)?);
            Ok(gone.max(pull_requests::prune(tx, closed, FORGET_AT_ONCE)?))
        });
        if gone.await? < FORGET_AT_ONCE as usize || ci.core.stop.accepting.is_cancelled() {
            return Ok(());
        }
    }
}
