//! A whole evaluation in one message.

use std::sync::Arc;

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState, NewJob, Submission};
use nixci_store::index::evaluations;
use nixci_store::index::jobs as rows;
use rusqlite::Transaction;
use tracing::info;

use super::jobs::{Placed, Wanted, fits};
use super::{check, complete, confirm, given_up};
use crate::core::{Core, now};
use crate::error::CiError;
use crate::principal::Principal;

/// Opens an evaluation, adds its jobs and closes it, in one change; returns it, and whether it was begun before.
///
/// One of the same key that is complete stays as it is, whatever the jobs: the answer to the first time was lost.
/// Not to be cut off between the change and what the scheduler is told of it: callers spawn it.
pub(crate) async fn whole(
    core: Arc<Core>,
    who: Principal,
    submission: Submission,
    jobs: Vec<NewJob>,
    error: Option<String>,
) -> Result<(EvaluationId, bool), CiError> {
    check(&submission)?;
    confirm::admit(&core, &who, &submission).await?;
    let wanted = Wanted::read(&core, jobs).await?;
    let (in_core, principal, at) = (core.clone(), who.name().to_owned(), now());
    let record = move |tx: &Transaction<'_>| {
        // All that may be refused comes before the first change, since an error for the client keeps the changes.
        let known = evaluations::by_key(tx, &submission.key)?;
        let before = match &known {
            None => 0,
            Some(row) => match row.state {
                EvaluationState::Receiving => rows::count(tx, row.id)?,
                EvaluationState::Building | EvaluationState::Done | EvaluationState::Cancelled => {
                    // Fails where the key is of something else.
                    let (id, resumed) = evaluations::begin(tx, &submission, &principal, at)?;
                    return Ok(Ok((id, resumed, None)));
                }
                EvaluationState::Abandoned => return Ok(Err(given_up(row.id))),
            },
        };
        let Placed { rows, roots } = match wanted.place(tx)? {
            Ok(placed) => placed,
            Err(refused) => return Ok(Err(refused)),
        };
        if let Err(refused) = fits(&in_core, before, &rows) {
            return Ok(Err(refused));
        }
        let (id, resumed) = evaluations::begin(tx, &submission, &principal, at)?;
        rows::add(tx, id, &rows)?;
        if error.is_some() {
            evaluations::set_error(tx, id, error.as_deref())?;
        }
        evaluations::set_state(tx, id, EvaluationState::Building, at)?;
        let row = evaluations::get(tx, id)?;
        Ok(Ok((id, resumed, row.map(|row| (row, roots)))))
    };
    let (evaluation, resumed, recorded) = core.index.write_durable(record).await??;
    if !resumed {
        info!(
            evaluation = evaluation.0,
            principal = who.name(),
            "evaluation {} begins, whole",
            evaluation.0
        );
    }
    if let Some((row, roots)) = recorded {
        complete(&core, &row, roots).await?;
    }
    Ok((evaluation, resumed))
}
