//! What clients write: verified, then on disk and in the graph, then answered.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use nixci_protocol::io::{PathStreamReader, StreamKind};
use nixci_protocol::op::{self, Reply};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{AddMethod, ContentAddressMethod, DrvPath, HashAlgo, PathInfo, StorePath};
use nixci_store::derivation::Derivation;
use nixci_store::index::derivations;
use nixci_store::spool::{Authority, Verified};
use tokio::io::AsyncRead;

use super::inflate::{Bounds, Inflate};
use super::session::{Session, refuse};
use crate::adopt;
use crate::config::Writes;
use crate::core::Core;

type Answered = Result<Reply, HandlerError>;

/// Objects that are made durable together. A commit costs milliseconds whatever it holds.
const BATCH_OBJECTS: usize = 4_096;
/// Bytes of NARs in one batch, as far as they are in memory.
const BATCH_BYTES: u64 = 16 << 20;

/// Objects of one request on their way in.
struct Intake<'s> {
    session: &'s mut Session,
    authority: Authority,
    batch: Vec<Verified>,
    derivations: Vec<Derivation>,
    /// Derivations too large to be read before they are in the spool.
    large: Vec<StorePath>,
    /// Paths that came and were there.
    again: Vec<StorePath>,
    bytes: u64,
    added: u64,
}

/// What may be taken from a client without a proof. As at a stock store, those who are trusted must also ask that
/// signatures are not checked.
pub(super) fn authority(session: &Session, dont_check_sigs: bool) -> Authority {
    if session.who.is_trusted() && dont_check_sigs {
        Authority::Trusted
    } else {
        Authority::Untrusted
    }
}

impl<'s> Intake<'s> {
    fn new(session: &'s mut Session, authority: Authority) -> Self {
        Self {
            session,
            authority,
            batch: Vec::new(),
            derivations: Vec::new(),
            large: Vec::new(),
            again: Vec::new(),
            bytes: 0,
            added: 0,
        }
    }

    /// Takes one object from a stream and checks it.
    async fn receive(&mut self, info: PathInfo, nar: &mut (impl AsyncRead + Send + Unpin)) -> Result<(), HandlerError> {
        let limit = self.session.ci.core.config.limits.nar_bytes;
        if info.info.nar_size > limit {
            return Err(HandlerError::new(format!(
                "{} has {} bytes; objects of more than {limit} are refused (`nar_bytes` in [limits])",
                info.path, info.info.nar_size
            )));
        }
        let spool = self.session.ci.core.spool.clone();
        let verified = spool
            .receive(info, nar, self.authority)
            .await
            .map_err(|error| refuse(&error))?;
        self.take(verified).await
    }

    async fn take(&mut self, object: Verified) -> Result<(), HandlerError> {
        let path = object.info().path.clone();
        if let Ok(drv) = DrvPath::try_from(path.clone()) {
            match object.file() {
                Some(content) => {
                    let derivation = Derivation::parse(&drv, &self.session.ci.core.config.store_dir, content)
                        .map_err(|error| refuse(&error))?;
                    self.derivations.push(derivation);
                }
                None => self.large.push(path),
            }
        }
        self.bytes += object.info().info.nar_size;
        self.batch.push(object);
        if self.batch.len() >= BATCH_OBJECTS || self.bytes >= BATCH_BYTES {
            self.flush().await?;
        }
        Ok(())
    }

    /// Makes durable what has arrived.
    async fn flush(&mut self) -> Result<(), HandlerError> {
        let core = self.session.ci.core.clone();
        let mut paths: Vec<StorePath> = self.batch.iter().map(|object| object.info().path.clone()).collect();
        paths.append(&mut self.again);
        self.bytes = 0;
        // The graph first: a derivation that is in the spool is then in the graph too, except after a
        // power cut, which a submission repairs.
        let derivations = std::mem::take(&mut self.derivations);
        if !derivations.is_empty() {
            core.index
                .write(move |tx| derivations::add(tx, &derivations).map(drop))
                .await
                .map_err(|error| refuse(&error))?;
        }
        let batch = std::mem::take(&mut self.batch);
        bring(&core, &batch).await?;
        self.added += core.spool.add(batch).await.map_err(|error| refuse(&error))?;
        let large = std::mem::take(&mut self.large);
        if !large.is_empty() {
            adopt::adopt(&core, large).await.map_err(|error| refuse(&error))?;
        }
        match core.config.listen.writes {
            Writes::Spool => Ok(()),
            Writes::Through => self.session.upstream.forward(paths).await,
        }
    }

    /// Makes durable what has arrived whole, also where what followed did not.
    async fn finish(mut self, result: Result<(), HandlerError>) -> Result<u64, HandlerError> {
        let flushed = self.flush().await;
        result.and(flushed)?;
        Ok(self.added)
    }
}

/// Copies what these refer to and only a store has, which is why the client did not send it.
async fn bring(core: &Core, batch: &[Verified]) -> Result<(), HandlerError> {
    let mut lacking: BTreeSet<StorePath> = batch
        .iter()
        .flat_map(|object| &object.info().info.references)
        .filter(|path| !core.spool.contains(path))
        .cloned()
        .collect();
    for object in batch {
        lacking.remove(&object.info().path);
    }
    if lacking.is_empty() {
        return Ok(());
    }
    let derivations = core.objects.bring(lacking).await.map_err(|error| refuse(&error))?;
    adopt::adopt(core, derivations).await.map_err(|error| refuse(&error))
}

/// In a store that clients share a disk with: what is known of a path that it has already. The client has a root on
/// it then, as after adding it.
async fn already_there(
    session: &mut Session,
    path: &StorePath,
    exchange: &mut Exchange<'_>,
) -> Result<Option<Arc<PathInfo>>, HandlerError> {
    let core = session.ci.core.clone();
    let remembered = !path.is_derivation() || core.spool.contains(path);
    if core.config.listen.writes != Writes::Through || !remembered {
        return Ok(None);
    }
    if !core.objects.promise(path, &mut session.roots) {
        let root = op::AddTempRoot { path: path.clone() };
        session.upstream.done(&root, exchange).await?;
    }
    core.objects.info(path).await.map_err(|error| refuse(&error))
}

pub(super) async fn to_store(session: &mut Session, request: op::AddToStore, exchange: &mut Exchange<'_>) -> Answered {
    let spool = session.ci.core.spool.clone();
    let limit = session.ci.core.config.limits.nar_bytes;
    let mut body = Limited::new(exchange.body(), limit);
    let verified = spool
        .receive_dump(&request.name, request.method, request.references, &mut body)
        .await
        .map_err(|error| refuse(&error))?;
    let info = verified.info().clone();
    if let Some(known) = already_there(session, &info.path, exchange).await? {
        return Ok((*known).clone().into());
    }
    let mut intake = Intake::new(session, Authority::Untrusted);
    let taken = intake.take(verified).await;
    intake.finish(taken).await?;
    Ok(info.into())
}

pub(super) async fn text(session: &mut Session, request: op::AddTextToStore, exchange: &mut Exchange<'_>) -> Answered {
    let method = AddMethod {
        method: ContentAddressMethod::Text,
        algo: HashAlgo::Sha256,
    };
    let text: Bytes = request.text;
    let references: BTreeSet<StorePath> = request.references;
    let spool = session.ci.core.spool.clone();
    let verified = spool
        .receive_dump(&request.name, method, references, &mut &text[..])
        .await
        .map_err(|error| refuse(&error))?;
    let path = verified.info().path.clone();
    if already_there(session, &path, exchange).await?.is_some() {
        return Ok(Reply::Path(path));
    }
    let mut intake = Intake::new(session, Authority::Untrusted);
    let taken = intake.take(verified).await;
    intake.finish(taken).await?;
    Ok(Reply::Path(path))
}

pub(super) async fn nar(session: &mut Session, request: op::AddToStoreNar, exchange: &mut Exchange<'_>) -> Answered {
    let authority = authority(session, request.dont_check_sigs);
    let mut intake = Intake::new(session, authority);
    let taken = intake.receive(request.info, &mut exchange.body()).await;
    intake.finish(taken).await?;
    Ok(Reply::Done)
}

pub(super) async fn multiple(
    session: &mut Session,
    request: &op::AddMultipleToStore,
    exchange: &mut Exchange<'_>,
) -> Answered {
    let authority = authority(session, request.dont_check_sigs);
    stream(session, authority, StreamKind::Counted, exchange.body()).await?;
    Ok(Reply::Done)
}

pub(super) async fn closure(session: &mut Session, exchange: &mut Exchange<'_>) -> Answered {
    let limits = &session.ci.core.config.limits;
    let bounds = Bounds {
        compressed: limits.closure_bytes,
        unpacked: limits.closure_unpacked_bytes,
    };
    let content = Inflate::new(exchange.body(), bounds).map_err(|error| refuse(&error))?;
    // `nixci` sends what it has, and has no word for this.
    let authority = authority(session, true);
    let added = stream(session, authority, StreamKind::Tagged, content).await?;
    Ok(Reply::Count(added))
}

async fn stream(
    session: &mut Session,
    authority: Authority,
    kind: StreamKind,
    from: impl AsyncRead + Send + Unpin,
) -> Result<u64, HandlerError> {
    let dir = session.ci.core.config.store_dir.clone();
    let limits = session.ci.core.config.limits.wire.clone();
    let mut paths = PathStreamReader::new(kind, dir, limits, from);
    let mut intake = Intake::new(session, authority);
    let taken = loop {
        let info = match paths.next().await {
            Ok(Some(info)) => info,
            Ok(None) => break Ok(()),
            Err(error) => break Err(refuse(&error)),
        };
        if intake.session.ci.core.spool.contains(&info.path) {
            // As stock stores do: what is there is not looked at again. The store behind may lack it all the same.
            intake.again.push(info.path);
            continue;
        }
        if let Err(error) = intake.receive(info, &mut paths.nar()).await {
            break Err(error);
        }
    };
    intake.finish(taken).await
}

/// A body that is refused above a limit, for operations that do not say their size.
struct Limited<R> {
    inner: R,
    limit: u64,
    left: u64,
}

impl<R> Limited<R> {
    fn new(inner: R, limit: u64) -> Self {
        Self {
            inner,
            limit,
            left: limit,
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Limited<R> {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        out: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        let before = out.filled().len();
        std::task::ready!(std::pin::Pin::new(&mut self.inner).poll_read(cx, out))?;
        let read = (out.filled().len() - before) as u64;
        if let Some(left) = self.left.checked_sub(read) {
            self.left = left;
            return std::task::Poll::Ready(Ok(()));
        }
        // A reader that fails must not have given anything.
        out.set_filled(before);
        std::task::Poll::Ready(Err(std::io::Error::other(format!(
            "objects of more than {} bytes are refused (`nar_bytes` in [limits])",
            self.limit
        ))))
    }
}
