//! Sending objects to a store: compressed to our own daemon, in one stream to stock ones.

mod compress;
pub mod inflate;
mod source;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};

use futures_util::{StreamExt as _, TryStreamExt as _, pin_mut, stream};
use nixci_protocol::client::{self, Connection};
use nixci_protocol::io::{PathStreamError, PathStreamWriter, StreamKind};
use nixci_protocol::nixci::{AddClosure, FEATURE_CLOSURE};
use nixci_protocol::op::{AddMultipleToStore, AddToStoreNar, FramedCall, Operation as _};
use nixci_protocol::types::{PathInfo, StoreDir, StorePath};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};

use compress::Compressed;
pub use source::{NarReader, Object, ObjectSource, SourceError};

/// Paths that are read at a time: many enough for one trip to a blocking thread, few enough for memory, as each small
/// object may have 64 KiB or so.
const BATCH: usize = 128;
/// Batches that are read ahead.
const AHEAD: usize = 2;
/// Bytes between what encodes and what sends.
const PIPE: usize = 256 * 1024;

/// How far an upload is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Paths that were sent.
    pub paths: u64,
    /// Bytes of their NARs, uncompressed.
    pub bytes: u64,
}

/// Why an upload ended early. What the store had taken whole stays there.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// An object cannot be read. The connection cannot be used again.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An object is not what its info says. The connection cannot be used again.
    #[error(transparent)]
    Object(PathStreamError),
    /// The store refused, or went away.
    #[error(transparent)]
    Store(#[from] client::Error),
}

/// Sends objects to a store, which has them when it returns. `paths` come references first, and what they refer to
/// besides is valid there, as a negotiation finds them.
///
/// Memory is bounded whatever the size of the objects. `progress` is called after each path was encoded, which is some
/// hundred kilobytes before it is sent. Dropping the future leaves the connection unusable.
pub async fn upload<S: ObjectSource>(
    connection: &mut Connection,
    source: &S,
    paths: &[StorePath],
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Progress, UploadError> {
    if paths.is_empty() {
        return Ok(Progress::default());
    }
    let on = connection.negotiated();
    let dir = on.store_dir.clone();
    let has_closure = on.has(FEATURE_CLOSURE);
    if !has_closure && AddMultipleToStore::check(on).is_err() {
        return one_by_one(connection, source, paths, progress).await;
    }
    let (sink, body) = tokio::io::duplex(PIPE);
    let whole = Arc::new(AtomicBool::new(false));
    let body = Body {
        inner: body,
        whole: whole.clone(),
    };
    if has_closure {
        let encode = async move {
            let (sink, sent) = compressed(sink, dir, source, paths, &mut progress).await?;
            // Said before the end, so that nobody sees the end without it.
            whole.store(true, Ordering::Release);
            let mut sink = sink.finish().await.map_err(not_written)?;
            sink.shutdown().await.map_err(not_written)?;
            Ok(sent)
        };
        let (sent, reply) = tokio::join!(encode, send(connection, &AddClosure {}, body));
        return conclude(sent, reply.map(drop));
    }
    let encode = async move {
        let (mut sink, sent) = encode(sink, StreamKind::Counted, dir, source, paths, &mut progress).await?;
        whole.store(true, Ordering::Release);
        sink.shutdown().await.map_err(not_written)?;
        Ok(sent)
    };
    let request = AddMultipleToStore {
        repair: false,
        dont_check_sigs: true,
    };
    let (sent, reply) = tokio::join!(encode, send(connection, &request, body));
    conclude(sent, reply)
}

/// Writes objects as [`AddClosure`] sends them: one zstd stream of path infos and NARs, references first. Returns what it
/// was written to, which is not shut down, and how much that was.
///
/// Memory is bounded whatever the size of the objects. Fails with [`UploadError::Object`] where the writer does.
pub async fn write<W: AsyncWrite + Send + Unpin, S: ObjectSource>(
    sink: W,
    dir: StoreDir,
    source: &S,
    paths: &[StorePath],
    mut progress: impl FnMut(Progress) + Send,
) -> Result<(W, Progress), UploadError> {
    let (sink, sent) = compressed(sink, dir, source, paths, &mut progress).await?;
    Ok((sink.finish().await.map_err(not_written)?, sent))
}

async fn compressed<W: AsyncWrite + Send + Unpin, S: ObjectSource>(
    sink: W,
    dir: StoreDir,
    source: &S,
    paths: &[StorePath],
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<(Compressed<W>, Progress), UploadError> {
    let sink = Compressed::new(sink).map_err(not_written)?;
    encode(sink, StreamKind::Tagged, dir, source, paths, progress).await
}

fn not_written(error: io::Error) -> UploadError {
    UploadError::Object(PathStreamError::Io(error))
}

async fn send<R: FramedCall>(connection: &mut Connection, request: &R, body: Body) -> Result<R::Reply, client::Error> {
    connection.call_framed(request, body, &mut ()).await
}

/// Which of two results to tell: when the store gives up the encoder only notices that nobody reads, and when the
/// encoder gives up the sender only notices that the stream breaks off.
fn conclude(encoded: Result<Progress, UploadError>, reply: Result<(), client::Error>) -> Result<Progress, UploadError> {
    match (encoded, reply) {
        (Ok(sent), Ok(())) => Ok(sent),
        (Err(error), Ok(()) | Err(client::Error::Body(_))) => Err(error),
        (Ok(_) | Err(UploadError::Object(PathStreamError::Io(_))), Err(error)) => Err(error.into()),
        (Err(error), Err(_)) => Err(error),
    }
}

/// Writes all objects to a stream.
async fn encode<W: AsyncWrite + Send + Unpin, S: ObjectSource>(
    sink: W,
    kind: StreamKind,
    dir: StoreDir,
    source: &S,
    paths: &[StorePath],
    progress: &mut (impl FnMut(Progress) + Send),
) -> Result<(W, Progress), UploadError> {
    let mut writer = PathStreamWriter::new(kind, paths.len() as u64, dir, sink);
    let mut sent = Progress::default();
    // Nothing is read before its future is polled. They are made in a loop because a closure over borrowed batches
    // would not be `Send` for callers that are spawned.
    let mut reads = Vec::with_capacity(paths.len().div_ceil(BATCH));
    for batch in paths.chunks(BATCH) {
        reads.push(source.objects(batch));
    }
    let batches = stream::iter(reads).buffered(AHEAD);
    pin_mut!(batches);
    while let Some(batch) = batches.try_next().await? {
        for Object { info, nar } in batch {
            let info = without_local(info);
            match nar {
                Some(nar) => writer.add(&info, &nar[..]).await,
                None => writer.add(&info, source.nar(&info.path).await?).await,
            }
            .map_err(UploadError::Object)?;
            sent.paths += 1;
            sent.bytes += info.info.nar_size;
            progress(sent);
        }
    }
    let sink = writer.finish().await.map_err(UploadError::Object)?;
    Ok((sink, sent))
}

/// To stores before protocol 1.32.
async fn one_by_one<S: ObjectSource>(
    connection: &mut Connection,
    source: &S,
    paths: &[StorePath],
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Progress, UploadError> {
    let mut sent = Progress::default();
    for batch in paths.chunks(BATCH) {
        for Object { info, nar } in source.objects(batch).await? {
            let nar: NarReader = match nar {
                Some(nar) => Box::new(io::Cursor::new(nar)),
                None => source.nar(&info.path).await?,
            };
            let request = AddToStoreNar {
                info: without_local(info),
                repair: false,
                dont_check_sigs: true,
            };
            connection.call_framed(&request, nar, &mut ()).await?;
            sent.paths += 1;
            sent.bytes += request.info.info.nar_size;
            progress(sent);
        }
    }
    Ok(sent)
}

/// That a store built a path itself, and when it got it, concerns no other store.
fn without_local(mut info: PathInfo) -> PathInfo {
    info.info.ultimate = false;
    info.info.registration_time = 0;
    info
}

/// The encoded stream. Its end counts only when the encoder said that it is whole, for an early end would look like the
/// right one to the store.
struct Body {
    inner: DuplexStream,
    whole: Arc<AtomicBool>,
}

impl AsyncRead for Body {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(cx, buffer))?;
        if buffer.filled().len() == before && buffer.remaining() > 0 && !self.whole.load(Ordering::Acquire) {
            return Poll::Ready(Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "what was to be sent broke off",
            )));
        }
        Poll::Ready(Ok(()))
    }
}
