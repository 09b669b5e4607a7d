//! A whole evaluation in one message.

use std::sync::Arc;

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState, NewJob, Submission};
use nixci_store::index::evaluations;
use nixci_store::index::jobs as rows;
use rusqlite::Transaction;

use super::jobs::{Placed, Wanted, fits};
use super::{Admitted, check, complete, confirm, given_up, open};
use crate::core::{Core, now};
use crate::error::CiError;
use crate::principal::Principal;

/// Opens an evaluation, adds its jobs and closes it, in one change; returns it, and whether it was begun before.
///
/// One of the same key that is complete stays as it is, whatever the jobs: the answer to the first time was lost.
/// One that is [superseded](super::superseded) is recorded with its jobs and cancelled.
/// Not to be cut off between the change and what the scheduler is told of it: callers spawn it.
pub(crate) async fn whole(
    core: Arc<Core>,
    who: Principal,
    submission: Submission,
    jobs: Vec<NewJob>,
    error: Option<String>,
) -> Result<(EvaluationId, bool), CiError> {
    check(&submission)?;
    let Admitted { submission, standing } = confirm::admit(&core, &who, submission).await?;
    let wanted = Wanted::read(&core, jobs).await?;
    let (in_core, principal, at) = (core.clone(), who.name().to_owned(), now());
    let record = move |tx: &Transaction<'_>| {
        let settings = in_core.settings();
        let open = |tx| open(tx, &settings.config.projects, &submission, standing, &principal, at);
        // All that may be refused comes before the first change, since an error for the client keeps the changes.
        let known = evaluations::by_key(tx, &submission.key)?;
        let before = match &known {
            None => 0,
            Some(row) => match row.state {
                EvaluationState::Receiving => rows::count(tx, row.id)?,
                EvaluationState::Building | EvaluationState::Done | EvaluationState::Cancelled => {
                    // Fails where the key is of something else.
                    let opened = open(tx)?;
                    return Ok(Ok((opened, None)));
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
        let opened = open(tx)?;
        let id = opened.evaluation;
        rows::add(tx, id, &rows)?;
        if error.is_some() {
            evaluations::set_error(tx, id, error.as_deref())?;
        }
        if opened.superseded.is_some() {
            return Ok(Ok((opened, None)));
        }
        evaluations::set_state(tx, id, EvaluationState::Building, at)?;
        let row = evaluations::get(tx, id)?;
        Ok(Ok((opened, row.map(|row| (row, roots)))))
    };
    let (opened, recorded) = core.index.write_durable(record).await??;
    if !opened.resumed {
        opened.log(&who, ", whole");
        if opened.superseded.is_some() {
            core.announce(opened.evaluation);
        }
    }
    if let Some((row, roots)) = recorded {
        complete(&core, &row, roots).await?;
    }
    Ok((opened.evaluation, opened.resumed))
}
