//! Accepting a run: who, which commit, which derivations.
//!
//! Everything is recorded before it is answered, and everything may be said twice: a client that lost
//! its connection begins again with the same key and sends what it is not sure about.

mod attendance;
mod check;
mod confirm;
mod jobs;
pub(crate) mod superseded;
mod whole;

use std::hash::{BuildHasher, Hasher};
use std::sync::Arc;
use std::time::Duration;

use nixci_protocol::nixci::control::{Begun, EvaluationId, EvaluationState, Millis, Submission};
use nixci_store::index;
use nixci_store::index::evaluations;
use nixci_store::index::evaluations::EvaluationRow;
use rusqlite::Transaction;
use tokio::time::Instant;
use tracing::{error, info, warn};

pub(crate) use attendance::{Attendance, Attending};
use check::check;
use confirm::Admitted;
pub(crate) use jobs::jobs;
use superseded::Standing;
pub(crate) use whole::whole;

use crate::config::Project;
use crate::core::{Core, now};
use crate::error::{CiError, told};
use crate::principal::Principal;
use crate::scheduler::{Priority, Root};

/// The label that says that nobody waits: `background`.
const PRIORITY_LABEL: &str = "priority";

/// Opens an evaluation or finds the one of the same key. One that is [`superseded`] is cancelled at once.
pub(crate) async fn begin(core: &Core, who: &Principal, submission: Submission) -> Result<Begun, CiError> {
    check(&submission)?;
    let Admitted { submission, standing } = confirm::admit(core, who, submission).await?;
    let (principal, at, settings) = (who.name().to_owned(), now(), core.settings());
    let opened = core
        .index
        .write_durable(move |tx| open(tx, &settings.config.projects, &submission, standing, &principal, at))
        .await?;
    let evaluation = opened.evaluation;
    if !opened.resumed {
        opened.log(who, "");
        if opened.superseded.is_none() {
            core.attendance.expect(evaluation);
        }
        core.announce(evaluation);
    }
    Ok(Begun {
        evaluation,
        page: core.page_of(evaluation),
        resumed: opened.resumed,
    })
}

/// An evaluation that was begun, now or before.
#[derive(Debug)]
struct Opened {
    evaluation: EvaluationId,
    resumed: bool,
    /// Why it was cancelled when it was begun.
    superseded: Option<String>,
}

/// Records an evaluation, or finds the one of the same key.
fn open(
    tx: &Transaction<'_>,
    projects: &[Project],
    submission: &Submission,
    standing: Standing,
    principal: &str,
    at: Millis,
) -> index::Result<Opened> {
    let (evaluation, resumed) = evaluations::begin(tx, submission, principal, at)?;
    let superseded = match standing {
        _ if resumed => None,
        Standing::Known(why) => why,
        Standing::AsTold => superseded::told(tx, projects, submission)?,
    };
    if let Some(why) = &superseded {
        superseded::mark(tx, evaluation, why, at)?;
    }
    Ok(Opened {
        evaluation,
        resumed,
        superseded,
    })
}

impl Opened {
    fn log(&self, who: &Principal, how: &str) {
        let (evaluation, principal) = (self.evaluation.0, who.name());
        match &self.superseded {
            None => info!(evaluation, principal, "evaluation {evaluation} begins{how}"),
            Some(why) => info!(
                evaluation,
                principal, "evaluation {evaluation} is cancelled as it begins: {why}"
            ),
        }
    }
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
                EvaluationState::Abandoned => Ok(Err(given_up(evaluation))),
            }
        })
        .await??;
    if let Some(row) = closed {
        // An evaluation without a single derivation is not known to the scheduler yet.
        complete(core, &row, Vec::new()).await?;
    }
    Ok(())
}

/// Hands the last jobs of an evaluation to the scheduler, and says that there are no more.
async fn complete(core: &Core, row: &EvaluationRow, roots: Vec<Root>) -> Result<(), CiError> {
    core.attendance.forget(row.id);
    submitted(core, row, roots).await?;
    core.scheduler.closed(row.id).await.map_err(|_| CiError::Stopping)?;
    core.announce(row.id);
    Ok(())
}

fn given_up(evaluation: EvaluationId) -> CiError {
    CiError::Conflict(format!(
        "evaluation {} was given up because its client was away too long; submit it again with another key",
        evaluation.0
    ))
}

/// How long evaluations whose clients went away are not looked at.
const LONGEST_WAIT: Duration = Duration::from_mins(1);

/// Gives up evaluations whose clients went away and did not return in time.
pub(crate) async fn watch_over(core: Arc<Core>) {
    let limit = || core.settings().config.limits.abandon_after;
    let mut wait = Duration::ZERO;
    while core
        .stop
        .accepting
        .run_until_cancelled(tokio::time::sleep(wait))
        .await
        .is_some()
    {
        // A long limit that is made shorter is heard of soon.
        wait = (limit() / 4).clamp(Duration::from_millis(100), LONGEST_WAIT);
        let Some(before) = Instant::now().checked_sub(limit()) else {
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
