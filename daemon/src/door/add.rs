//! What clients write: verified, then on disk and in the graph, then answered.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use nixci_protocol::io::{PathStreamReader, StreamKind};
use nixci_protocol::op::{self, Reply};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{AddMethod, ContentAddressMethod, DrvPath, HashAlgo, PathInfo, StorePath};
use nixci_store::derivation::Derivation;
use nixci_store::index::derivations;
use nixci_store::spool::{self, Authority, Spool, Verified};
use nixci_store::upload::inflate::{Bound, Bounds, Inflate};
use tokio::io::AsyncRead;

use super::session::{Session, refuse};
use super::upstream::Forwarding;
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
    /// What is on its way to the store behind while more is received.
    forwarding: Option<Forwarding>,
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
            forwarding: None,
            bytes: 0,
            added: 0,
        }
    }

    /// Takes one object from a stream and checks it.
    async fn receive(&mut self, info: PathInfo, nar: &mut (impl AsyncRead + Send + Unpin)) -> Result<(), HandlerError> {
        let limit = self.session.ci.core.settings().config.limits.nar_bytes;
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

    /// Makes durable what has arrived. A client that goes away meanwhile does not undo it.
    async fn flush(&mut self) -> Result<(), HandlerError> {
        let core = self.session.ci.core.clone();
        let mut paths: Vec<StorePath> = self.batch.iter().map(|object| object.info().path.clone()).collect();
        paths.append(&mut self.again);
        self.bytes = 0;
        let arrived = Arrived {
            objects: std::mem::take(&mut self.batch),
            derivations: std::mem::take(&mut self.derivations),
            large: std::mem::take(&mut self.large),
        };
        let writes = core.config.listen.writes;
        let stored = tokio::spawn(arrived.store(core)).await;
        let (added, result) = stored.map_err(|_| HandlerError::new("storing what came was stopped"))?;
        self.added += added;
        result?;
        match writes {
            Writes::Spool => Ok(()),
            Writes::Through => {
                self.forwarded().await?;
                self.forwarding = self.session.upstream.begin_forward(paths).await?;
                Ok(())
            }
        }
    }

    /// Waits until the store behind has what it was sent.
    async fn forwarded(&mut self) -> Result<(), HandlerError> {
        match self.forwarding.take() {
            Some(forwarding) => self.session.upstream.end_forward(forwarding).await,
            None => Ok(()),
        }
    }

    /// Makes durable what has arrived whole, also where what followed did not.
    async fn finish(mut self, result: Result<(), HandlerError>) -> Result<u64, HandlerError> {
        let flushed = self.flush().await;
        let forwarded = self.forwarded().await;
        result.and(flushed).and(forwarded)?;
        Ok(self.added)
    }
}

/// Objects that are to be made durable together.
struct Arrived {
    /// In the order in which they came.
    objects: Vec<Verified>,
    derivations: Vec<Derivation>,
    large: Vec<StorePath>,
}

impl Arrived {
    /// Stores the objects up to the first that refers to what is nowhere, and says how many were new.
    async fn store(mut self, core: Arc<Core>) -> (u64, Result<(), HandlerError>) {
        if let Err(error) = bring(&core, &self.objects).await {
            return (0, Err(error));
        }
        let refused = self.cut_at_dangling(&core.spool);
        match self.write(&core).await {
            Ok(added) => (added, refused.map_or(Ok(()), |error| Err(refuse(&error)))),
            Err(error) => (0, Err(error)),
        }
    }

    /// Lets go of the first object that refers to what is neither in the spool nor before it, and of all that follow.
    ///
    /// References come first, so that no batch decides what is taken, and so that nothing refers to itself by way of
    /// others.
    fn cut_at_dangling(&mut self, spool: &Spool) -> Option<spool::Error> {
        let mut before: HashSet<&StorePath> = HashSet::with_capacity(self.objects.len());
        let dangling = self.objects.iter().enumerate().find_map(|(at, object)| {
            let PathInfo { path, info } = object.info();
            let is_here =
                |reference: &&StorePath| *reference == path || before.contains(reference) || spool.contains(reference);
            let reference = info.references.iter().find(|reference| !is_here(reference));
            before.insert(path);
            reference.map(|reference| {
                let error = spool::Error::MissingReference {
                    path: path.clone(),
                    reference: reference.clone(),
                };
                (at, error)
            })
        });
        let (at, error) = dangling?;
        let left: HashSet<StorePath> = self
            .objects
            .drain(at..)
            .map(|object| object.info().path.clone())
            .collect();
        self.derivations.retain(|derivation| !left.contains(&derivation.path));
        self.large.retain(|path| !left.contains(path));
        Some(error)
    }

    async fn write(self, core: &Core) -> Result<u64, HandlerError> {
        let Self {
            objects,
            derivations,
            large,
        } = self;
        // The graph first: a derivation that is in the spool is then in the graph too, except after a
        // power cut, which a submission repairs.
        if !derivations.is_empty() {
            core.index
                .write(move |tx| derivations::add(tx, &derivations).map(drop))
                .await
                .map_err(|error| refuse(&error))?;
        }
        let added = core.spool.add(objects).await.map_err(|error| refuse(&error))?;
        if !large.is_empty() {
            adopt::adopt(core, large).await.map_err(|error| refuse(&error))?;
        }
        Ok(added)
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
    let limit = session.ci.core.settings().config.limits.nar_bytes;
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
    let settings = session.ci.core.settings();
    let limits = &settings.config.limits;
    let bounds = Bounds {
        compressed: Bound {
            most: limits.closure_bytes,
            advice: "(`closure_bytes` in [limits]); send it in parts",
        },
        unpacked: Bound {
            most: limits.closure_unpacked_bytes,
            advice: "(`closure_unpacked_bytes` in [limits]); send it in parts",
        },
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
    let limits = session.ci.core.settings().config.limits.wire.clone();
    let mut paths = PathStreamReader::new(kind, dir, limits, from);
    let mut intake = Intake::new(session, authority);
    let taken = loop {
        let info = match paths.next().await {
            Ok(Some(info)) => info,
            Ok(None) => break paths.end().await.map_err(|error| refuse(&error)),
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
