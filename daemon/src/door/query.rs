//! Questions about store objects: from what is known where that suffices, from the stores behind for the rest.

use std::collections::BTreeMap;

use nixci_protocol::op::{self, RealisationKey, Realisations, Reply};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{DrvPath, OutputName, StorePath, nix32};
use nixci_store::index::derivations;

use super::session::{Session, refuse};
use crate::core::Core;
use crate::objects::{ObjectError, knows_paths_only};

type Answered = Result<Reply, HandlerError>;

fn told<T>(result: Result<T, ObjectError>) -> Result<T, HandlerError> {
    result.map_err(|error| refuse(&error))
}

pub(super) async fn is_valid(session: &mut Session, request: op::IsValidPath) -> Answered {
    Ok(Reply::Bool(told(
        session.ci.core.objects.is_valid(&request.path).await,
    )?))
}

pub(super) async fn valid_paths(
    session: &mut Session,
    mut request: op::QueryValidPaths,
    exchange: &mut Exchange<'_>,
) -> Answered {
    let objects = &session.ci.core.objects;
    if !request.substitute {
        return Ok(Reply::Paths(told(objects.valid(request.paths).await)?));
    }
    let mut valid = told(objects.valid(request.paths.clone()).await)?;
    request.paths.retain(|path| !valid.contains(path));
    if !request.paths.is_empty() {
        valid.extend(session.upstream.call_rooted(&request, exchange).await?);
    }
    Ok(Reply::Paths(valid))
}

pub(super) async fn path_info(session: &mut Session, request: op::QueryPathInfo) -> Answered {
    let info = told(session.ci.core.objects.info(&request.path).await)?;
    Ok(info.map_or(Reply::PathInfo(None), Reply::KnownPath))
}

pub(super) async fn referrers(session: &mut Session, request: op::QueryReferrers) -> Answered {
    Ok(Reply::Paths(told(
        session.ci.core.objects.referrers(&request.path).await,
    )?))
}

pub(super) async fn deriver(session: &mut Session, request: op::QueryDeriver, exchange: &mut Exchange<'_>) -> Answered {
    match told(session.ci.core.objects.info(&request.path).await)? {
        Some(info) => Ok(Reply::MaybePath(info.info.deriver.clone())),
        // The store has the words for a path that is not valid.
        None => session.upstream.ask(&request, exchange).await,
    }
}

pub(super) async fn valid_derivers(session: &mut Session, request: op::QueryValidDerivers) -> Answered {
    Ok(Reply::Paths(told(
        session.ci.core.objects.derivers(&request.path).await,
    )?))
}

pub(super) async fn all_valid(session: &mut Session) -> Answered {
    Ok(Reply::Paths(told(session.ci.core.objects.all().await)?))
}

pub(super) async fn hash_part(
    session: &mut Session,
    request: op::QueryPathFromHashPart,
    exchange: &mut Exchange<'_>,
) -> Answered {
    match nix32::decode::<20>(request.hash_part.as_bytes()) {
        Ok(digest) => Ok(Reply::MaybePath(told(
            session.ci.core.objects.by_hash_part(&digest).await,
        )?)),
        Err(_) => session.upstream.ask(&request, exchange).await,
    }
}

/// The outputs of a derivation that the index knows; none where it does not know the derivation, or not all outputs
/// have paths before they are built.
async fn static_outputs(core: &Core, drv: &StorePath) -> Result<Option<BTreeMap<OutputName, StorePath>>, HandlerError> {
    let asked = drv.clone();
    let rows = core
        .index
        .read(move |conn| match derivations::ids(conn, &[asked])?.first() {
            Some(Some(id)) => derivations::outputs(conn, *id),
            Some(None) | None => Ok(Vec::new()),
        });
    let rows = rows.await.map_err(|error| refuse(&error))?;
    if rows.is_empty() {
        return Ok(None);
    }
    let outputs = rows
        .into_iter()
        .map(|row| Some((row.name.parse().ok()?, row.path?)))
        .collect();
    Ok(outputs)
}

/// The outputs of a valid derivation, as far as they are known: from the index, and for those that are known only
/// once they were built from the store behind, which gets the derivation where it is still in the spool.
async fn outputs(
    session: &mut Session,
    drv: &DrvPath,
    exchange: &mut Exchange<'_>,
) -> Result<BTreeMap<OutputName, Option<StorePath>>, HandlerError> {
    let core = session.ci.core.clone();
    let path = drv.path();
    if told(core.objects.is_valid(path).await)?
        && let Some(outputs) = static_outputs(&core, path).await?
    {
        return Ok(outputs.into_iter().map(|(name, path)| (name, Some(path))).collect());
    }
    if session.spooled(path) {
        session.upstream.forward(vec![path.clone()]).await?;
    }
    let question = op::QueryDerivationOutputMap { drv: drv.clone() };
    session.upstream.call(&question, exchange).await
}

pub(super) async fn output_map(
    session: &mut Session,
    request: op::QueryDerivationOutputMap,
    exchange: &mut Exchange<'_>,
) -> Answered {
    Ok(Reply::OutputMap(outputs(session, &request.drv, exchange).await?))
}

pub(super) async fn output_paths(
    session: &mut Session,
    request: op::QueryDerivationOutputs,
    exchange: &mut Exchange<'_>,
) -> Answered {
    let outputs = outputs(session, &request.drv, exchange).await?;
    Ok(Reply::Paths(outputs.into_values().flatten().collect()))
}

pub(super) async fn output_names(
    session: &mut Session,
    request: op::QueryDerivationOutputNames,
    exchange: &mut Exchange<'_>,
) -> Answered {
    let outputs = outputs(session, &request.drv, exchange).await?;
    Ok(Reply::OutputNames(outputs.into_keys().collect()))
}

/// Clients are not offered realisations by the path of the derivation, so that they ask by hash.
pub(super) async fn realisation(session: &mut Session, request: op::QueryRealisation) -> Answered {
    let found = match &request.key {
        RealisationKey::Hashed(id) => told(session.ci.core.objects.realisation(id).await)?,
        RealisationKey::Named(_) => None,
    };
    Ok(Reply::Realisations(Realisations::Hashed(found.into_iter().collect())))
}

pub(super) async fn register_realisation(
    session: &mut Session,
    request: op::RegisterDrvOutput,
    exchange: &mut Exchange<'_>,
) -> Answered {
    let connection = session.upstream.connection().await?;
    if knows_paths_only(connection.daemon_version()) {
        return Err(HandlerError::new(
            "the store behind nixci takes realisations by the path of the derivation only, not by its hash; register \
             it there with a Nix of the same version",
        ));
    }
    // It takes them of objects it has only, and a client sends the object first.
    let path = match &request {
        op::RegisterDrvOutput::Hashed(realisation) => &realisation.out_path,
        op::RegisterDrvOutput::Named(_, realisation) => &realisation.out_path,
    };
    if session.ci.core.spool.contains(path) {
        session.upstream.forward(vec![path.clone()]).await?;
    }
    session.upstream.done(&request, exchange).await
}

pub(super) async fn nar(session: &mut Session, request: op::NarFromPath) -> Answered {
    // Asked before anything is promised: a NAR cannot be taken back once it began.
    if let Some(nar) = told(session.ci.core.objects.nar(&request.path).await)? {
        return Ok(Reply::Nar(nar));
    }
    let path = session.ci.core.config.store_dir.display(&request.path).to_string();
    Err(HandlerError::new(format!("path '{path}' is not valid")))
}

/// A root on a path that is known to be there costs the store nothing; for any other the client gets a connection of
/// its own, as the root must be there before the path.
pub(super) async fn temp_root(
    session: &mut Session,
    request: op::AddTempRoot,
    exchange: &mut Exchange<'_>,
) -> Answered {
    if session.ci.core.objects.promise(&request.path, &mut session.roots) {
        return Ok(Reply::Done);
    }
    session.upstream.done(&request, exchange).await
}

/// What is valid anywhere can be read through us; only what is nowhere has to be substituted.
pub(super) async fn ensure(session: &mut Session, request: op::EnsurePath, exchange: &mut Exchange<'_>) -> Answered {
    if told(session.ci.core.objects.is_valid(&request.path).await)? {
        return Ok(Reply::Done);
    }
    session.upstream.done(&request, exchange).await
}
