//! Finding a file, checking it, and reading it.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use nixci_protocol::binary_cache::Packed;
use nixci_protocol::types::{Hash, NarHash};
use sha2::{Digest as _, Sha256};
use tracing::warn;

use super::chunks::{self, CHUNK, Pool};
use super::shelf::Item;
use super::{Inner, NarCache, shelf};

/// A use sooner than this after the last one is not written to disk: the order of use survives a restart about so well.
const TOUCH_AFTER: Duration = Duration::from_mins(5);

/// A compressed NAR on disk; it stays readable while this lives, also when it is evicted.
#[derive(Debug, Clone)]
pub struct CachedNar {
    file: Arc<File>,
    packed: Packed,
    pool: Arc<Pool>,
}

/// A range of a [`CachedNar`], piece by piece.
#[derive(Debug)]
pub struct Pieces {
    nar: CachedNar,
    at: u64,
    end: u64,
}

impl CachedNar {
    /// Its hash and size.
    #[must_use]
    pub fn packed(&self) -> Packed {
        self.packed
    }

    /// The bytes from `from` up to and without `to`, as far as there are any.
    #[must_use]
    pub fn read(&self, from: u64, to: u64) -> Pieces {
        Pieces {
            nar: self.clone(),
            at: from,
            end: to.min(self.packed.file_size),
        }
    }
}

impl Pieces {
    /// The next piece; none at the end.
    pub async fn next(&mut self) -> io::Result<Option<Bytes>> {
        if self.at >= self.end {
            return Ok(None);
        }
        let piece = chunks::read(&self.nar.file, &self.nar.pool, self.at, self.end).await?;
        self.at += piece.len() as u64;
        Ok(Some(piece))
    }
}

/// What opening a file showed.
enum Opened {
    Good(File),
    /// It was changed since it was checked, or never checked.
    Unchecked(File),
}

impl NarCache {
    /// The file of a NAR, if there is one and it is what it should be. A file that is damaged is dropped.
    ///
    /// A file from before the last start is read whole before it is given out for the first time.
    pub async fn get(&self, nar_hash: &NarHash) -> Option<CachedNar> {
        let item = self.inner.shelf().take(nar_hash)?;
        let found = match self.opened(item.clone()).await {
            Ok(Opened::Good(file)) => Ok(file),
            Ok(Opened::Unchecked(_)) => self.check(item.clone()).await,
            Err(error) => Err(error),
        };
        match found {
            Ok(file) => Some(CachedNar {
                file: Arc::new(file),
                packed: item.packed,
                pool: self.inner.pool.clone(),
            }),
            Err(error) => {
                warn!(nar_hash = %nar_hash, %error, "a compressed NAR was dropped from the cache: {error}");
                self.inner.drop_item(&item);
                None
            }
        }
    }

    /// What a narinfo can say of a NAR that is here. Reads no file, and is no use of it.
    #[must_use]
    pub fn packed(&self, nar_hash: &NarHash) -> Option<Packed> {
        self.inner.shelf().peek(nar_hash).map(|item| item.packed)
    }

    async fn opened(&self, item: Item) -> io::Result<Opened> {
        let inner = self.inner.clone();
        blocking(move || inner.open(&item)).await
    }

    async fn check(&self, item: Item) -> io::Result<File> {
        let _turn = item.checking.acquire().await.map_err(io::Error::other)?;
        // Somebody else may have checked it meanwhile.
        let current = self.inner.shelf().peek(&item.nar_hash).cloned();
        let current = current.ok_or_else(|| io::Error::other("it was found damaged"))?;
        let inner = self.inner.clone();
        blocking(move || match inner.open(&current)? {
            Opened::Good(file) => Ok(file),
            Opened::Unchecked(file) => {
                let changed = file.metadata()?.modified()?;
                let found = hash(&file, current.packed.file_size)?;
                if found != current.packed.file_hash {
                    return Err(io::Error::other(format!(
                        "its content has the hash {found} in place of {}",
                        current.packed.file_hash
                    )));
                }
                inner.shelf().checked(&current.nar_hash, changed);
                Ok(file)
            }
        })
        .await
    }
}

impl Inner {
    /// Opens a file as far as it can be judged without reading it, and notes the use. Blocks.
    fn open(&self, item: &Item) -> io::Result<Opened> {
        let file = File::open(self.path(item))?;
        let about = file.metadata()?;
        if about.len() != item.packed.file_size {
            return Err(io::Error::other(format!(
                "it has {} bytes in place of {}",
                about.len(),
                item.packed.file_size
            )));
        }
        let changed = about.modified()?;
        if item.checked != Some(changed) {
            return Ok(Opened::Unchecked(file));
        }
        let now = SystemTime::now();
        let is_old = now.duration_since(changed).is_ok_and(|since| since > TOUCH_AFTER);
        if is_old && file.set_modified(now).is_ok() {
            // Read back: file systems keep times as exactly as they can.
            self.shelf().checked(&item.nar_hash, file.metadata()?.modified()?);
        }
        Ok(Opened::Good(file))
    }

    /// Forgets a file and removes it. Blocks for an instant.
    pub(super) fn drop_item(&self, item: &Item) {
        let is_current = |found: &Item| found.packed == item.packed;
        let mut here = self.shelf();
        if here.peek(&item.nar_hash).is_some_and(is_current) {
            here.remove(&item.nar_hash);
        }
        drop(here);
        remove(&self.path(item));
    }

    pub(super) fn path(&self, item: &Item) -> std::path::PathBuf {
        self.dir.join(shelf::name(&item.nar_hash, &item.packed, self.level))
    }
}

/// Removes a file; that it is gone already is fine.
pub(super) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        warn!(%error, "failed to remove {}: {error}", path.display());
    }
}

fn hash(file: &File, size: u64) -> io::Result<Hash> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; CHUNK];
    let mut rest = file.take(size);
    loop {
        match rest.read(&mut buffer)? {
            0 => return Ok(Hash::from_sha256(hasher.finalize().into())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)?
}
