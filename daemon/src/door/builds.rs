//! Builds that stock clients ask for: scheduled beside those of submissions, and shared with them.
//!
//! The store is asked once what has to be built (where the door has one store behind it; otherwise the scheduler
//! chooses, and the chosen one is asked). When that is nothing, the request is passed on as it is: the store knows best
//! what is there and what it can fetch. Otherwise the derivations to build become a [`Request`], the client is told live
//! what is done for it, and what is there already is asked of the store as before. In the end everything the client asked
//! for is protected by its own connection, as by a stock daemon.
//!
//! What cannot be scheduled here is passed on whole and recorded: derivations that are outputs of derivations, and
//! repairs and checks, which are an administrator's.
//!
//! Builds are shared, so that a client's own limits of time cannot be applied: those of the configuration are, and the
//! client is told so once. What failed before is built again when a client asks for it, as Nix does.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixci_protocol::op::{self, Reply};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{BuildMode, BuildResult, DerivedPath, KeyedBuildResult, SingleDerivedPath, StorePath};
use nixci_store::index::{DrvId, derivations};

use super::answer::{Built, first_failure, line, only_asked, there};
use super::pass;
use super::session::{Session, refuse};
use super::wait::Waiting;
use crate::adopt;
use crate::config::Writes;
use crate::core::Core;
use crate::request::{Asked, Builds, Manner, Request};
use crate::scheduler::{Root, StoreId};
use crate::submit::project_number;

pub(super) type Answered = Result<Reply, HandlerError>;

/// How long what a store said it would do is believed. Being wrong costs little: what was built meanwhile is found
/// there, and what has gone is built by the store itself.
const FORESEEN_FOR: Duration = Duration::from_secs(5);

/// What the store behind the door would do for some paths.
pub(super) struct Foreseen {
    paths: Vec<DerivedPath>,
    missing: op::Missing,
    at: Instant,
}

/// The store objects a request needs to be on the store: derivations, and paths that are in the spool.
fn needed(session: &Session, paths: &[DerivedPath]) -> Vec<StorePath> {
    let spool = &session.ci.core.spool;
    let wanted: BTreeSet<&StorePath> = paths
        .iter()
        .map(|path| match path {
            DerivedPath::Opaque(path) => path,
            DerivedPath::Built { drv, .. } => drv.root(),
        })
        .collect();
    wanted
        .into_iter()
        .filter(|path| spool.contains(path))
        .cloned()
        .collect()
}

/// Repairs and checks are about what the store has, and are its administrator's.
pub(super) fn may(session: &Session, mode: BuildMode) -> Result<(), HandlerError> {
    match mode {
        BuildMode::Normal => Ok(()),
        BuildMode::Repair | BuildMode::Check if session.who.is_trusted() => Ok(()),
        BuildMode::Repair | BuildMode::Check => Err(HandlerError::new(
            "nixci repairs and checks builds only for users it trusts; name your user in `trusted_users` of its \
             configuration, or ask the nix-daemon of the store behind it",
        )),
    }
}

pub(super) async fn missing(session: &mut Session, request: op::QueryMissing, exchange: &mut Exchange<'_>) -> Answered {
    match session.ci.core.config.listen.writes {
        Writes::Through => {
            let missing = session.upstream.call(&request, exchange).await?;
            session.foreseen = Some(Foreseen {
                paths: request.paths,
                missing: missing.clone(),
                at: Instant::now(),
            });
            return Ok(missing.into());
        }
        Writes::Spool => {
            if let Some(answer) = super::missing::from_spool(session, &request, exchange).await? {
                return Ok(answer);
            }
        }
    }
    let needed = needed(session, &request.paths);
    session.upstream.forward(needed).await?;
    session.upstream.ask(&request, exchange).await
}

pub(super) async fn paths(session: &mut Session, mut request: op::BuildPaths, exchange: &mut Exchange<'_>) -> Answered {
    may(session, request.mode)?;
    let here = here(session, &request.paths).await?;
    request.paths.retain(|path| !here.contains(path));
    if request.paths.is_empty() {
        return Ok(Reply::Done);
    }
    let Some(plan) = plan(session, &request.paths, request.mode, exchange).await? else {
        return pass::paths(session, request, exchange).await;
    };
    let built = build(session, plan, &request.paths, exchange).await?;
    let core = session.ci.core.clone();
    first_failure(&core.config.store_dir, &request.paths, built, exchange).await?;
    Ok(Reply::Done)
}

pub(super) async fn paths_with_results(
    session: &mut Session,
    mut request: op::BuildPathsWithResults,
    exchange: &mut Exchange<'_>,
) -> Answered {
    may(session, request.mode)?;
    let here = here(session, &request.paths).await?;
    let all = request.paths.clone();
    request.paths.retain(|path| !here.contains(path));
    let mut results: HashMap<DerivedPath, BuildResult> = HashMap::new();
    if request.paths.is_empty() {
        // Nothing is asked of any store.
    } else if let Some(plan) = plan(session, &request.paths, request.mode, exchange).await? {
        let built = build(session, plan, &request.paths, exchange).await?;
        let built = request.paths.into_iter().zip(built.results);
        results.extend(built.filter_map(|(path, result)| Some((path, result?))));
    } else {
        let passed = pass::paths_with_results(session, request, exchange).await?;
        results.extend(passed.into_iter().map(|keyed| (keyed.path, keyed.result)));
    }
    results.extend(here.into_iter().map(|path| (path, there())));
    let keyed = all.into_iter().filter_map(|path| {
        let result = results.get(&path)?.clone();
        Some(KeyedBuildResult { path, result })
    });
    Ok(Reply::BuiltAll(keyed.collect()))
}

/// Paths that are there already, wherever that is: a client that does not share a disk with any store reads all alike.
async fn here(session: &mut Session, paths: &[DerivedPath]) -> Result<HashSet<DerivedPath>, HandlerError> {
    let core = session.ci.core.clone();
    match core.config.listen.writes {
        Writes::Through => return Ok(HashSet::new()),
        Writes::Spool => {}
    }
    let opaque = paths.iter().filter_map(|path| match path {
        DerivedPath::Opaque(path) => Some(path.clone()),
        DerivedPath::Built { .. } => None,
    });
    let opaque: BTreeSet<StorePath> = opaque.collect();
    if opaque.is_empty() {
        return Ok(HashSet::new());
    }
    let valid = core.objects.valid(opaque).await.map_err(|error| refuse(&error))?;
    Ok(valid.into_iter().map(DerivedPath::Opaque).collect())
}

/// What is to be scheduled for a request.
struct Plan {
    roots: Vec<Root>,
    drvs: HashMap<StorePath, DrvId>,
    on: Option<StoreId>,
    missing: Option<op::Missing>,
}

/// The derivation of a path that can be scheduled.
fn drv_of(path: &DerivedPath) -> Option<&StorePath> {
    match path {
        DerivedPath::Built {
            drv: SingleDerivedPath::Opaque(drv),
            ..
        } => Some(drv),
        DerivedPath::Built {
            drv: SingleDerivedPath::Built { .. },
            ..
        }
        | DerivedPath::Opaque(_) => None,
    }
}

/// Finds out what has to be built; none where the store is to do all of it.
async fn plan(
    session: &mut Session,
    paths: &[DerivedPath],
    mode: BuildMode,
    exchange: &mut Exchange<'_>,
) -> Result<Option<Plan>, HandlerError> {
    let is_nested = |path: &DerivedPath| match path {
        DerivedPath::Built { drv, .. } => matches!(drv, SingleDerivedPath::Built { .. }),
        DerivedPath::Opaque(_) => false,
    };
    let drvs: Vec<StorePath> = {
        let unique: BTreeSet<&StorePath> = paths.iter().filter_map(drv_of).collect();
        unique.into_iter().cloned().collect()
    };
    let needed = needed(session, paths);
    if mode != BuildMode::Normal || drvs.is_empty() || paths.iter().any(is_nested) {
        session.upstream.forward(needed).await?;
        return Ok(None);
    }
    if let Some(plan) = unbound(&session.ci.core.clone(), &drvs).await? {
        return Ok(Some(plan));
    }
    session.upstream.forward(needed).await?;
    let foreseen = session.foreseen.take();
    let foreseen = foreseen.filter(|of| of.paths == paths && of.at.elapsed() < FORESEEN_FOR);
    let missing = if let Some(foreseen) = foreseen {
        foreseen.missing
    } else {
        let question = op::QueryMissing { paths: paths.to_vec() };
        session.upstream.call(&question, exchange).await?
    };
    let to_build: Vec<StorePath> = drvs
        .into_iter()
        .filter(|drv| missing.will_build.contains(drv))
        .collect();
    if to_build.is_empty() {
        return Ok(None);
    }
    let core = session.ci.core.clone();
    let asked = to_build.clone();
    let ids = core
        .index
        .write(move |tx| derivations::mention(tx, &asked))
        .await
        .map_err(|error| refuse(&error))?;
    // The store is given: what it offers is for it to say.
    let root = |drv: &DrvId| Root {
        drv: *drv,
        system: "".into(),
        features: Arc::from([]),
    };
    Ok(Some(Plan {
        roots: ids.iter().map(root).collect(),
        drvs: to_build.into_iter().zip(ids).collect(),
        on: Some(session.upstream.store()?.id),
        missing: Some(missing),
    }))
}

/// A request that any store may serve: where there are several, and all that is asked for is known here.
async fn unbound(core: &Core, drvs: &[StorePath]) -> Result<Option<Plan>, HandlerError> {
    match core.config.listen.writes {
        Writes::Through => return Ok(None),
        Writes::Spool if core.stores.len() < 2 => return Ok(None),
        Writes::Spool => {}
    }
    adopt::adopt(core, drvs.to_vec())
        .await
        .map_err(|error| refuse(&error))?;
    let asked = drvs.to_vec();
    let known = core
        .index
        .read(move |conn| {
            let ids = derivations::ids(conn, &asked)?;
            let known: Vec<DrvId> = ids.into_iter().flatten().collect();
            let roots = crate::recovery::roots_of(conn, &known)?;
            Ok((known, roots))
        })
        .await
        .map_err(|error| refuse(&error))?;
    let (ids, roots) = known;
    let is_whole = ids.len() == drvs.len() && roots.len() == drvs.len();
    Ok(is_whole.then(|| Plan {
        roots,
        drvs: drvs.iter().cloned().zip(ids).collect(),
        on: None,
        missing: None,
    }))
}

async fn build(
    session: &mut Session,
    plan: Plan,
    paths: &[DerivedPath],
    exchange: &mut Exchange<'_>,
) -> Result<Built, HandlerError> {
    let core = session.ci.core.clone();
    warn_of_limits(session, exchange).await;
    // Not where derivations are sent whole: Nix sends every setting along with those, whoever made it.
    let options = session.upstream.options();
    session.settings.warn_of_unshared(options, &session.who, exchange).await;
    let keep_going = session.upstream.keeps_going();
    let mut of: HashMap<DrvId, Vec<DerivedPath>> = HashMap::new();
    for path in paths {
        if let Some(id) = drv_of(path).and_then(|drv| plan.drvs.get(drv)) {
            of.entry(*id).or_default().push(path.clone());
        }
    }
    let asked = Asked::Paths {
        paths: of,
        missing: plan.missing,
    };
    let request = Request::open(&core, asked, None);
    let builds = Builds::new(
        core.config.store_dir.clone(),
        plan.roots.iter().map(|root| root.drv),
        keep_going,
    );
    let project = project_number(&format!("principal {}", session.who.name()));
    core.scheduler
        .requested(request.id(), project, plan.roots, plan.on)
        .await
        .map_err(|error| refuse(&error))?;
    let mut waiting = Waiting::begin(&core, request, builds, exchange).await;
    let outcome = waiting.wait(exchange).await;
    if let Err(error) = outcome {
        waiting.end(exchange).await;
        return Err(error);
    }
    let number_of = |path: &DerivedPath| drv_of(path).and_then(|drv| plan.drvs.get(drv)).copied();
    let mut results: Vec<Option<BuildResult>> = Vec::with_capacity(paths.len());
    let mut logged = HashSet::new();
    // What nothing was built for, by the store that has it.
    let mut passed: HashMap<Option<StoreId>, Vec<usize>> = HashMap::new();
    let mut made: HashMap<Option<StoreId>, BTreeSet<StorePath>> = HashMap::new();
    for (nth, path) in paths.iter().enumerate() {
        let builds = &waiting.builds;
        let result = number_of(path).and_then(|drv| {
            // Newer stores log it once more among what was asked for.
            if builds.was_logged(drv) && builds.manner() == Manner::Old {
                logged.extend(drv_of(path).cloned());
            }
            Some((builds.result(drv)?, builds.store(drv)))
        });
        match (result, number_of(path)) {
            (Some((result, store)), _) => {
                let result = only_asked(path, result.clone());
                if result.status.is_success() {
                    let outputs = result.built_outputs.paths().map(|(_, path)| path.clone());
                    made.entry(store).or_default().extend(outputs);
                }
                results.push(Some(result));
            }
            (None, Some(drv)) if !builds.passed().contains_key(&drv) => results.push(builds.manner().unfinished()),
            (None, drv) => {
                let store = drv.and_then(|drv| builds.passed().get(&drv)).copied();
                passed.entry(store).or_default().push(nth);
                results.push(None);
            }
        }
    }
    for (store, at) in passed {
        let rest: Vec<DerivedPath> = at.iter().filter_map(|nth| paths.get(*nth)).cloned().collect();
        let answered = pass::rest(session, store, rest, &mut waiting, exchange).await;
        let found = match answered {
            Ok(found) => found,
            Err(error) => {
                waiting.end(exchange).await;
                return Err(error);
            }
        };
        for (nth, result) in at.into_iter().zip(found) {
            if let Some(place) = results.get_mut(nth) {
                *place = Some(result);
            }
        }
    }
    for (store, outputs) in made {
        pass::protect(session, store, outputs).await?;
    }
    waiting.end(exchange).await;
    Ok(Built { results, logged })
}

/// Says once per connection that limits of the client do not hold.
pub(super) async fn warn_of_limits(session: &mut Session, exchange: &mut Exchange<'_>) {
    if session.upstream.has_limits() && !std::mem::replace(&mut session.told_of_limits, true) {
        exchange
            .log(line(
                "warning: builds are shared between all who want them: nixci's own `build_time` and `silent_time` hold \
                 in place of your `timeout` and `max-silent-time`",
            ))
            .await;
    }
}
