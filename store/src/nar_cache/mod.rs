//! Compressed NARs on disk, for what is asked for more than once. Losing it loses nothing.
//!
//! A file is a row of zstd frames, one for each [`BLOCK`] bytes of the NAR, so that the same NAR packed at the same level
//! is the same bytes, however it came in: a download that began on the fly goes on from the file, and the other way round.
//! Files are named after the hash of their NAR and of their own bytes, and their times of change say when they were used
//! last; there is no index that could disagree. Least recently used ones go when the capacity is reached.
//!
//! A file comes to its name only when it is whole and its NAR had the promised hash. One that was there at the start, or
//! that was changed since, is read and compared with its name before it is used. What cannot be written is not cached;
//! nobody's request fails for it.

mod cached;
mod chunks;
mod fill;
mod pack;
mod shelf;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nixci_protocol::types::NarHash;
use tokio::sync::{Semaphore, watch};

pub use cached::{CachedNar, Pieces};
pub use fill::{Claim, Fault, Follower, Ticket};
pub use pack::{BLOCK, PackError, Packer};

use chunks::Pool;
use fill::State;
use shelf::{Item, PARTIAL, Shelf};

/// Files that are written at once. More would not be faster, and each holds a connection to a store.
const WRITERS: usize = 8;
/// NARs in one generation of what was asked for; two are remembered.
const GENERATION: usize = 16 * 1024;

/// Bytes a cache may have where nobody said how many.
pub const REASONABLE: u64 = 10 << 30;

/// The cache; clones share it.
#[derive(Debug, Clone)]
pub struct NarCache {
    inner: Arc<Inner>,
}

/// How large the cache may be, and how hard it compresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NarCacheOptions {
    /// Bytes of all files together; with 0 nothing is written.
    pub capacity: u64,
    /// The level of zstd.
    pub level: i32,
}

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    capacity: u64,
    level: i32,
    /// Held for a look-up or a change. Taken after `filling` where both are.
    shelf: Mutex<Shelf>,
    /// Held for a look-up or a change.
    filling: Mutex<HashMap<NarHash, watch::Receiver<State>>>,
    /// Held for one note.
    asked: Mutex<Asked>,
    /// NARs that were found not to fit. Held for a look-up or a note.
    too_large: Mutex<HashSet<NarHash>>,
    writers: Arc<Semaphore>,
    partials: AtomicU64,
    pool: Arc<Pool>,
}

/// NARs that were asked for lately: bounded, and older ones are forgotten by the generation.
#[derive(Debug, Default)]
struct Asked {
    now: HashSet<NarHash>,
    before: HashSet<NarHash>,
}

impl Asked {
    fn note(&mut self, nar_hash: NarHash) -> bool {
        let is_known = self.before.contains(&nar_hash);
        let is_new = self.now.insert(nar_hash);
        if self.now.len() >= GENERATION {
            self.before = std::mem::take(&mut self.now);
        }
        is_known || !is_new
    }
}

/// The capacity of a cache in this folder that nobody chose: [`REASONABLE`], but at most a quarter of what is free there
/// or used by the cache itself. Blocks.
pub fn capacity_for(dir: &Path) -> io::Result<u64> {
    let about = rustix::fs::statvfs(dir)?;
    let mut bytes = about.f_bavail.saturating_mul(about.f_frsize);
    for entry in std::fs::read_dir(dir)? {
        bytes += entry?.metadata()?.len();
    }
    Ok((bytes / 4).min(REASONABLE))
}

impl NarCache {
    /// Opens the folder, or makes it, and finds what is there. Removes what was left half written and what was packed at
    /// another level. Blocks.
    pub fn open(dir: &Path, options: NarCacheOptions) -> io::Result<Self> {
        std::fs::create_dir_all(dir)?;
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let about = entry.metadata()?;
            match shelf::parse_name(name, options.level) {
                Some((nar_hash, packed)) if about.len() == packed.file_size => {
                    found.push((about.modified()?, Item::new(nar_hash, packed, None)));
                }
                Some(_) => cached::remove(&entry.path()),
                None if name.starts_with(PARTIAL) || shelf::is_ours(name) => cached::remove(&entry.path()),
                None => {}
            }
        }
        let inner = Inner {
            dir: dir.to_owned(),
            capacity: options.capacity,
            level: options.level,
            shelf: Mutex::default(),
            filling: Mutex::default(),
            asked: Mutex::default(),
            too_large: Mutex::default(),
            writers: Arc::new(Semaphore::new(WRITERS)),
            partials: AtomicU64::new(0),
            pool: Arc::default(),
        };
        found.sort_by_key(|(used, _)| *used);
        // Newest first, so that the oldest ones find no room; then in the order of use.
        let (mut kept, mut seen, mut bytes) = (Vec::new(), HashSet::new(), 0);
        for (_, item) in found.into_iter().rev() {
            if !seen.insert(item.nar_hash) || bytes + item.packed.file_size > inner.capacity {
                cached::remove(&inner.path(&item));
            } else {
                bytes += item.packed.file_size;
                kept.push(item);
            }
        }
        for item in kept.into_iter().rev() {
            inner.shelf().restore(item);
        }
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The level NARs are packed at.
    #[must_use]
    pub fn level(&self) -> i32 {
        self.inner.level
    }

    /// Files in it.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.shelf().len()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of its files, those that are being written included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inner.shelf().bytes()
    }
}

impl Inner {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn filling(&self) -> MutexGuard<'_, HashMap<NarHash, watch::Receiver<State>>> {
        self.filling.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn too_large(&self) -> MutexGuard<'_, HashSet<NarHash>> {
        let mut too_large = self.too_large.lock().unwrap_or_else(PoisonError::into_inner);
        if too_large.len() >= GENERATION {
            too_large.clear();
        }
        too_large
    }

    fn asked(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
