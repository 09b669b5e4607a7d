//! After a stop of any kind: back to the same queue.

use nixci_protocol::nixci::control::EvaluationState;
use nixci_store::index::evaluations::EvaluationRow;
use nixci_store::index::{self, DrvId, attempts, derivations, evaluations, jobs};
use tracing::{info, warn};

use crate::core::{Core, now};
use crate::error::{CiError, told};
use crate::scheduler::Root;
use crate::submit;

/// Ends the attempts a stop has cut off and gives every open evaluation to the scheduler again. What the
/// stores finished meanwhile is found valid when they are asked.
pub(crate) async fn recover(core: &Core) -> Result<(), CiError> {
    let at = now();
    let requeued = core.index.write(move |tx| attempts::requeue_running(tx, at)).await?;
    let open = core.index.read(evaluations::open).await?;
    if requeued > 0 || !open.is_empty() {
        info!(
            requeued,
            open = open.len(),
            "going on with {} open evaluations; {requeued} builds were cut off and are queued again",
            open.len()
        );
    }
    for row in open {
        let evaluation = row.id;
        let roots = core
            .index
            .read(move |conn| roots(conn, &row).map(|roots| (row, roots)))
            .await;
        let (row, roots) = match roots {
            Ok(found) => found,
            Err(error) => {
                warn!(
                    evaluation = evaluation.0,
                    "failed to take up evaluation {}: {}",
                    evaluation.0,
                    told(&error)
                );
                continue;
            }
        };
        submit::submitted(core, &row, roots).await?;
        match row.state {
            EvaluationState::Receiving => core.attendance.expect(evaluation),
            EvaluationState::Building => {
                core.scheduler.closed(evaluation).await.map_err(|_| CiError::Stopping)?;
            }
            EvaluationState::Done | EvaluationState::Cancelled | EvaluationState::Abandoned => {}
        }
    }
    Ok(())
}

/// What an evaluation asks for, as the scheduler takes it.
pub(crate) fn roots(conn: &rusqlite::Connection, row: &EvaluationRow) -> index::Result<Vec<Root>> {
    let drvs: Vec<DrvId> = jobs::of(conn, row.id)?
        .into_iter()
        .filter_map(|job| job.drv.map(|(id, _)| id))
        .collect();
    roots_of(conn, &drvs)
}

/// Derivations as the scheduler takes them; those that were only ever mentioned are left out.
pub(crate) fn roots_of(conn: &rusqlite::Connection, drvs: &[DrvId]) -> index::Result<Vec<Root>> {
    let needs = derivations::requirements(conn, drvs)?;
    Ok(drvs
        .iter()
        .zip(needs)
        .filter_map(|(drv, needs)| {
            needs.map(|needs| Root {
                drv: *drv,
                system: needs.system.into(),
                features: needs.features.into(),
            })
        })
        .collect())
}
