//! Accepting a run: who, which commit, which derivations.
//!
//! Everything is recorded before it is answered, and everything may be said twice: a client that lost
//! its connection begins again with the same key and sends what it is not sure about.

mod attendance;

use std::collections::HashSet;
use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use nixci_protocol::nixci::control::{Accepted, Begun, Evaluated, EvaluationId, EvaluationState, NewJob, Submission};
use nixci_protocol::types::StorePath;
use nixci_store::index::evaluations::EvaluationRow;
use nixci_store::index::jobs::JobRow;
use nixci_store::index::{self, DrvId, derivations, evaluations, jobs};
use tokio::time::Instant;
use tracing::{error, info, warn};

pub(crate) use attendance::{Attendance, Attending};

use crate::adopt;
use crate::core::{Core, now};
use crate::error::{CiError, told};
use crate::principal::Principal;
use crate::scheduler::{Priority, Root};

/// The longest name, key or label in a submission, in bytes.
const TEXT_BYTES: usize = 4_096;
/// Labels of one submission.
const LABELS: usize = 64;
/// Derivations named in an error about missing ones.
const NAMED: usize = 5;

/// The label that says that nobody waits: `background`.
const PRIORITY_LABEL: &str = "priority";

/// Opens an evaluation or finds the one of the same key.
pub(crate) async fn begin(core: &Core, who: &Principal, submission: Submission) -> Result<Begun, CiError> {
    check(&submission)?;
    let (principal, at) = (who.name().to_owned(), now());
    let (evaluation, resumed) = core
        .index
        .write_durable(move |tx| evaluations::begin(tx, &submission, &principal, at))
        .await?;
    if !resumed {
        info!(
            evaluation = evaluation.0,
            principal = who.name(),
            "evaluation {} begins",
            evaluation.0
        );
        core.attendance.expect(evaluation);
        core.announce(evaluation);
    }
    Ok(Begun {
        evaluation,
        page: core.page_of(evaluation),
        resumed,
    })
}

fn check(submission: &Submission) -> Result<(), CiError> {
    if submission.key.is_empty() || submission.project.is_empty() {
        return Err(CiError::Invalid("a submission needs a key and a project".to_owned()));
    }
    let texts = [
        Some(&submission.key),
        Some(&submission.project),
        Some(&submission.source),
    ]
    .into_iter()
    .chain([&submission.commit, &submission.git_ref, &submission.base].map(Option::as_ref))
    .flatten()
    .chain(submission.labels.iter().flat_map(|(name, value)| [name, value]));
    for text in texts {
        if text.len() > TEXT_BYTES {
            return Err(CiError::TooMuch(format!(
                "a text of the submission has {} bytes; at most {TEXT_BYTES} are taken",
                text.len()
            )));
        }
    }
    if submission.labels.len() > LABELS {
        return Err(CiError::TooMuch(format!(
            "the submission has {} labels; at most {LABELS} are taken",
            submission.labels.len()
        )));
    }
    for commit in [&submission.commit, &submission.base].into_iter().flatten() {
        let is_hex = commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || !matches!(commit.len(), 40 | 64) {
            return Err(CiError::Invalid(format!(
                "`{commit}` is not a commit; give all its hexadecimal digits"
            )));
        }
    }
    Ok(())
}

/// Adds jobs. All derivations must be known here, with their closures.
pub(crate) async fn jobs(core: &Core, evaluation: EvaluationId, new: Vec<NewJob>) -> Result<Accepted, CiError> {
    let mut wanted = Vec::with_capacity(new.len());
    for job in new {
        wanted.push(match job.result {
            Evaluated::Drv(text) => (job.attr, Ok(derivation_path(core, &text)?)),
            Evaluated::Error(message) => (job.attr, Err(message)),
        });
    }
    let spooled: Vec<StorePath> = wanted
        .iter()
        .filter_map(|(_, drv)| drv.as_ref().ok().cloned())
        .collect();
    // What is looked at here stays until the evaluation needs it: without that a collection which begins now could
    // take what it does not find in the index yet.
    let lease = core.spool.lease();
    let _in_use = lease.busy();
    let spool = core.spool.clone();
    adopt::adopt(core, spooled)
        .await
        .map_err(|error| CiError::Invalid(told(&error)))?;
    let limit = core.config.limits.jobs;
    let dir = core.config.store_dir.clone();
    let accepted = core
        .index
        .write_durable(move |tx| {
            let row = match receiving(tx, evaluation)? {
                Ok(row) => row,
                Err(refused) => return Ok(Err(refused)),
            };
            let paths: Vec<StorePath> = wanted
                .iter()
                .filter_map(|(_, drv)| drv.as_ref().ok().cloned())
                .collect();
            let ids = derivations::ids(tx, &paths)?;
            let known: Vec<DrvId> = ids.iter().flatten().copied().collect();
            let needs = derivations::requirements(tx, &known)?;
            let mut roots = Vec::with_capacity(known.len());
            // The graph remembers derivations that were collected.
            let is_here: HashSet<DrvId> = ids
                .iter()
                .zip(&paths)
                .filter_map(|(id, path)| id.filter(|_| spool.contains(path)))
                .collect();
            for (drv, needs) in known.iter().zip(needs) {
                if let Some(needs) = needs
                    && is_here.contains(drv)
                {
                    roots.push(Root {
                        drv: *drv,
                        system: needs.system.into(),
                        features: needs.features.into(),
                    });
                }
            }
            if roots.len() != paths.len() {
                let here: HashSet<DrvId> = roots.iter().map(|root| root.drv).collect();
                let lacking = paths
                    .iter()
                    .zip(&ids)
                    .filter(|(_, id)| id.is_none_or(|id| !here.contains(&id)))
                    .map(|(path, _)| dir.display(path).to_string());
                return Ok(Err(missing(lacking.collect())));
            }
            let mut ids = ids.into_iter().flatten().zip(paths);
            let rows: Vec<JobRow> = wanted
                .into_iter()
                .map(|(attr, drv)| match drv {
                    Ok(_) => JobRow {
                        attr,
                        drv: ids.next(),
                        error: None,
                    },
                    Err(message) => JobRow {
                        attr,
                        drv: None,
                        error: Some(message),
                    },
                })
                .collect();
            if jobs::count(tx, evaluation)? + rows.len() as u64 > limit {
                return Ok(Err(CiError::TooMuch(format!(
                    "an evaluation can have at most {limit} jobs (`jobs` in [limits])"
                ))));
            }
            let count = jobs::add(tx, evaluation, &rows)?;
            Ok(Ok((row, roots, count)))
        })
        .await?;
    let (row, roots, jobs) = accepted?;
    core.attendance.expect(evaluation);
    submitted(core, &row, roots).await?;
    core.announce(evaluation);
    Ok(Accepted { jobs })
}

/// Hands jobs to the scheduler.
pub(crate) async fn submitted(core: &Core, row: &EvaluationRow, mut roots: Vec<Root>) -> Result<(), CiError> {
    roots.sort_by_key(|root| root.drv);
    roots.dedup_by_key(|root| root.drv);
    core.scheduler
        .submitted(
            row.id,
            project_number(&row.submission.project),
            priority(&row.submission),
            roots,
        )
        .await
        .map_err(|_| CiError::Stopping)
}

/// What the scheduler shares slots by. It only has to be the same for the same project.
pub(crate) fn project_number(project: &str) -> i64 {
    let mut hasher = foldhash::fast::FixedState::default().build_hasher();
    hasher.write(project.as_bytes());
    hasher.finish().cast_signed()
}

fn priority(submission: &Submission) -> Priority {
    match submission.labels.get(PRIORITY_LABEL).map(String::as_str) {
        Some("background") => Priority::Background,
        Some(_) | None => Priority::Head,
    }
}

fn derivation_path(core: &Core, text: &str) -> Result<StorePath, CiError> {
    let path = core
        .config
        .store_dir
        .parse(text)
        .map_err(|error| CiError::Invalid(told(&error)))?;
    if path.is_derivation() {
        Ok(path)
    } else {
        Err(CiError::Invalid(format!(
            "{text} is not a derivation: its name does not end in .drv"
        )))
    }
}

fn missing(mut lacking: Vec<String>) -> CiError {
    let more = lacking.len().saturating_sub(NAMED);
    lacking.truncate(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    CiError::NotFound(format!(
        "{}{more} not here; upload the derivations and what they need before their jobs",
        lacking.join(", ")
    ))
}

/// The evaluation, if it still takes jobs.
fn receiving(conn: &rusqlite::Connection, evaluation: EvaluationId) -> index::Result<Result<EvaluationRow, CiError>> {
    let Some(row) = evaluations::get(conn, evaluation)? else {
        return Ok(Err(CiError::NotFound(format!(
            "there is no evaluation {}",
            evaluation.0
        ))));
    };
    Ok(match row.state {
        EvaluationState::Receiving => Ok(row),
        EvaluationState::Building | EvaluationState::Done | EvaluationState::Cancelled => Err(CiError::Conflict(
            format!("evaluation {} takes no more jobs: it was closed", evaluation.0),
        )),
        EvaluationState::Abandoned => Err(CiError::Conflict(format!(
            "evaluation {} was given up because its client was away too long; submit it again with another key",
            evaluation.0
        ))),
    })
}

/// Closes an evaluation. One that is closed already stays as it is.
pub(crate) async fn end(core: &Core, evaluation: EvaluationId, error: Option<String>) -> Result<(), CiError> {
    let at = now();
    let closed = core
        .index
        .write_durable(move |tx| {
            let Some(row) = evaluations::get(tx, evaluation)? else {
                return Ok(Err(CiError::NotFound(format!(
                    "there is no evaluation {}",
                    evaluation.0
                ))));
            };
            match row.state {
                EvaluationState::Receiving => {
                    if error.is_some() {
                        evaluations::set_error(tx, evaluation, error.as_deref())?;
                    }
                    evaluations::set_state(tx, evaluation, EvaluationState::Building, at)?;
                    Ok(Ok(Some(row)))
                }
                EvaluationState::Building | EvaluationState::Done | EvaluationState::Cancelled => Ok(Ok(None)),
                EvaluationState::Abandoned => Ok(Err(CiError::Conflict(format!(
                    "evaluation {} was given up because its client was away too long; submit it again with another key",
                    evaluation.0
                )))),
            }
        })
        .await??;
    if let Some(row) = closed {
        core.attendance.forget(evaluation);
        // An evaluation without a single derivation is not known to the scheduler yet.
        submitted(core, &row, Vec::new()).await?;
        core.scheduler.closed(evaluation).await.map_err(|_| CiError::Stopping)?;
        core.announce(evaluation);
    }
    Ok(())
}

/// Gives up evaluations whose clients went away and did not return in time.
pub(crate) async fn watch_over(core: Arc<Core>) {
    let limit = core.config.limits.abandon_after;
    let mut beat = tokio::time::interval((limit / 4).max(Duration::from_millis(100)));
    while core.stop.accepting.run_until_cancelled(beat.tick()).await.is_some() {
        let Some(before) = Instant::now().checked_sub(limit) else {
            continue;
        };
        for evaluation in core.attendance.absent_since(before) {
            abandon(&core, evaluation).await;
        }
    }
}

async fn abandon(core: &Core, evaluation: EvaluationId) {
    let at = now();
    let abandoned = core
        .index
        .write(move |tx| {
            let is_open = evaluations::get(tx, evaluation)?.is_some_and(|row| row.state == EvaluationState::Receiving);
            if is_open {
                evaluations::set_state(tx, evaluation, EvaluationState::Abandoned, at)?;
            }
            Ok(is_open)
        })
        .await;
    match abandoned {
        Ok(true) => {
            warn!(
                evaluation = evaluation.0,
                "evaluation {} is given up: its client is gone", evaluation.0
            );
            // The scheduler is gone only while the daemon stops.
            let _ = core.scheduler.cancel(evaluation).await;
            core.holders.release(evaluation);
            core.announce(evaluation);
        }
        Ok(false) => {}
        Err(error) => {
            error!(
                evaluation = evaluation.0,
                "failed to give up an evaluation: {}",
                told(&error)
            );
            return;
        }
    }
    core.attendance.forget(evaluation);
}
