//! Reading objects from disk, on threads that may block.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nix_archive::nar::CaseHack;
use nixci_protocol::types::{
    ContentAddress, ContentAddressMethod, DrvPath, Hash, NarHash, PathInfo, StorePath, UnkeyedPathInfo,
};
use tokio::io::AsyncRead;
use tokio_util::io::SyncIoBridge;

use super::LocalStore;
use crate::derivation::Derivation;
use crate::upload::{Object, SourceError};

/// Files that one thread reads in a row.
const BATCH: usize = 256;
/// Files up to this size are read whole.
const SMALL: u64 = 64 * 1024;
/// Bytes between the thread that reads a large object and who takes it.
const PIPE: usize = 256 * 1024;

/// What derivations refer to.
pub(super) async fn references(store: &LocalStore, paths: Vec<DrvPath>) -> Result<Vec<Vec<StorePath>>, SourceError> {
    each(store, paths, |store, path| {
        let (_, parsed) = derivation(store, &path)?;
        Ok(parsed.references().cloned().collect())
    })
    .await
}

/// Derivations with their NARs.
pub(super) async fn derivations(store: &LocalStore, paths: Vec<DrvPath>) -> Result<Vec<Object>, SourceError> {
    each(store, paths, |store, path| {
        let (content, parsed) = derivation(store, &path)?;
        let nar = plain_nar(&content, false);
        let info = UnkeyedPathInfo {
            deriver: None,
            nar_hash: NarHash::of(&nar),
            references: parsed.references().cloned().collect(),
            registration_time: 0,
            nar_size: nar.len() as u64,
            ultimate: false,
            signatures: std::collections::BTreeSet::new(),
            ca: Some(ContentAddress {
                method: ContentAddressMethod::Text,
                hash: Hash::sha256_of(&content),
            }),
        };
        Ok(Object {
            info: PathInfo {
                path: path.into_path(),
                info,
            },
            nar: Some(nar),
        })
    })
    .await
}

/// Other objects, with their NARs where those are small files.
pub(super) async fn small(store: &LocalStore, infos: Vec<PathInfo>) -> Result<Vec<Object>, SourceError> {
    each(store, infos, |store, info| {
        let file = store.file(&info.path);
        let fail = |error| failed(store, &info.path, error);
        let metadata = fs::symlink_metadata(&file).map_err(fail)?;
        let nar = if metadata.is_file() && metadata.len() <= SMALL {
            let is_executable = metadata.permissions().mode() & 0o100 != 0;
            Some(plain_nar(&fs::read(&file).map_err(fail)?, is_executable))
        } else {
            None
        };
        Ok(Object { info, nar })
    })
    .await
}

/// The NAR of any object, made while it is read. A failure is an error of the reader.
pub(super) fn nar(store: &LocalStore, path: &StorePath) -> impl AsyncRead + Send + Unpin + use<> {
    let (reader, writer) = tokio::io::duplex(PIPE);
    let file = store.file(path);
    let runtime = tokio::runtime::Handle::current();
    let (failed, failure) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let mut writer = SyncIoBridge::new_with_handle(writer, runtime);
        let mut buffered = io::BufWriter::with_capacity(SMALL as usize, &mut writer);
        let result = nix_archive::nar::encode_path(&mut buffered, &file, CaseHack::Disabled)
            .map_err(io::Error::other)
            .and_then(|()| io::Write::flush(&mut buffered));
        // The reader is told before the pipe closes; that it is gone is its own business.
        if let Err(error) = result {
            let _ = failed.send(error);
        }
    });
    Failing { reader, failure }
}

/// A pipe whose end is an error if the writer says so.
struct Failing {
    reader: tokio::io::DuplexStream,
    failure: tokio::sync::oneshot::Receiver<io::Error>,
}

impl AsyncRead for Failing {
    fn poll_read(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buffer: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<io::Result<()>> {
        let before = buffer.filled().len();
        std::task::ready!(std::pin::Pin::new(&mut self.reader).poll_read(cx, buffer))?;
        if buffer.filled().len() == before
            && let Ok(error) = self.failure.try_recv()
        {
            return std::task::Poll::Ready(Err(error));
        }
        std::task::Poll::Ready(Ok(()))
    }
}

/// Does the same for many, on a few threads, in their order.
async fn each<I, T>(
    store: &LocalStore,
    items: Vec<I>,
    read: impl Fn(&LocalStore, I) -> Result<T, SourceError> + Copy + Send + 'static,
) -> Result<Vec<T>, SourceError>
where
    I: Send + 'static,
    T: Send + 'static,
{
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut batches = Vec::new();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        batches.push(items.by_ref().take(BATCH).collect::<Vec<_>>());
    }
    let read: Vec<Vec<T>> = stream::iter(batches)
        .map(|batch| {
            let store = store.clone();
            let work = move || {
                batch
                    .into_iter()
                    .map(|item| read(&store, item))
                    .collect::<Result<Vec<T>, _>>()
            };
            async move {
                tokio::task::spawn_blocking(work)
                    .await
                    .map_err(|_| SourceError::Stopped)?
            }
        })
        .buffered(threads)
        .try_collect()
        .await?;
    Ok(read.into_iter().flatten().collect())
}

fn derivation(store: &LocalStore, path: &DrvPath) -> Result<(Vec<u8>, Derivation), SourceError> {
    let content = fs::read(store.file(path.path())).map_err(|error| failed(store, path.path(), error))?;
    let parsed = Derivation::parse(path, store.store_dir(), &content)?;
    Ok((content, parsed))
}

fn failed(store: &LocalStore, path: &StorePath, error: io::Error) -> SourceError {
    let place = store.physical_dir().display().to_string();
    if error.kind() == io::ErrorKind::NotFound {
        SourceError::Missing {
            path: path.clone(),
            place,
        }
    } else {
        SourceError::Read {
            path: path.clone(),
            place,
            error,
        }
    }
}

/// The NAR of one plain file.
fn plain_nar(content: &[u8], is_executable: bool) -> Bytes {
    let mut nar = Vec::with_capacity(content.len() + 160);
    // Writing to memory does not fail.
    let written = nix_archive::nar::encode_regular(&mut nar, content, is_executable);
    debug_assert!(written.is_ok(), "a vector takes everything");
    nar.into()
}
