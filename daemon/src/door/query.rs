//! Questions: from the spool and the index where they know, from the store behind for the rest.

use std::collections::{BTreeMap, BTreeSet};

use nixci_protocol::op::{self, Reply};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{OutputName, StorePath, nix32};
use nixci_store::index::derivations;

use super::session::{Session, refuse};
use crate::core::Core;

type Answered = Result<Reply, HandlerError>;

pub(super) async fn is_valid(session: &mut Session, request: op::IsValidPath) -> Answered {
    let asked = BTreeSet::from([request.path]);
    let valid = session.ci.core.objects.valid(asked).await;
    Ok(Reply::Bool(!valid.map_err(|error| refuse(&error))?.is_empty()))
}

pub(super) async fn valid_paths(
    session: &mut Session,
    mut request: op::QueryValidPaths,
    exchange: &mut Exchange<'_>,
) -> Answered {
    let objects = &session.ci.core.objects;
    if !request.substitute {
        let valid = objects.valid(request.paths).await;
        return Ok(Reply::Paths(valid.map_err(|error| refuse(&error))?));
    }
    let mut valid = objects
        .valid(request.paths.clone())
        .await
        .map_err(|error| refuse(&error))?;
    request.paths.retain(|path| !valid.contains(path));
    if !request.paths.is_empty() {
        valid.extend(session.upstream.call(&request, exchange).await?);
    }
    Ok(Reply::Paths(valid))
}

pub(super) async fn path_info(session: &mut Session, request: op::QueryPathInfo) -> Answered {
    let info = session.ci.core.objects.info(&request.path).await;
    let info = info.map_err(|error| refuse(&error))?;
    Ok(Reply::PathInfo(info.map(|info| info.info.clone())))
}

pub(super) async fn referrers(
    session: &mut Session,
    request: op::QueryReferrers,
    exchange: &mut Exchange<'_>,
) -> Answered {
    match session.upstream.ask(&request, exchange).await {
        // The store behind need not have heard of it; what refers to it in the spool is on its way.
        Err(_) if session.spooled(&request.path) => Ok(Reply::Paths(BTreeSet::new())),
        answered => answered,
    }
}

pub(super) async fn deriver(session: &mut Session, request: op::QueryDeriver, exchange: &mut Exchange<'_>) -> Answered {
    let info = session.ci.core.objects.info(&request.path).await;
    match info.map_err(|error| refuse(&error))? {
        Some(info) => Ok(Reply::MaybePath(info.info.deriver.clone())),
        None => session.upstream.ask(&request, exchange).await,
    }
}

pub(super) async fn valid_derivers(
    session: &mut Session,
    request: op::QueryValidDerivers,
    exchange: &mut Exchange<'_>,
) -> Answered {
    let path = request.path.clone();
    let core = session.ci.core.clone();
    let known = core
        .index
        .read(move |conn| {
            let makers = derivations::makers(conn, &path, 100)?;
            derivations::paths(conn, &makers)
        })
        .await
        .map_err(|error| refuse(&error))?;
    let mut all: BTreeSet<StorePath> = known.into_iter().filter(|path| session.spooled(path)).collect();
    all.extend(session.upstream.call(&request, exchange).await?);
    Ok(Reply::Paths(all))
}

pub(super) async fn hash_part(
    session: &mut Session,
    request: op::QueryPathFromHashPart,
    exchange: &mut Exchange<'_>,
) -> Answered {
    let digest: Option<[u8; 20]> = nix32::decode(request.hash_part.as_bytes()).ok();
    let Some(digest) = digest else {
        return session.upstream.ask(&request, exchange).await;
    };
    let found = session.ci.core.objects.by_hash_part(&digest).await;
    Ok(Reply::MaybePath(found.map_err(|error| refuse(&error))?))
}

/// The outputs of a derivation that the index knows, where all have paths before they are built.
async fn known_outputs(core: &Core, drv: &StorePath) -> Result<Option<BTreeMap<OutputName, StorePath>>, HandlerError> {
    let asked = drv.clone();
    let rows = core
        .index
        .read(move |conn| match derivations::ids(conn, &[asked])?.first() {
            Some(Some(id)) => derivations::outputs(conn, *id),
            Some(None) | None => Ok(Vec::new()),
        })
        .await
        .map_err(|error| refuse(&error))?;
    if rows.is_empty() {
        return Ok(None);
    }
    let mut outputs = BTreeMap::new();
    for row in rows {
        let (Ok(name), Some(path)) = (row.name.parse(), row.path) else {
            return Ok(None);
        };
        outputs.insert(name, path);
    }
    Ok(Some(outputs))
}

pub(super) async fn output_map(
    session: &mut Session,
    request: op::QueryDerivationOutputMap,
    exchange: &mut Exchange<'_>,
) -> Answered {
    if let Some(outputs) = known_outputs(&session.ci.core, request.drv.path()).await? {
        return Ok(Reply::OutputMap(
            outputs.into_iter().map(|(name, path)| (name, Some(path))).collect(),
        ));
    }
    send(session, request.drv.path()).await?;
    session.upstream.ask(&request, exchange).await
}

pub(super) async fn outputs(
    session: &mut Session,
    request: op::QueryDerivationOutputs,
    exchange: &mut Exchange<'_>,
) -> Answered {
    if let Some(outputs) = known_outputs(&session.ci.core, request.drv.path()).await? {
        return Ok(Reply::Paths(outputs.into_values().collect()));
    }
    send(session, request.drv.path()).await?;
    session.upstream.ask(&request, exchange).await
}

pub(super) async fn output_names(
    session: &mut Session,
    request: op::QueryDerivationOutputNames,
    exchange: &mut Exchange<'_>,
) -> Answered {
    if let Some(outputs) = known_outputs(&session.ci.core, request.drv.path()).await? {
        return Ok(Reply::OutputNames(outputs.into_keys().collect()));
    }
    send(session, request.drv.path()).await?;
    session.upstream.ask(&request, exchange).await
}

/// Sends a path on before the store behind is asked about it, where it is still in the spool.
async fn send(session: &mut Session, path: &StorePath) -> Result<(), HandlerError> {
    if session.ci.core.spool.contains(path) {
        session.upstream.forward(vec![path.clone()]).await?;
    }
    Ok(())
}

pub(super) async fn nar(session: &mut Session, request: op::NarFromPath) -> Answered {
    // Asked before anything is promised: a NAR cannot be taken back once it began.
    let nar = session.ci.core.objects.nar(&request.path).await;
    match nar.map_err(|error| refuse(&error))? {
        Some(nar) => Ok(Reply::Nar(nar)),
        None => {
            let path = session.ci.core.config.store_dir.display(&request.path).to_string();
            Err(HandlerError::new(format!("path '{path}' is not valid")))
        }
    }
}
