//! Requests that the store behind the door serves by itself: passed on, and recorded.

use std::collections::BTreeSet;
use std::sync::Arc;

use nixci_protocol::client::{Connection, LogSink};
use nixci_protocol::log::LogMessage;
use nixci_protocol::op::{self, Reply};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{BuildMode, BuildResult, DerivedPath, KeyedBuildResult, SingleDerivedPath, StorePath};

use super::answer::{only_asked, there};
use super::builds::Answered;
use super::session::{Session, refuse};
use super::upstream::Relay;
use super::wait::Waiting;
use crate::build::{BuildLog, Told, WITH_RESULTS, outputs_of};
use crate::core::Core;
use crate::request::{Mailbox, Stream};
use crate::scheduler::StoreId;
use crate::sign::hashed;

/// The client sees what the log records.
struct Tee<'x, 'e> {
    relay: Relay<'x, 'e>,
    log: BuildLog,
}

impl LogSink for Tee<'_, '_> {
    async fn message(&mut self, message: LogMessage) {
        self.log.message(message.clone()).await;
        self.relay.message(message).await;
    }
}

pub(super) async fn paths(session: &mut Session, request: op::BuildPaths, exchange: &mut Exchange<'_>) -> Answered {
    let op::Ack::Done = recorded(session, &request, exchange, |reply, told| {
        told.succeeded = reply.is_some();
    })
    .await?;
    Ok(Reply::Done)
}

fn tell(results: &[KeyedBuildResult], told: &mut Told) {
    for keyed in results {
        if let DerivedPath::Built {
            drv: SingleDerivedPath::Opaque(drv),
            ..
        } = &keyed.path
        {
            told.result(drv.clone(), &keyed.result);
        }
    }
    told.succeeded = results.iter().all(|keyed| keyed.result.status.is_success());
}

pub(super) async fn paths_with_results(
    session: &mut Session,
    request: op::BuildPathsWithResults,
    exchange: &mut Exchange<'_>,
) -> Result<Vec<KeyedBuildResult>, HandlerError> {
    if session.upstream.connection().await?.negotiated().version.minor < WITH_RESULTS {
        let op::BuildPathsWithResults { paths: asked, mode } = request;
        let request = op::BuildPaths {
            paths: asked.clone(),
            mode,
        };
        paths(session, request, exchange).await?;
        let results = all_there(session.upstream.connection().await?, &asked).await;
        let keyed = asked.into_iter().zip(results);
        return Ok(keyed.map(|(path, result)| KeyedBuildResult { path, result }).collect());
    }
    let mut results = recorded(session, &request, exchange, |reply, told| {
        if let Some(results) = reply {
            tell(results, told);
        }
    })
    .await?;
    let store = session.upstream.store()?.config.name.clone();
    sign(&session.ci.core, &store, &mut results).await;
    Ok(results)
}

/// The results of paths that are there, from a store that tells none.
async fn all_there(connection: &mut Connection, paths: &[DerivedPath]) -> Vec<BuildResult> {
    let mut results = Vec::with_capacity(paths.len());
    for path in paths {
        let mut result = there();
        if let DerivedPath::Built {
            drv: SingleDerivedPath::Opaque(drv),
            ..
        } = path
        {
            result.built_outputs = outputs_of(connection, drv).await;
        }
        results.push(only_asked(path, result));
    }
    results
}

/// Signs what the store tells of outputs that were built there.
async fn sign(core: &Core, store: &str, results: &mut [KeyedBuildResult]) {
    let outputs = results.iter_mut().map(|keyed| &mut keyed.result.built_outputs);
    core.signer.sign_realisations(store, outputs.flat_map(hashed)).await;
}

/// Passes a build on, its log to the client and to the records, and records how it ended. When the
/// client goes away the connection to the store is closed, upon which it stops building.
pub(super) async fn recorded<R: op::Call>(
    session: &mut Session,
    request: &R,
    exchange: &mut Exchange<'_>,
    tell: impl FnOnce(Option<&R::Reply>, &mut Told),
) -> Result<R::Reply, HandlerError> {
    let core = session.ci.core.clone();
    let store = session.upstream.store()?.config.name.clone();
    let connection = session.upstream.connection().await?;
    let mut tee = Tee {
        relay: Relay(exchange),
        log: BuildLog::for_others(&core, &store),
    };
    let result = connection.call(request, &mut tee).await;
    let mut told = Told::default();
    tell(result.as_ref().ok(), &mut told);
    tee.log.finish(&told).await;
    result.map_err(|error| refuse(&error))
}

/// The store's voice among all the client hears.
struct Among<'w, 'x, 'e> {
    waiting: &'w mut Waiting,
    exchange: &'x mut Exchange<'e>,
    stream: Stream,
    mailbox: Arc<Mailbox>,
    log: BuildLog,
}

impl Among<'_, '_, '_> {
    async fn show(&mut self) {
        while let Some(post) = self.mailbox.try_next() {
            for message in self.waiting.show(post) {
                self.exchange.log(message).await;
            }
        }
    }
}

impl LogSink for Among<'_, '_, '_> {
    async fn message(&mut self, message: LogMessage) {
        self.stream.push(&message);
        self.show().await;
        self.log.message(message).await;
    }
}

/// Asks a store for what need not be built: it is there, or the store fetches it. One result for each path.
pub(super) async fn rest(
    session: &mut Session,
    store: Option<StoreId>,
    paths: Vec<DerivedPath>,
    waiting: &mut Waiting,
    exchange: &mut Exchange<'_>,
) -> Result<Vec<BuildResult>, HandlerError> {
    let core = session.ci.core.clone();
    let first = session.upstream.store()?;
    let place = store.and_then(|id| core.store(id)).unwrap_or(first);
    let name = place.config.name.clone();
    let mailbox = Arc::new(Mailbox::default());
    let mut among = Among {
        waiting,
        exchange,
        stream: Stream::to(core.requests.number(), mailbox.clone()),
        mailbox,
        log: BuildLog::for_others(&core, &name),
    };
    let connection = connection(session, store).await?;
    let mut told = Told::default();
    let answered = if connection.negotiated().version.minor >= WITH_RESULTS {
        let mode = BuildMode::Normal;
        let request = op::BuildPathsWithResults { paths, mode };
        match connection.call(&request, &mut among).await {
            Ok(mut results) => {
                tell(&results, &mut told);
                sign(&core, &name, &mut results).await;
                Ok(results.into_iter().map(|keyed| keyed.result).collect())
            }
            Err(error) => Err(error),
        }
    } else {
        let request = op::BuildPaths {
            paths: paths.clone(),
            mode: BuildMode::Normal,
        };
        match connection.call(&request, &mut among).await {
            Ok(_) => {
                told.succeeded = true;
                Ok(all_there(connection, &paths).await)
            }
            Err(error) => Err(error),
        }
    };
    among.stream.over();
    among.show().await;
    among.log.finish(&told).await;
    answered.map_err(|error| refuse(&error))
}

/// Keeps what was built for as long as the client is there.
pub(super) async fn protect(
    session: &mut Session,
    store: Option<StoreId>,
    paths: BTreeSet<StorePath>,
) -> Result<(), HandlerError> {
    let roots: Vec<op::AddTempRoot> = paths.into_iter().map(|path| op::AddTempRoot { path }).collect();
    let mut kept = connection(session, store).await?.call_all(&roots, &mut ()).await;
    if kept.as_ref().is_err_and(|error| !error.is_remote()) {
        // The store was restarted while others built for this client; it can be asked again.
        kept = connection(session, store).await?.call_all(&roots, &mut ()).await;
    }
    kept.map(drop).map_err(|error| refuse(&error))
}

/// The client's own connection to a store.
async fn connection(session: &mut Session, store: Option<StoreId>) -> Result<&mut Connection, HandlerError> {
    let Some(store) = store.filter(|store| store.0 > 0) else {
        return session.upstream.connection().await;
    };
    let core = session.ci.core.clone();
    let links = &mut session.links;
    if !links.get(&store).is_some_and(|link| link.is_reusable()) {
        let Some(place) = core.store(store) else {
            return Err(HandlerError::new("a store is not configured any more"));
        };
        let link = place.remote.connect().await.map_err(|error| refuse(&error))?;
        links.insert(store, link);
    }
    match links.get_mut(&store) {
        Some(link) => Ok(link),
        None => Err(HandlerError::new("the connection to a store is gone")),
    }
}
