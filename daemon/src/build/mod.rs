//! One build on one store.
//!
//! On the hot path there is one round trip, `BuildPathsWithResults` on a pooled connection; everything
//! else about a build is written or asked beside it. A derivation that the store had to resolve first is asked about
//! once more ([`realised`]).

mod again;
mod classify;
mod log;
mod realised;

use std::collections::BTreeMap;
use std::sync::Arc;

use nixci_protocol::client::{self, LogSink};
use nixci_protocol::nixci::control::AttemptId;
use nixci_protocol::nixci::outcome::FailureClass;
use nixci_protocol::op;
use nixci_protocol::types::{
    BuildMode, BuildResult, BuildStatus, BuiltOutputs, DerivedPath, DrvPath, OutputsSpec, SingleDerivedPath, StorePath,
};
use nixci_store::index::attempts::{self, AttemptResult};
use nixci_store::index::{self, DrvId, contents, derivations};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::core::{BuildStore, Core, now};
use crate::error::told;
use crate::request::Ending;
use crate::scheduler::{End, StoreId};
use crate::{forward, http};
use again::Asked;
use classify::{Meaning, classify, clean};
use realised::Made;

pub(crate) use log::{BuildLog, Told};

/// The first minor with `BuildPathsWithResults`.
pub(crate) const WITH_RESULTS: u8 = 34;

/// What the record says where no store was chosen.
const NO_STORE: &str = "none";

/// Builds one derivation and tells the scheduler how it ended. Cancelling `stop` closes the
/// connection, upon which the store kills the builder.
pub(crate) async fn run(core: Arc<Core>, drv: DrvId, store: StoreId, stop: CancellationToken) {
    let Some(place) = core.store(store) else { return };
    let mut outputs = Vec::new();
    let mut ending = Ending::Lost(None);
    let end = match attempt(&core, place, drv, &stop, &mut outputs, &mut ending).await {
        Ok(end) => end,
        Err(error) => {
            error!(drv = drv.0, "failed to record a build: {}", told(&error));
            End::NotStarted(format!("the index failed: {}", told(&error)))
        }
    };
    if let (End::NotStarted(reason), Ending::Lost(why)) = (&end, &mut ending) {
        *why = Some(reason.clone());
    }
    // Before the scheduler hears of it, which may begin another attempt at once.
    core.requests.end(store, drv, ending);
    // Before the scheduler hears of it: it may find the evaluation settled, whose holders then go.
    let held_up = forward::hold(&core, store, drv, &outputs);
    if core.scheduler.ended(drv, store, end).await.is_err() {
        debug!(drv = drv.0, "a build ended after the scheduler");
    }
    for (inbox, wish) in held_up {
        // A holder that is gone has nothing left to hold for.
        drop(inbox.send(wish).await);
    }
}

async fn attempt(
    core: &Arc<Core>,
    place: &BuildStore,
    drv: DrvId,
    stop: &CancellationToken,
    outputs: &mut Vec<StorePath>,
    ending: &mut Ending,
) -> Result<End, index::Error> {
    let mut connection = match stop.run_until_cancelled(place.remote.acquire()).await {
        None => return Ok(End::Stopped),
        Some(Ok(connection)) => connection,
        Some(Err(error)) => {
            let (store, reason) = (place.config.name.as_str(), told(&error));
            warn!(store, "failed to reach store `{store}`: {reason}");
            return Ok(End::NotStarted(reason));
        }
    };
    let (name, since) = (place.config.name.clone(), now());
    let (path, is_resolved, attempt) = core
        .index
        .write(move |tx| {
            let path = derivations::paths(tx, &[drv])?.remove(0);
            let is_resolved = contents::is_resolved_first(tx, drv)?;
            Ok((path, is_resolved, attempts::begin(tx, drv, &name, since)?))
        })
        .await?;
    // The scheduler is gone only while the daemon stops.
    let _ = core.scheduler.started(drv, place.id, attempt, since).await;
    let stream = core.requests.begin(place.id, drv);
    let mut log = BuildLog::of(core, &place.config.name, path.clone(), attempt, stream);
    let mut made = Made::default();
    let sent = core.requests.sent(place.id, drv);
    let build = async {
        let built = again::build(core, place, &mut connection, &path, sent.as_deref(), &mut log).await?;
        if let (Asked::Result(result), None, true) = (&built, &sent, is_resolved) {
            made.ask_again(&mut connection, &path, result).await;
        }
        Ok::<_, client::Error>(built)
    };
    let result = stop.run_until_cancelled(build).await;
    drop(connection);
    let mut heard = Told::default();
    let (result, message) = match result {
        None if core.stop.builds.is_cancelled() => {
            log.abandon();
            return Ok(End::Stopped);
        }
        None => (AttemptResult::Cancelled, String::new()),
        Some(Ok(Asked::Lost(message))) => {
            *ending = Ending::Lost(Some(message.clone()));
            (AttemptResult::Failed(FailureClass::Store), message)
        }
        Some(Ok(Asked::Result(result))) => {
            heard.succeeded = result.status.is_success();
            made.told(&result);
            outputs.extend(result.built_outputs.paths().map(|(_, path)| path.clone()));
            let meaning = interpret(&result);
            *ending = Ending::Result(Box::new(result));
            meaning
        }
        Some(Err(error)) => {
            let message = clean(&told(&error));
            *ending = match error.remote() {
                Some(error) => Ending::Refused(error.clone()),
                None => Ending::Lost(Some(format!(
                    "store `{}` broke off a build: {message}",
                    place.config.name
                ))),
            };
            let class = if error.is_remote() {
                remote_class(&message)
            } else {
                FailureClass::Store
            };
            (AttemptResult::Failed(class), message)
        }
    };
    report(core, place, &path, attempt, result, &message);
    let lines = log.finish(&heard).await;
    let (end, at, name) = (core.end(result, message, lines), now(), place.config.name.clone());
    let is_floating = core
        .index
        .write(move |tx| {
            let is_floating = made.record(tx, drv, &name)?;
            attempts::finish(tx, attempt, &end, at)?;
            Ok(is_floating)
        })
        .await?;
    if let (Ending::Result(result), true) = (&mut *ending, is_floating) {
        core.signer.sign_made(&mut result.built_outputs);
    }
    for path in outputs.iter() {
        // Who asked before it was recorded has seen it without our signature.
        if core.objects.known_info(path).is_some() {
            core.objects.forget(path);
        }
    }
    http::attempt_ended(&place.config.name, result);
    Ok(match result {
        AttemptResult::Succeeded(how) => End::Succeeded(how),
        AttemptResult::Failed(class) => End::Failed(class),
        AttemptResult::Cancelled => End::Stopped,
    })
}

/// Whether what a store said is about itself, such as a full disk, and not about what it was asked for.
pub(crate) fn is_about_the_store(message: &str) -> bool {
    classify::from_words(message) == FailureClass::Store
}

/// What a store refuses to begin says nothing about the builder.
fn remote_class(message: &str) -> FailureClass {
    match classify::from_words(message) {
        FailureClass::Build => FailureClass::Store,
        class @ (FailureClass::HashMismatch
        | FailureClass::Timeout
        | FailureClass::LogLimit
        | FailureClass::Unsupported
        | FailureClass::Store) => class,
    }
}

/// What a result means for the record of the derivation it is about.
fn interpret(result: &BuildResult) -> (AttemptResult, String) {
    match classify(result.status, &result.error_msg) {
        Meaning::Success(how) => (AttemptResult::Succeeded(how), String::new()),
        Meaning::Failure(class) => (AttemptResult::Failed(class), clean(&result.error_msg)),
        // Its inputs were there when it was sent: the store lost one and could not make it again.
        Meaning::Dependency => (AttemptResult::Failed(FailureClass::Store), clean(&result.error_msg)),
    }
}

fn report(core: &Core, place: &BuildStore, path: &StorePath, attempt: AttemptId, result: AttemptResult, message: &str) {
    let drv = core.config.store_dir.display(path);
    let store = place.config.name.as_str();
    match result {
        AttemptResult::Succeeded(_) | AttemptResult::Cancelled => {
            debug!(%drv, store, attempt = attempt.0, "{drv} ended");
        }
        AttemptResult::Failed(class) => {
            info!(%drv, store, attempt = attempt.0, ?class, "{drv} failed on `{store}`: {}: {message}", class.words());
        }
    }
}

fn all_outputs(drv: &StorePath) -> Vec<DerivedPath> {
    vec![DerivedPath::Built {
        drv: SingleDerivedPath::Opaque(drv.clone()),
        outputs: OutputsSpec::All,
    }]
}

/// Asks for all outputs of one derivation.
async fn ask(
    connection: &mut client::Connection,
    drv: &StorePath,
    log: &mut impl LogSink,
) -> Result<BuildResult, client::Error> {
    let paths = all_outputs(drv);
    let mode = BuildMode::Normal;
    if connection.negotiated().version.minor >= WITH_RESULTS {
        let results = connection.call(&op::BuildPathsWithResults { paths, mode }, log).await?;
        return Ok(results.into_iter().next().map_or_else(
            || BuildResult::new(BuildStatus::MiscFailure, "the store answered with no result"),
            |keyed| keyed.result,
        ));
    }
    // An older store has only a text for all that can go wrong.
    match connection.call(&op::BuildPaths { paths, mode }, log).await {
        Ok(_) => Ok(BuildResult {
            built_outputs: outputs_of(connection, drv).await,
            ..BuildResult::new(BuildStatus::Built, "")
        }),
        Err(error) if error.is_remote() => Ok(BuildResult::new(BuildStatus::MiscFailure, told(&error))),
        Err(error) => Err(error),
    }
}

/// The outputs of a derivation that was built, from a store that did not tell them with the result; none where it cannot
/// be asked for them either.
pub(crate) async fn outputs_of(connection: &mut client::Connection, drv: &StorePath) -> BuiltOutputs {
    let Ok(drv) = DrvPath::try_from(drv.clone()) else {
        return BuiltOutputs::default();
    };
    let told = connection.call(&op::QueryDerivationOutputMap { drv }, &mut ()).await;
    let outputs = told.unwrap_or_else(|error| {
        debug!(
            "failed to ask for the outputs of what was built: {}",
            crate::error::told(&error)
        );
        BTreeMap::new()
    });
    let known = outputs.into_iter().filter_map(|(name, path)| Some((name, path?)));
    known.collect()
}

/// Records that a derivation failed without being tried; on no store where none was chosen.
pub(crate) async fn fail(core: &Core, drv: DrvId, store: Option<StoreId>, class: FailureClass, message: &str) {
    let store = store.and_then(|id| core.store(id));
    let store = store.map_or_else(|| NO_STORE.to_owned(), |store| store.config.name.clone());
    let result = AttemptResult::Failed(class);
    let (end, at) = (core.end(result, clean(message), 0), now());
    http::attempt_ended(&store, result);
    let recorded = core
        .index
        .write(move |tx| {
            let attempt = attempts::begin(tx, drv, &store, at)?;
            attempts::finish(tx, attempt, &end, at)
        })
        .await;
    if let Err(error) = recorded {
        error!(drv = drv.0, "failed to record a failure: {}", told(&error));
    }
}
