//! Builds that stock clients ask for: passed on to the store behind, and recorded.

use std::collections::BTreeSet;

use nixci_protocol::client::LogSink;
use nixci_protocol::log::LogMessage;
use nixci_protocol::op::{self, Reply};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{BuildMode, BuildResult, DerivedPath, SingleDerivedPath, StorePath};

use super::session::{Session, refuse};
use super::upstream::Relay;
use crate::build::{BuildLog, Told};
use crate::config::Writes;

type Answered = Result<Reply, HandlerError>;

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

fn only_normal(mode: BuildMode) -> Result<(), HandlerError> {
    match mode {
        BuildMode::Normal => Ok(()),
        BuildMode::Repair | BuildMode::Check => Err(HandlerError::new(
            "nixci does not repair or check builds; ask the nix-daemon of the store behind it".to_owned(),
        )),
    }
}

pub(super) async fn missing(session: &mut Session, request: op::QueryMissing, exchange: &mut Exchange<'_>) -> Answered {
    match session.ci.core.config.listen.writes {
        Writes::Through => return session.upstream.ask(&request, exchange).await,
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

pub(super) async fn paths(session: &mut Session, request: op::BuildPaths, exchange: &mut Exchange<'_>) -> Answered {
    only_normal(request.mode)?;
    let needed = needed(session, &request.paths);
    session.upstream.forward(needed).await?;
    let result = recorded(session, &request, exchange, |reply, told| {
        told.succeeded = reply.is_some();
    })
    .await?;
    let op::Ack::Done = result;
    Ok(Reply::Done)
}

pub(super) async fn paths_with_results(
    session: &mut Session,
    request: op::BuildPathsWithResults,
    exchange: &mut Exchange<'_>,
) -> Answered {
    only_normal(request.mode)?;
    let needed = needed(session, &request.paths);
    session.upstream.forward(needed).await?;
    let results = recorded(session, &request, exchange, |reply, told| {
        for keyed in reply.into_iter().flatten() {
            if let DerivedPath::Built {
                drv: SingleDerivedPath::Opaque(drv),
                ..
            } = &keyed.path
            {
                told.result(drv.clone(), &keyed.result);
            }
        }
        told.succeeded = reply.is_some_and(|results| results.iter().all(|keyed| keyed.result.status.is_success()));
    })
    .await?;
    Ok(Reply::BuiltAll(results))
}

pub(super) async fn derivation(
    session: &mut Session,
    request: op::BuildDerivation,
    exchange: &mut Exchange<'_>,
) -> Answered {
    only_normal(request.mode)?;
    let needed: Vec<StorePath> = request
        .derivation
        .input_srcs
        .iter()
        .filter(|path| session.ci.core.spool.contains(path))
        .cloned()
        .collect();
    session.upstream.forward(needed).await?;
    let drv = request.drv.path().clone();
    let result: BuildResult = recorded(session, &request, exchange, |reply, told| {
        if let Some(result) = reply {
            told.result(drv, result);
            told.succeeded = result.status.is_success();
        }
    })
    .await?;
    Ok(result.into())
}

/// Passes a build on, its log to the client and to the records, and records how it ended. When the
/// client goes away the connection to the store is closed, upon which it stops building.
async fn recorded<R: op::Call>(
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
