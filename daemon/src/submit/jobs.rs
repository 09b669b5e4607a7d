//! Jobs on their way into the index: their derivations must be here.

use std::collections::HashSet;
use std::sync::Arc;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{Accepted, Evaluated, EvaluationId, EvaluationState, NewJob};
use nixci_protocol::types::StorePath;
use nixci_store::index::evaluations::{self, EvaluationRow};
use nixci_store::index::jobs::{self as rows, JobRow};
use nixci_store::index::{self, DrvId, derivations};
use nixci_store::spool::Lease;
use rusqlite::{Connection, Transaction};

use super::{given_up, submitted, superseded};
use crate::adopt;
use crate::core::Core;
use crate::error::{CiError, told};
use crate::scheduler::Root;

/// Derivations named in an error about missing ones.
const NAMED: usize = 5;

/// Jobs whose paths were read.
pub(super) struct Wanted {
    core: Arc<Core>,
    jobs: Vec<(AttrPath, Result<StorePath, String>)>,
    /// What is looked at stays until the evaluation needs it: without that a collection which begins now could take
    /// what it does not find in the index yet.
    lease: Lease,
}

/// Jobs as rows, and what the scheduler has to know of them.
pub(super) struct Placed {
    pub(super) rows: Vec<JobRow>,
    pub(super) roots: Vec<Root>,
}

impl Wanted {
    /// Reads the paths, and takes derivations that are in the spool alone into the graph.
    pub(super) async fn read(core: &Arc<Core>, new: Vec<NewJob>) -> Result<Self, CiError> {
        let mut jobs = Vec::with_capacity(new.len());
        for job in new {
            jobs.push(match job.result {
                Evaluated::Drv(text) => (job.attr, Ok(derivation_path(core, &text)?)),
                Evaluated::Error(message) => (job.attr, Err(message)),
            });
        }
        let this = Self {
            core: core.clone(),
            jobs,
            lease: core.spool.lease(),
        };
        let in_use = this.lease.busy();
        adopt::adopt(core, this.paths())
            .await
            .map_err(|error| CiError::Invalid(told(&error)))?;
        drop(in_use);
        Ok(this)
    }

    fn paths(&self) -> Vec<StorePath> {
        (self.jobs.iter())
            .filter_map(|(_, drv)| drv.as_ref().ok().cloned())
            .collect()
    }

    /// Finds the derivations, which must all be here. Changes nothing.
    ///
    /// The outer error is the index's, the inner one what the client is told.
    pub(super) fn place(self, conn: &Connection) -> index::Result<Result<Placed, CiError>> {
        let paths = self.paths();
        let _in_use = self.lease.busy();
        let ids = derivations::ids(conn, &paths)?;
        let known: Vec<DrvId> = ids.iter().flatten().copied().collect();
        let needs = derivations::requirements(conn, &known)?;
        let mut roots = Vec::with_capacity(known.len());
        // The graph remembers derivations that were collected.
        let is_here: HashSet<DrvId> = (ids.iter().zip(&paths))
            .filter_map(|(id, path)| id.filter(|_| self.core.spool.contains(path)))
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
            let lacking = (paths.iter().zip(&ids))
                .filter(|(_, id)| id.is_none_or(|id| !here.contains(&id)))
                .map(|(path, _)| self.core.config.store_dir.display(path).to_string());
            return Ok(Err(missing(lacking.collect())));
        }
        let mut ids = ids.into_iter().flatten().zip(paths);
        let rows = self.jobs.into_iter().map(|(attr, drv)| match drv {
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
        });
        let rows = rows.collect();
        Ok(Ok(Placed { rows, roots }))
    }
}

/// Refuses more jobs than an evaluation may have.
pub(super) fn fits(core: &Core, before: u64, rows: &[JobRow]) -> Result<(), CiError> {
    let limit = core.settings().config.limits.jobs;
    if before + rows.len() as u64 > limit {
        return Err(CiError::TooMuch(format!(
            "an evaluation can have at most {limit} jobs (`jobs` in [limits])"
        )));
    }
    Ok(())
}

/// Adds jobs. All derivations must be known here, with their closures.
pub(crate) async fn jobs(core: &Arc<Core>, evaluation: EvaluationId, new: Vec<NewJob>) -> Result<Accepted, CiError> {
    let wanted = Wanted::read(core, new).await?;
    let in_core = core.clone();
    let add = move |tx: &Transaction<'_>| {
        let row = match receiving(tx, evaluation)? {
            Ok(row) => row,
            Err(refused) => return Ok(Err(refused)),
        };
        let Placed { rows, roots } = match wanted.place(tx)? {
            Ok(placed) => placed,
            Err(refused) => return Ok(Err(refused)),
        };
        if let Err(refused) = fits(&in_core, rows::count(tx, evaluation)?, &rows) {
            return Ok(Err(refused));
        }
        let count = rows::add(tx, evaluation, &rows)?;
        Ok(Ok((row, roots, count)))
    };
    let (row, roots, jobs) = core.index.write_durable(add).await??;
    core.attendance.expect(evaluation);
    submitted(core, &row, roots).await?;
    core.announce(evaluation);
    Ok(Accepted { jobs })
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
        EvaluationState::Building | EvaluationState::Done => Err(CiError::Conflict(format!(
            "evaluation {} takes no more jobs: it was closed",
            evaluation.0
        ))),
        EvaluationState::Cancelled => Err(cancelled(&row)),
        EvaluationState::Abandoned => Err(given_up(evaluation)),
    })
}

fn cancelled(row: &EvaluationRow) -> CiError {
    let number = row.id.0;
    CiError::Conflict(match row.submission.labels.get(superseded::REASON) {
        Some(why) => {
            format!("evaluation {number} was cancelled: {why}; `nixci submit --again` submits it all the same")
        }
        None => format!("evaluation {number} takes no more jobs: it was cancelled"),
    })
}
