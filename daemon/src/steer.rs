//! Restarting, cancelling, and looking at the stores.

use std::collections::{HashSet, VecDeque};
use std::time::Duration;

use futures_util::future::join_all;
use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{Changed, EvaluationId, EvaluationState, Selector, StoreStatus, Target};
use nixci_protocol::types::StorePath;
use nixci_store::index::evaluations::EvaluationRow;
use nixci_store::index::outcomes::Standing;
use nixci_store::index::{self, DrvId, attempts, derivations, evaluations, jobs, outcomes};
use rusqlite::{Connection, Transaction};
use tracing::info;

use crate::ci::Ci;
use crate::core::{BuildStore, Core, now};
use crate::error::{CiError, told};
use crate::scheduler::Root;
use crate::submit::superseded;
use crate::{advisory, recovery, submit};

/// How long a store is given to answer when it is looked at.
const ANSWER: Duration = Duration::from_secs(5);
/// Derivations looked at above a restarted one to find who wants it.
const ABOVE: usize = 100_000;

/// What a restart found to do.
struct Restart {
    row: EvaluationRow,
    forgotten: Vec<DrvId>,
    roots: Vec<Root>,
    /// How many builds are tried again, or for the first time.
    builds: u64,
}

/// Forgets failures and tries again.
pub(crate) async fn restart(ci: &Ci, what: &Target) -> Result<Changed, CiError> {
    let core = &ci.core;
    let found = match what {
        Target::Evaluation(which) => {
            let row = ci.reader().find(which).await?;
            core.index
                .write_durable(move |tx| {
                    let drvs = drvs_of(tx, row.id)?;
                    let forgotten = failures(tx, &drvs)?;
                    reopen(tx, row, forgotten, &drvs).map(Some)
                })
                .await?
        }
        Target::Derivation(text) => {
            let path = parse(core, text)?;
            let found = core.index.write_durable(move |tx| restart_one(tx, &path)).await?;
            if found.is_none() {
                return Err(CiError::NotFound(format!(
                    "{text} is not known here, or no evaluation wants it"
                )));
            }
            found
        }
    };
    match found {
        Some(found) => go_on(core, found).await,
        None => Ok(Changed { builds: 0 }),
    }
}

/// Forgets what stands in the way of one job of an evaluation, and tries again. Nothing happens where there is no such job,
/// or where it has no derivation.
pub(crate) async fn restart_job(ci: &Ci, evaluation: EvaluationId, attr: &AttrPath) -> Result<Changed, CiError> {
    let core = &ci.core;
    let attr = attr.clone();
    let found = core.index.write_durable(move |tx| {
        let Some(row) = evaluations::get(tx, evaluation)? else {
            return Ok(None);
        };
        let job = jobs::of(tx, evaluation)?.into_iter().find(|job| job.attr == attr);
        let Some((drv, _)) = job.and_then(|job| job.drv) else {
            return Ok(None);
        };
        let forgotten = failures(tx, &[drv])?;
        reopen(tx, row, forgotten, &[drv]).map(Some)
    });
    match found.await? {
        Some(found) => go_on(core, found).await,
        None => Ok(Changed { builds: 0 }),
    }
}

/// Has the scheduler do what a restart found.
async fn go_on(core: &Core, found: Restart) -> Result<Changed, CiError> {
    let Restart {
        row,
        forgotten,
        roots,
        builds,
    } = found;
    if builds == 0 {
        return Ok(Changed { builds });
    }
    info!(evaluation = row.id.0, builds, "restarting {builds} builds");
    core.scheduler.restart(forgotten).await.map_err(|_| CiError::Stopping)?;
    submit::submitted(core, &row, roots).await?;
    match row.state {
        EvaluationState::Receiving => {}
        EvaluationState::Building | EvaluationState::Done | EvaluationState::Cancelled | EvaluationState::Abandoned => {
            core.scheduler.closed(row.id).await.map_err(|_| CiError::Stopping)?;
        }
    }
    core.announce(row.id);
    Ok(Changed { builds })
}

fn parse(core: &Core, text: &str) -> Result<StorePath, CiError> {
    core.config
        .store_dir
        .parse(text)
        .map_err(|error| CiError::Invalid(told(&error)))
}

fn drvs_of(conn: &Connection, evaluation: EvaluationId) -> index::Result<Vec<DrvId>> {
    let jobs = jobs::of(conn, evaluation)?;
    Ok(jobs.into_iter().filter_map(|job| job.drv.map(|(drv, _)| drv)).collect())
}

/// What stands in the way of these: themselves where they failed or were cancelled, and what blocks them.
fn failures(conn: &Connection, drvs: &[DrvId]) -> index::Result<Vec<DrvId>> {
    let mut found: HashSet<DrvId> = outcomes::blocked_by(conn, drvs)?.into_values().flatten().collect();
    for (drv, standing) in drvs.iter().zip(outcomes::of(conn, drvs)?) {
        match standing {
            Standing::Failed { .. } | Standing::Cancelled { .. } => {
                found.insert(*drv);
            }
            Standing::Open | Standing::Succeeded { .. } => {}
        }
    }
    Ok(found.into_iter().collect())
}

/// Forgets failures, and makes the evaluation one that waits for builds again. One that was cancelled or given up may have
/// builds that were never tried.
fn reopen(tx: &Transaction<'_>, row: EvaluationRow, forgotten: Vec<DrvId>, drvs: &[DrvId]) -> index::Result<Restart> {
    attempts::forget(tx, &forgotten)?;
    let mut open = Vec::new();
    for (drv, standing) in drvs.iter().zip(outcomes::of(tx, drvs)?) {
        match standing {
            Standing::Succeeded { .. } => {}
            Standing::Open | Standing::Cancelled { .. } | Standing::Failed { .. } => open.push(*drv),
        }
    }
    let mut builds = forgotten.len();
    let reopens = match row.state {
        EvaluationState::Receiving | EvaluationState::Building => false,
        EvaluationState::Done => builds > 0,
        EvaluationState::Cancelled | EvaluationState::Abandoned => {
            builds = builds.max(open.len());
            builds > 0
        }
    };
    if reopens {
        evaluations::set_state(tx, row.id, EvaluationState::Building, now())?;
        evaluations::set_label(tx, row.id, superseded::REASON, None)?;
    }
    let roots = recovery::roots_of(tx, &open)?;
    Ok(Restart {
        row,
        forgotten,
        roots,
        builds: builds as u64,
    })
}

/// Restarts one derivation for the newest evaluation that wants it, with what it blocks there.
fn restart_one(tx: &Transaction<'_>, path: &StorePath) -> index::Result<Option<Restart>> {
    let Some(Some(drv)) = derivations::ids(tx, std::slice::from_ref(path))?.first().copied() else {
        return Ok(None);
    };
    let mut above = HashSet::from([drv]);
    let mut next = VecDeque::from([drv]);
    let mut newest: Option<EvaluationId> = None;
    while let Some(at) = next.pop_front() {
        if let Some(used) = jobs::where_used(tx, at, 1)?.first() {
            newest = newest.max(Some(used.evaluation));
        }
        for dependent in derivations::dependents(tx, at, ABOVE as u32)? {
            if above.len() < ABOVE && above.insert(dependent) {
                next.push_back(dependent);
            }
        }
    }
    let row = match newest {
        Some(evaluation) => evaluations::find(tx, &Selector::Evaluation(evaluation))?,
        None => None,
    };
    let Some(row) = row else { return Ok(None) };
    let drvs: Vec<DrvId> = drvs_of(tx, row.id)?
        .into_iter()
        .filter(|drv| above.contains(drv))
        .collect();
    let forgotten = match outcomes::of(tx, &[drv])?.first() {
        Some(Standing::Failed { .. } | Standing::Cancelled { .. }) => vec![drv],
        Some(Standing::Open | Standing::Succeeded { .. }) | None => Vec::new(),
    };
    reopen(tx, row, forgotten, &drvs).map(Some)
}

/// Stops what nobody else wants.
pub(crate) async fn cancel(ci: &Ci, what: &Target) -> Result<Changed, CiError> {
    let core = &ci.core;
    match what {
        Target::Evaluation(which) => {
            let evaluation = ci.reader().find(which).await?.id;
            let progress = core
                .scheduler
                .progress(evaluation)
                .await
                .map_err(|_| CiError::Stopping)?;
            let at = now();
            let was_open = core
                .index
                .write_durable(move |tx| {
                    let open = match evaluations::get(tx, evaluation)?.map(|row| row.state) {
                        Some(EvaluationState::Receiving | EvaluationState::Building) => true,
                        Some(EvaluationState::Done | EvaluationState::Cancelled | EvaluationState::Abandoned)
                        | None => false,
                    };
                    if open {
                        evaluations::set_state(tx, evaluation, EvaluationState::Cancelled, at)?;
                    }
                    Ok(open)
                })
                .await?;
            if !was_open {
                return Ok(Changed { builds: 0 });
            }
            stop(core, evaluation).await?;
            Ok(Changed {
                builds: progress.map_or(0, |progress| progress.builds_left),
            })
        }
        Target::Derivation(text) => {
            let path = parse(core, text)?;
            let ids = core.index.read(move |conn| derivations::ids(conn, &[path])).await?;
            let Some(Some(drv)) = ids.first().copied() else {
                return Err(CiError::NotFound(format!("{text} is not known here")));
            };
            let live = core.scheduler.live(vec![drv]).await.map_err(|_| CiError::Stopping)?;
            if live.get(&drv).is_none_or(crate::scheduler::LiveState::is_final) {
                return Ok(Changed { builds: 0 });
            }
            core.scheduler.cancel_build(drv).await.map_err(|_| CiError::Stopping)?;
            Ok(Changed { builds: 1 })
        }
    }
}

/// Stops what an evaluation wants that is recorded as cancelled.
pub(crate) async fn stop(core: &Core, evaluation: EvaluationId) -> Result<(), CiError> {
    core.attendance.forget(evaluation);
    core.scheduler.cancel(evaluation).await.map_err(|_| CiError::Stopping)?;
    core.holders.release(evaluation);
    core.announce(evaluation);
    Ok(())
}

/// Looks at every store at once.
pub(crate) async fn stores(core: &Core) -> Vec<StoreStatus> {
    let load = core.scheduler.load().await.unwrap_or_default();
    let looks = core.stores.iter().enumerate().map(|(nth, place)| {
        let (slots, running) = load
            .get(nth)
            .map_or((place.config.slots, 0), |load| (load.slots, load.running));
        async move { look(place, slots, running).await }
    });
    join_all(looks).await
}

async fn look(place: &BuildStore, slots: u32, running: u32) -> StoreStatus {
    let mut status = StoreStatus {
        name: place.config.name.clone(),
        uri: place.config.uri.clone(),
        slots,
        running,
        version: None,
        protocol: None,
        error: None,
        advisories: Vec::new(),
    };
    match tokio::time::timeout(ANSWER, place.remote.connect()).await {
        Ok(Ok(connection)) => {
            status.version = connection.daemon_version().map(str::to_owned);
            status.advisories = advisory::of(status.version.as_deref());
            place.told.note(&status, connection.trust());
            status.protocol = Some(connection.negotiated().version.to_string());
        }
        Ok(Err(error)) => status.error = Some(told(&error)),
        Err(_) => {
            status.error = Some(format!(
                "store `{}` did not answer within {} s; look at its daemon",
                place.config.name,
                ANSWER.as_secs()
            ));
        }
    }
    status
}
