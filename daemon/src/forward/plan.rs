//! Forwarding roots and asking what must be built.

use std::collections::{HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;

use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_protocol::op;
use nixci_protocol::types::{DerivedPath, OutputsSpec, SingleDerivedPath, StorePath};
use nixci_store::index::attempts::{self, AttemptResult};
use nixci_store::index::{self, DrvId, derivations};
use tracing::{debug, info, warn};

use super::closure::{ForwardError, forward};
use super::holder::Holder;
use crate::build::fail;
use crate::config::Dispatch;
use crate::core::now;
use crate::error::told;
use crate::scheduler::{Planned, PlannedBuild};

/// Roots in one `QueryMissing`. A store answers in one go, and its answer must fit into memory.
const ROOTS_PER_QUESTION: usize = 8_192;

/// Answers one plan, whatever happens.
pub(super) async fn run(holder: &mut Holder, roots: Vec<DrvId>) {
    let core = holder.core.clone();
    let (evaluation, store) = (holder.evaluation, holder.store);
    let told = match attempt(holder, &roots).await {
        Ok(plan) => {
            info!(
                evaluation = evaluation.0,
                roots = roots.len(),
                builds = plan.builds.len(),
                valid = plan.valid.len(),
                "planned {} builds for {} roots",
                plan.builds.len(),
                roots.len()
            );
            core.holders
                .want(evaluation, store, plan.builds.iter().map(|build| build.drv));
            core.scheduler.planned(evaluation, store, roots, plan).await
        }
        Err(PlanError::Store(reason)) => {
            holder.disconnect();
            warn!(evaluation = evaluation.0, "failed to plan on a store: {reason}");
            core.scheduler.plan_failed(evaluation, store, roots, reason).await
        }
        Err(PlanError::Refused(_)) if roots.len() > 1 => {
            // One root that can never be built must not hide its neighbours.
            let (left, right) = roots.split_at(roots.len() / 2);
            boxed(holder, left.to_vec()).await;
            boxed(holder, right.to_vec()).await;
            return;
        }
        Err(PlanError::Refused(reason)) => {
            warn!(evaluation = evaluation.0, "a derivation cannot be forwarded: {reason}");
            for drv in &roots {
                fail(&core, *drv, Some(store), FailureClass::Store, &reason).await;
            }
            core.scheduler.plan_refused(evaluation, roots).await
        }
    };
    if told.is_err() {
        debug!(
            evaluation = evaluation.0,
            "a plan came too late: the daemon is stopping"
        );
    }
}

fn boxed(holder: &mut Holder, roots: Vec<DrvId>) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
    Box::pin(run(holder, roots))
}

enum PlanError {
    /// The store, or the way to it; it is tried again.
    Store(String),
    /// These roots can never be planned.
    Refused(String),
}

impl From<index::Error> for PlanError {
    fn from(error: index::Error) -> Self {
        Self::Store(format!("failed to use the index: {}", told(&error)))
    }
}

impl From<ForwardError> for PlanError {
    fn from(error: ForwardError) -> Self {
        match error {
            ForwardError::Missing { .. } | ForwardError::Refused(_) => Self::Refused(told(&error)),
            ForwardError::Store(_) | ForwardError::Spool(_) => Self::Store(told(&error)),
        }
    }
}

async fn attempt(holder: &mut Holder, roots: &[DrvId]) -> Result<Planned, PlanError> {
    let core = holder.core.clone();
    let Some(store) = core.store(holder.store) else {
        return Err(PlanError::Refused("its store is not configured any more".to_owned()));
    };
    let ids = roots.to_vec();
    let paths = core.index.read(move |conn| derivations::paths(conn, &ids)).await?;
    {
        let _turn = store.uploading.acquire().await;
        let connection = holder.connection().await.map_err(PlanError::Store)?;
        forward(connection, &core.spool, paths.clone()).await?;
        holder.hold(paths.clone()).await.map_err(PlanError::Store)?;
    }
    let connection = holder.connection().await.map_err(PlanError::Store)?;
    let mut to_build: HashSet<StorePath> = HashSet::new();
    let mut to_substitute: HashSet<StorePath> = HashSet::new();
    for chunk in paths.chunks(ROOTS_PER_QUESTION) {
        let question = op::QueryMissing {
            paths: chunk.iter().map(all_outputs).collect(),
        };
        let missing = match connection.call(&question, &mut ()).await {
            Ok(missing) => missing,
            Err(error) if error.is_remote() => return Err(PlanError::Refused(told(&error))),
            Err(error) => return Err(PlanError::Store(told(&error))),
        };
        if let Some(unknown) = missing.unknown.iter().find(|path| path.is_derivation()) {
            return Err(PlanError::Refused(format!(
                "store `{}` cannot read {}; upload it again",
                store.config.name,
                core.config.store_dir.display(unknown)
            )));
        }
        to_build.extend(missing.will_build);
        to_substitute.extend(missing.will_substitute);
    }
    let whole_roots = match store.config.dispatch {
        Dispatch::Derivation => false,
        Dispatch::Root => true,
    };
    let name = store.config.name.clone();
    let root_ids = roots.to_vec();
    Ok(core
        .index
        .write(move |tx| translate(tx, &name, &root_ids, &to_build, &to_substitute, whole_roots))
        .await?)
}

fn all_outputs(drv: &StorePath) -> DerivedPath {
    DerivedPath::Built {
        drv: SingleDerivedPath::Opaque(drv.clone()),
        outputs: OutputsSpec::All,
    }
}

/// Turns the store's answer into builds with their edges, and records what it has already.
fn translate(
    tx: &rusqlite::Transaction<'_>,
    store: &str,
    roots: &[DrvId],
    to_build: &HashSet<StorePath>,
    to_substitute: &HashSet<StorePath>,
    whole_roots: bool,
) -> index::Result<Planned> {
    let paths: Vec<StorePath> = to_build.iter().cloned().collect();
    let mut builds: HashSet<DrvId> = derivations::mention(tx, &paths)?.into_iter().collect();
    let mut valid = Vec::new();
    for root in roots {
        if builds.contains(root) {
            continue;
        }
        if is_substitutable(tx, *root, to_substitute)? {
            // It is "built" by asking for it: the store fetches it then.
            builds.insert(*root);
        } else {
            valid.push(*root);
        }
    }
    if whole_roots {
        let roots: HashSet<DrvId> = roots.iter().copied().collect();
        builds.retain(|drv| roots.contains(drv));
    }
    let builds: Vec<DrvId> = builds.into_iter().collect();
    let mut inputs: HashMap<DrvId, Vec<DrvId>> = HashMap::new();
    if !whole_roots {
        for (drv, input) in derivations::edges_among(tx, &builds)? {
            inputs.entry(drv).or_default().push(input);
        }
    }
    let mut there: HashSet<DrvId> = valid.iter().copied().collect();
    let planned: HashSet<DrvId> = builds.iter().copied().collect();
    for drv in &builds {
        for input in derivations::inputs(tx, *drv)? {
            if !planned.contains(&input) && !there.contains(&input) && !is_substitutable(tx, input, to_substitute)? {
                there.insert(input);
            }
        }
    }
    let at = now();
    if whole_roots {
        attempts::record_valid(tx, &valid, store, Success::AlreadyValid, at)?;
    } else {
        let there: Vec<DrvId> = there.into_iter().collect();
        attempts::record_valid(tx, &there, store, Success::AlreadyValid, at)?;
    }
    let failures = attempts::remembered_failures(tx, &builds, at)?;
    let builds = builds
        .into_iter()
        .map(|drv| PlannedBuild {
            drv,
            inputs: inputs.remove(&drv).unwrap_or_default(),
            known_failure: failures.get(&drv).and_then(|failure| match failure.result {
                Some(AttemptResult::Failed(class)) => Some(class),
                Some(AttemptResult::Succeeded(_) | AttemptResult::Cancelled) | None => None,
            }),
        })
        .collect();
    Ok(Planned { builds, valid })
}

fn is_substitutable(
    tx: &rusqlite::Transaction<'_>,
    drv: DrvId,
    to_substitute: &HashSet<StorePath>,
) -> index::Result<bool> {
    if to_substitute.is_empty() {
        return Ok(false);
    }
    let outputs = derivations::outputs(tx, drv)?;
    Ok(outputs
        .iter()
        .any(|output| output.path.as_ref().is_some_and(|path| to_substitute.contains(path))))
}
