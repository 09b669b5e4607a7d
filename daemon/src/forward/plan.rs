//! Forwarding roots and asking what must be built.
//!
//! For an evaluation everything the spool has is known in the graph. A request may name derivations that somebody put
//! straight into the store: those of them that must be built are read from there. It asks for the outputs its client
//! named, tries again what failed before, and what the store can substitute for it is no build.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::future::Future;
use std::pin::Pin;

use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_protocol::op;
use nixci_protocol::types::{DerivedPath, OutputsSpec, SingleDerivedPath, StorePath};
use nixci_store::index::attempts::{self, AttemptResult};
use nixci_store::index::{self, DrvId, derivations};
use tracing::{debug, info, warn};

use super::closure::ForwardError;
use super::holder::Holder;
use super::release_if_gone;
use crate::adopt::{self, AdoptError};
use crate::build::fail;
use crate::config::Dispatch;
use crate::core::now;
use crate::error::told;
use crate::request::{self, Asked, Outline, Post};
use crate::scheduler::{Planned, PlannedBuild, StoreId, Wisher};

/// Roots in one `QueryMissing`. A store answers in one go, and its answer must fit into memory.
const ROOTS_PER_QUESTION: usize = 8_192;
/// How often derivations are sent that the store cannot read afterwards.
const TIMES: u32 = 3;

/// Answers one plan, whatever happens.
pub(super) async fn run(holder: &mut Holder, roots: Vec<DrvId>) {
    let core = holder.core.clone();
    let (wisher, store) = (holder.wisher, holder.store);
    let told = match attempt(holder, &roots).await {
        Ok(Plan { plan, outline }) => {
            info!(
                ?wisher,
                roots = roots.len(),
                builds = plan.builds.len(),
                valid = plan.valid.len(),
                "planned {} builds for {} roots",
                plan.builds.len(),
                roots.len()
            );
            core.holders
                .want(wisher, store, plan.builds.iter().map(|build| build.drv));
            if let (Wisher::Request(request), Some(outline)) = (wisher, outline) {
                core.requests.expect(request, outline);
            }
            release_if_gone(&core, wisher);
            core.scheduler.planned(wisher, store, roots, plan).await
        }
        Err(PlanError::Store(reason)) => {
            holder.disconnect();
            warn!(?wisher, "failed to plan on a store: {reason}");
            if let Wisher::Request(request) = wisher {
                core.requests.post(request, Post::Delayed(reason.clone()));
            }
            core.scheduler.plan_failed(wisher, store, roots, reason).await
        }
        Err(PlanError::Refused(_) | PlanError::Unread(_)) if roots.len() > 1 => {
            // One root that can never be built must not hide its neighbours.
            let (left, right) = roots.split_at(roots.len() / 2);
            boxed(holder, left.to_vec()).await;
            boxed(holder, right.to_vec()).await;
            return;
        }
        Err(PlanError::Refused(reason) | PlanError::Unread(reason)) => {
            warn!(?wisher, "a derivation cannot be forwarded: {reason}");
            match wisher {
                Wisher::Evaluation(_) => {
                    for drv in &roots {
                        fail(&core, *drv, Some(store), FailureClass::Store, &reason).await;
                    }
                }
                Wisher::Request(request) => {
                    let roots = roots.clone();
                    core.requests.post(request, Post::Refused { roots, reason });
                }
            }
            core.scheduler.plan_refused(wisher, roots).await
        }
    };
    if told.is_err() {
        debug!(?wisher, "a plan came too late: the daemon is stopping");
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
    /// The store does not have a derivation that it was sent.
    Unread(String),
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

/// What must be built, and the same for who waits for it.
struct Plan {
    plan: Planned,
    outline: Option<Outline>,
}

async fn attempt(holder: &mut Holder, roots: &[DrvId]) -> Result<Plan, PlanError> {
    let core = holder.core.clone();
    let Some(store) = core.store(holder.store) else {
        return Err(PlanError::Refused("its store is not configured any more".to_owned()));
    };
    let asked = match holder.wisher {
        Wisher::Evaluation(_) => None,
        Wisher::Request(request) => match core.requests.asked(request) {
            Some(asked) => Some(asked),
            None => return Err(PlanError::Refused("the client is gone".to_owned())),
        },
    };
    if let Some(Asked::Derivation(sent)) = asked.as_deref() {
        return one_that_was_sent(holder, sent, roots).await;
    }
    let ids = roots.to_vec();
    let paths = core.index.read(move |conn| derivations::paths(conn, &ids)).await?;
    holder.forward(&paths).await?;
    let missing = match asked.as_deref() {
        Some(Asked::Paths {
            missing: Some(missing),
            paths: of,
        }) if of.len() == roots.len() => missing.clone(),
        Some(Asked::Paths { paths: of, .. }) => {
            let wanted = roots.iter().filter_map(|root| of.get(root)).flatten().cloned();
            ask_until_read(holder, &paths, wanted.collect()).await?
        }
        Some(Asked::Derivation(_)) | None => {
            ask_until_read(holder, &paths, paths.iter().map(all_outputs).collect()).await?
        }
    };
    let (to_build, to_substitute) = (missing.will_build, missing.will_substitute);
    let is_request = asked.is_some();
    if is_request {
        let connection = holder.connection().await.map_err(PlanError::Store)?;
        adopt::adopt_from(connection, &core, to_build.iter().cloned().collect())
            .await
            .map_err(|error| match &error {
                AdoptError::Spool(_) | AdoptError::Index(_) | AdoptError::Store(_) => PlanError::Store(told(&error)),
                AdoptError::Derivation(_)
                | AdoptError::Read { .. }
                | AdoptError::NotAFile { .. }
                | AdoptError::Altered { .. } => PlanError::Refused(told(&error)),
            })?;
    }
    let whole_roots = match store.config.dispatch {
        Dispatch::Derivation => false,
        Dispatch::Root => true,
    };
    let question = Question {
        store: store.config.name.clone(),
        roots: roots.to_vec(),
        to_build,
        to_substitute,
        whole_roots,
        is_request,
    };
    let (plan, paths) = core
        .index
        .write(move |tx| {
            let plan = translate(tx, &question)?;
            let drvs: Vec<DrvId> = plan.builds.iter().map(|build| build.drv).collect();
            let paths = if is_request {
                derivations::paths(tx, &drvs)?
            } else {
                Vec::new()
            };
            Ok((plan, paths))
        })
        .await?;
    let outline = is_request.then(|| outline(holder.store, &plan, paths));
    Ok(Plan { plan, outline })
}

fn outline(store: StoreId, plan: &Planned, paths: Vec<StorePath>) -> Outline {
    let builds = plan.builds.iter().zip(paths);
    Outline {
        store,
        builds: builds
            .map(|(build, path)| request::Planned {
                drv: build.drv,
                path,
                inputs: build.inputs.clone(),
            })
            .collect(),
        passed: plan.valid.clone(),
    }
}

/// A derivation that its client sent whole: its inputs are paths, and it is a build of its own.
async fn one_that_was_sent(
    holder: &mut Holder,
    sent: &op::BuildDerivation,
    roots: &[DrvId],
) -> Result<Plan, PlanError> {
    let inputs: Vec<StorePath> = sent.derivation.input_srcs.iter().cloned().collect();
    holder.forward(&inputs).await?;
    let build = |drv: &DrvId| PlannedBuild {
        drv: *drv,
        inputs: Vec::new(),
        known_failure: None,
    };
    let plan = Planned {
        builds: roots.iter().map(build).collect(),
        valid: Vec::new(),
    };
    let paths = vec![sent.drv.path().clone(); roots.len()];
    let outline = Some(outline(holder.store, &plan, paths));
    Ok(Plan { plan, outline })
}

/// Asks the store what it would do. Derivations that it lost since they were sent, with the connection that kept them, are
/// sent again.
async fn ask_until_read(
    holder: &mut Holder,
    roots: &[StorePath],
    wanted: Vec<DerivedPath>,
) -> Result<op::Missing, PlanError> {
    for _ in 1..TIMES {
        match ask(holder, wanted.clone()).await {
            Err(PlanError::Unread(_)) => holder.forward(roots).await?,
            answer => return answer,
        }
    }
    ask(holder, wanted).await
}

/// Asks the store what it would do.
async fn ask(holder: &mut Holder, paths: Vec<DerivedPath>) -> Result<op::Missing, PlanError> {
    let core = holder.core.clone();
    let name = core.store(holder.store).map_or("", |store| store.config.name.as_str());
    let connection = holder.connection().await.map_err(PlanError::Store)?;
    let mut all = op::Missing::default();
    for chunk in paths.chunks(ROOTS_PER_QUESTION) {
        let question = op::QueryMissing { paths: chunk.to_vec() };
        let missing = match connection.call(&question, &mut ()).await {
            Ok(missing) => missing,
            Err(error) if error.is_remote() => return Err(PlanError::Refused(told(&error))),
            Err(error) => return Err(PlanError::Store(told(&error))),
        };
        if let Some(unknown) = missing.unknown.iter().find(|path| path.is_derivation()) {
            return Err(PlanError::Unread(format!(
                "store `{name}` cannot read {}; upload it again",
                core.config.store_dir.display(unknown)
            )));
        }
        all.will_build.extend(missing.will_build);
        all.will_substitute.extend(missing.will_substitute);
    }
    Ok(all)
}

fn all_outputs(drv: &StorePath) -> DerivedPath {
    DerivedPath::Built {
        drv: SingleDerivedPath::Opaque(drv.clone()),
        outputs: OutputsSpec::All,
    }
}

/// What a store has answered, to be put in terms of the graph.
struct Question {
    store: String,
    roots: Vec<DrvId>,
    to_build: BTreeSet<StorePath>,
    to_substitute: BTreeSet<StorePath>,
    whole_roots: bool,
    /// A client waits: what failed before is tried again, and what the store only has to fetch is no build.
    is_request: bool,
}

/// Turns the store's answer into builds with their edges, and records what it has already.
fn translate(tx: &rusqlite::Transaction<'_>, question: &Question) -> index::Result<Planned> {
    let Question {
        store,
        roots,
        to_build,
        to_substitute,
        whole_roots,
        is_request,
    } = question;
    let (whole_roots, is_request) = (*whole_roots, *is_request);
    let paths: Vec<StorePath> = to_build.iter().cloned().collect();
    let mut builds: HashSet<DrvId> = derivations::mention(tx, &paths)?.into_iter().collect();
    let mut valid = Vec::new();
    let mut fetched = Vec::new();
    for root in roots {
        if builds.contains(root) {
            continue;
        }
        if !is_substitutable(tx, *root, to_substitute)? {
            valid.push(*root);
        } else if is_request {
            // The store fetches it when it is asked for all that is not built.
            fetched.push(*root);
        } else {
            // It is "built" by asking for it: the store fetches it then.
            builds.insert(*root);
        }
    }
    if whole_roots {
        let roots: HashSet<DrvId> = roots.iter().copied().collect();
        builds.retain(|drv| roots.contains(drv));
    }
    let mut builds: Vec<DrvId> = builds.into_iter().collect();
    builds.sort_unstable();
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
    let failures = if is_request {
        HashMap::new()
    } else {
        attempts::remembered_failures(tx, &builds, at)?
    };
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
    valid.extend(fetched);
    Ok(Planned { builds, valid })
}

fn is_substitutable(
    tx: &rusqlite::Transaction<'_>,
    drv: DrvId,
    to_substitute: &BTreeSet<StorePath>,
) -> index::Result<bool> {
    if to_substitute.is_empty() {
        return Ok(false);
    }
    let outputs = derivations::outputs(tx, drv)?;
    Ok(outputs
        .iter()
        .any(|output| output.path.as_ref().is_some_and(|path| to_substitute.contains(path))))
}
