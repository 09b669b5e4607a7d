//! Logs as clients see them: whose log it is, its lines, how it ended.

use std::time::Duration;

use nixci_protocol::nixci::control::{LogEvent, LogOf};
use nixci_protocol::nixci::outcome::{Outcome, Success};
use nixci_protocol::types::StorePath;
use nixci_store::index::attempts::{self, AttemptResult, AttemptRow};
use nixci_store::index::{self, DrvId, derivations, jobs, outcomes};
use nixci_store::logs::Entry;
use rusqlite::Connection;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::warn;

use crate::ci::Ci;
use crate::error::{CiError, told};

/// Events that wait for a slow reader.
const EVENTS: usize = 256;
/// Derivations that make one output and are looked at for a log.
const MAKERS: u32 = 16;
/// How often the record of an attempt is looked at between the end of its log and its own.
const LOOK: Duration = Duration::from_millis(20);

/// Starts sending a log. It ends with the attempt, with its reader, or with the daemon.
pub(crate) async fn stream(ci: &Ci, of: &LogOf, follow: bool) -> Result<ReceiverStream<LogEvent>, CiError> {
    let attempt = attempt_of(ci, of).await?;
    let drv = attempt.drv;
    let path = ci
        .core
        .index
        .read(move |conn| derivations::paths(conn, &[drv]))
        .await?
        .pop();
    let drv_path = path.map_or_else(String::new, |path| ci.core.config.store_dir.display(&path).to_string());
    let (sender, events) = mpsc::channel(EVENTS);
    let (ci, stop) = (ci.clone(), ci.core.stop.connections.clone());
    tokio::spawn(async move {
        let sending = async {
            tokio::select! {
                result = send(&ci, attempt, drv_path, follow, &sender) => result,
                () = sender.closed() => Ok(()),
            }
        };
        if let Some(Err(error)) = stop.run_until_cancelled(sending).await {
            warn!("failed to send a log: {}", told(&error));
        }
    });
    Ok(ReceiverStream::new(events))
}

async fn send(
    ci: &Ci,
    attempt: AttemptRow,
    drv_path: String,
    follow: bool,
    sender: &mpsc::Sender<LogEvent>,
) -> Result<(), CiError> {
    let id = attempt.id;
    let begin = LogEvent::Attempt {
        attempt: id,
        drv_path,
        store: attempt.store,
        started: attempt.started,
    };
    if sender.send(begin).await.is_err() {
        return Ok(());
    }
    let mut log = if follow {
        ci.core.logs.follow(id)
    } else {
        ci.core.logs.read(id)
    };
    loop {
        let entry = match log.next().await {
            Ok(Some(entry)) => entry,
            Ok(None) => break,
            Err(error) => {
                warn!(attempt = id.0, "failed to read a log: {}", told(&error));
                let text = format!("nixci: the log cannot be read: {}", told(&error));
                drop(sender.send(LogEvent::Line { text }).await);
                break;
            }
        };
        let remark = entry.remark();
        let event = match entry {
            Entry::Line(text) => LogEvent::Line { text },
            Entry::Phase(name) => LogEvent::Phase { name },
            Entry::Truncated { .. } | Entry::Unwritten | Entry::Broken => LogEvent::Line {
                text: remark.unwrap_or_default(),
            },
        };
        if sender.send(event).await.is_err() {
            return Ok(());
        }
    }
    loop {
        let row = ci.core.index.read(move |conn| attempts::get(conn, id)).await?;
        let Some(row) = row else { return Ok(()) };
        if let Some(result) = row.result {
            let outcome = match result {
                AttemptResult::Succeeded(how) => Outcome::Succeeded { how },
                AttemptResult::Failed(class) => Outcome::Failed { class },
                AttemptResult::Cancelled => Outcome::Cancelled,
            };
            drop(sender.send(LogEvent::End { outcome }).await);
            return Ok(());
        }
        if !follow {
            return Ok(());
        }
        // The log ends a moment before the attempt is recorded.
        tokio::time::sleep(LOOK).await;
    }
}

/// The attempt whose log is meant.
pub(crate) async fn attempt_of(ci: &Ci, of: &LogOf) -> Result<AttemptRow, CiError> {
    let index = &ci.core.index;
    match of {
        LogOf::Attempt(id) => {
            let id = *id;
            let row = index.read(move |conn| attempts::get(conn, id)).await?;
            row.ok_or_else(|| CiError::NotFound(format!("there is no attempt {}", id.0)))
        }
        LogOf::Derivation(text) => {
            let path = ci
                .core
                .config
                .store_dir
                .parse(text)
                .map_err(|error| CiError::Invalid(told(&error)))?;
            let row = index.read(move |conn| of_path(conn, &path)).await?;
            row.ok_or_else(|| CiError::NotFound(format!("{text} has not been tried here, so it has no log")))
        }
        LogOf::Job { which, attr } => {
            let evaluation = ci.reader().find(which).await?.id;
            let wanted = attr.clone();
            let job = index.read(move |conn| jobs::one(conn, evaluation, &wanted)).await?;
            let Some(job) = job else {
                return Err(CiError::NotFound(format!(
                    "evaluation {} has no job {attr}",
                    evaluation.0
                )));
            };
            let Some((drv, _)) = job.drv else {
                return Err(CiError::NotFound(format!(
                    "job {attr} failed to evaluate, so it has no log: {}",
                    job.error.unwrap_or_default()
                )));
            };
            let row = index.read(move |conn| of_job(conn, drv)).await?;
            row.ok_or_else(|| CiError::NotFound(format!("job {attr} has not been tried yet, so it has no log")))
        }
    }
}

fn of_path(conn: &Connection, path: &StorePath) -> index::Result<Option<AttemptRow>> {
    match derivations::ids(conn, std::slice::from_ref(path))?.first() {
        Some(Some(drv)) => last(conn, *drv),
        Some(None) | None => Ok(None),
    }
}

/// The attempt at a derivation, or at one that makes this output.
pub(crate) fn of_object(conn: &Connection, path: &StorePath) -> index::Result<Option<AttemptRow>> {
    if path.is_derivation() {
        return of_path(conn, path);
    }
    for drv in derivations::makers(conn, path, MAKERS)? {
        if let Some(attempt) = last(conn, drv)? {
            return Ok(Some(attempt));
        }
    }
    Ok(None)
}

fn of_job(conn: &Connection, drv: DrvId) -> index::Result<Option<AttemptRow>> {
    let blocked = outcomes::blocked_by(conn, &[drv])?;
    match blocked.get(&drv).and_then(|causes| causes.first()) {
        Some(cause) => last(conn, *cause),
        None => last(conn, drv),
    }
}

/// The last attempt; where that only found the outputs there, the one that made them.
fn last(conn: &Connection, drv: DrvId) -> index::Result<Option<AttemptRow>> {
    let mut all = attempts::of(conn, drv)?.into_iter();
    let Some(newest) = all.next() else { return Ok(None) };
    if newest.result != Some(AttemptResult::Succeeded(Success::AlreadyValid)) {
        return Ok(Some(newest));
    }
    let maker = all.find(|attempt| attempt.result == Some(AttemptResult::Succeeded(Success::Built)));
    Ok(Some(maker.unwrap_or(newest)))
}
