//! The daemon's own store of objects that were uploaded and may not be forwarded yet.
//!
//! An object counts once it is checked ([`verify`], [`Spool::receive`]) and [added](Spool::add), and then it is on
//! disk: small ones in `spool.db`, compressed in blocks, larger ones as zstd files in `nars/`. The set of valid
//! digests is in memory as well, so that validity is answered without a disk.
//!
//! **Invariants.** Only what was [`Verified`] is added. Everything an object refers to is here. A row is committed
//! only after the file it names is durable, and the set in memory grows only after the commit. Nothing is added in
//! part: a batch is one transaction.
//!
//! What nobody needs any more is [collected](Spool::collect). Whoever was told that something is valid keeps it by a
//! [`Lease`].

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use nixci_protocol::types::{PathInfo, PublicKey, StoreDir, StorePath};
use rusqlite_migration::{M, Migrations};
use tokio::sync::Semaphore;

mod batch;
mod blocking;
mod blocks;
mod collect;
mod error;
mod file_nar;
mod hasher;
mod large;
mod lease;
mod nar;
mod objects;
mod receive;
mod roots;
mod rules;
mod signatures;
pub mod snapshot;
mod verify;

#[cfg(test)]
mod tests;

pub use collect::{Collection, Freed, Garbage, Marked};
pub use error::{Error, Result};
pub use lease::{Busy, Lease};
pub use nar::Nar;
pub use rules::{MAX_SIGNATURES, Rules};
pub use verify::{Authority, Verified, VerifyError, verify};

use crate::index::{Database, Durability, open_reader};
use batch::Batch;
use blocks::{Blocks, Found};
use file_nar::FileNar;
use large::{Folder, LargeFile};
use lease::Valid;
use objects::NewPlace;

/// NARs of this size and more are files.
pub const LARGE: u64 = 256 * 1024;
/// Bytes of small NARs that are compressed together: enough to compress well, few enough to unpack for one of them.
const BLOCK: usize = 256 * 1024;

const STEPS: &[M<'static>] = &[
    M::up(include_str!("migrations/0001-first.sql")),
    M::up(include_str!("migrations/0002-collection.sql")),
    M::up(include_str!("migrations/0003-roots.sql")),
];
static MIGRATIONS: LazyLock<Migrations<'static>> = LazyLock::new(|| Migrations::from_slice(STEPS));

/// A handle on the spool; clones share it.
#[derive(Debug, Clone)]
pub struct Spool {
    rules: Rules,
    database: Database,
    large: Folder,
    valid: Arc<Valid>,
    blocks: Blocks,
    /// Held by the collection that is under way.
    collecting: Arc<tokio::sync::Mutex<()>>,
    /// Turns to write a set of roots.
    remembering: Arc<Semaphore>,
}

impl Spool {
    /// Opens the spool in `dir`, or makes an empty one, and removes what a crash has left there. Blocks.
    pub fn open(dir: &Path, store_dir: StoreDir) -> Result<Self> {
        std::fs::create_dir_all(dir).map_err(|error| Error::file("make the folder", dir, error))?;
        let path = snapshot::database(dir);
        collect::prepare(&path).map_err(crate::index::Error::from)?;
        let database = Database::open(&path, "spool", &MIGRATIONS, STEPS.len() as i64)?;
        let conn = open_reader(&path).map_err(crate::index::Error::from)?;
        let objects::Loaded {
            digests,
            files,
            last_block,
        } = objects::load(&conn)?;
        let large = Folder::open(&snapshot::large_files(dir), &files.into_iter().collect())?;
        Ok(Self {
            rules: Rules::new(store_dir),
            database,
            large,
            valid: Arc::new(Valid::new(digests)),
            blocks: Blocks::new(last_block),
            collecting: Arc::default(),
            remembering: Arc::new(Semaphore::new(roots::ON_THE_WAY)),
        })
    }

    /// Takes what a signature by one of these keys covers from anybody.
    #[must_use]
    pub fn trusting(mut self, keys: Vec<PublicKey>) -> Self {
        self.rules = self.rules.trusting(keys);
        self
    }

    /// The store directory its paths are in.
    #[must_use]
    pub fn store_dir(&self) -> &StoreDir {
        &self.rules.store_dir
    }

    /// How many objects are here.
    #[must_use]
    pub fn len(&self) -> usize {
        self.valid.len()
    }

    /// Whether nothing is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.valid.len() == 0
    }

    /// Protects what is answered and added while it is in use from [collection](Self::collect) until it is dropped.
    #[must_use]
    pub fn lease(&self) -> Lease {
        self.valid.lease()
    }

    /// How many leases there are.
    #[must_use]
    pub fn leases(&self) -> usize {
        self.valid.leases_open()
    }

    /// Whether an object is here, and with it everything it refers to. Answered from memory, by the digest, which no
    /// two paths share. The leases in use protect it from now on, as they do whatever is read below.
    #[must_use]
    pub fn contains(&self, path: &StorePath) -> bool {
        self.valid.contains(path.digest())
    }

    /// Which of these are here: bit *i* is bit `i % 8` of byte `i / 8`. Answered from memory; those that are here are
    /// protected as by [`Self::contains`].
    #[must_use]
    pub fn valid_batch(&self, digests: &[[u8; 20]]) -> Vec<u8> {
        self.valid.batch(digests)
    }

    /// Adds objects, all or none, and returns how many were new. They are on disk when it returns.
    ///
    /// Each may refer to what is here and to others of the batch, in any order; else it fails with
    /// [`Error::MissingReference`]. One commit costs some milliseconds, so callers add many at once. A caller that
    /// goes away does not undo it.
    pub async fn add(&self, objects: Vec<Verified>) -> Result<u64> {
        if objects.is_empty() {
            return Ok(0);
        }
        // A task of its own, so that a caller that is cancelled does not part files, rows and memory.
        let added = tokio::spawn(self.clone().add_whole(objects));
        added.await.map_err(|_| Error::Stopped)?
    }

    async fn add_whole(self, objects: Vec<Verified>) -> Result<u64> {
        let folder = self.large.clone();
        let batch = tokio::task::spawn_blocking(move || Batch::new(&folder, objects));
        let Batch { new, blocks, mut files } = batch.await.map_err(|_| Error::Stopped)??;
        let digests: Vec<_> = new.iter().map(|object| *object.info.path.digest()).collect();
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.as_secs());
        let (valid, last_block) = (self.valid.clone(), self.blocks.last_number());
        let added = self.database.write(Durability::Power, move |tx| {
            let added = objects::add(tx, &blocks, &new, now, &last_block)?;
            // What they refer to stays, also where a collection is under way that has not seen them. Collections
            // remove on this thread too.
            for object in &new {
                valid.touch([object.info.path.digest()]);
                valid.touch(object.info.info.references.iter().map(StorePath::digest));
            }
            Ok(added.map(|added| (added, new)))
        });
        let (added, new) = added.await?.map_err(|dangling| Error::MissingReference {
            path: dangling.path,
            reference: dangling.reference,
        })?;
        let named: HashSet<&str> = new
            .iter()
            .zip(&added)
            .filter_map(|(object, is_new)| match &object.place {
                NewPlace::File(name) if *is_new => Some(name.as_str()),
                NewPlace::File(_) | NewPlace::Block { .. } => None,
            })
            .collect();
        files
            .iter_mut()
            .filter(|file| named.contains(file.name().as_str()))
            .for_each(LargeFile::keep);
        self.valid.insert(digests);
        Ok(added.into_iter().filter(|is_new| *is_new).count() as u64)
    }

    /// What is known of an object.
    pub async fn info(&self, path: &StorePath) -> Result<Option<PathInfo>> {
        Ok(self.infos(vec![path.clone()]).await?.pop().flatten())
    }

    /// What is known of objects, in the order given; none for what is not here.
    pub async fn infos(&self, paths: Vec<StorePath>) -> Result<Vec<Option<PathInfo>>> {
        self.valid.touch(paths.iter().map(StorePath::digest));
        Ok(self.database.read(move |conn| objects::infos(conn, &paths)).await?)
    }

    /// The references of objects, themselves included where they refer to themselves, in the order given; none for
    /// what is not here.
    pub async fn references(&self, paths: Vec<StorePath>) -> Result<Vec<Option<Vec<StorePath>>>> {
        self.valid.touch(paths.iter().map(StorePath::digest));
        Ok(self
            .database
            .read(move |conn| objects::references(conn, &paths))
            .await?)
    }

    /// The object with this digest. What is not here is answered from memory.
    pub async fn by_digest(&self, digest: &[u8; 20]) -> Result<Option<StorePath>> {
        if !self.valid.contains(digest) {
            return Ok(None);
        }
        let digest = *digest;
        Ok(self
            .database
            .read(move |conn| objects::by_digest(conn, &digest))
            .await?)
    }

    /// All objects, in no order. To be listed protects nothing, as at a stock store.
    pub async fn all(&self) -> Result<Vec<StorePath>> {
        Ok(self.database.read(objects::all).await?)
    }

    /// The objects that refer to this one, itself included where it refers to itself; in no order. Looks through all.
    pub async fn referrers(&self, of: &StorePath) -> Result<Vec<StorePath>> {
        if !self.contains(of) {
            return Ok(Vec::new());
        }
        let of = of.clone();
        Ok(self.database.read(move |conn| objects::referrers(conn, &of)).await?)
    }

    /// The NAR of an object, to be read as a stream.
    pub async fn nar(&self, path: &StorePath) -> Result<Option<Nar>> {
        Ok(match self.find(path).await? {
            None => None,
            Some(Found::Block(content)) => Some(Nar::small(content)),
            Some(Found::File { name, size }) => {
                let folder = self.large.clone();
                let reading = tokio::task::spawn_blocking(move || folder.read(&name));
                Some(Nar::large(reading.await.map_err(|_| Error::Stopped)??, size))
            }
        })
    }

    /// The NAR of an object of less than [`LARGE`] bytes; none for a larger one and for what is not here.
    pub async fn small(&self, path: &StorePath) -> Result<Option<Bytes>> {
        match self.find(path).await? {
            Some(Found::Block(content)) => Ok(Some(content)),
            Some(Found::File { .. }) | None => Ok(None),
        }
    }

    async fn find(&self, path: &StorePath) -> Result<Option<Found>> {
        self.valid.touch([path.digest()]);
        let (of, blocks) = (path.clone(), self.blocks.clone());
        // In one snapshot, for collections move objects to other blocks.
        self.database.read(move |conn| Ok(blocks.find(conn, &of))).await?
    }

    /// The content of an object that is one plain file of less than [`LARGE`] bytes, such as a `.drv`; none for
    /// anything else.
    pub async fn file(&self, path: &StorePath) -> Result<Option<Bytes>> {
        let nar = self.small(path).await?;
        Ok(nar.and_then(|nar| FileNar::contents(&nar).map(|content| nar.slice_ref(content))))
    }

    /// As [`Self::file`] for many, in the order given. All are held in memory, so callers ask for some hundreds at a
    /// time.
    pub async fn files(&self, paths: Vec<StorePath>) -> Result<Vec<Option<Bytes>>> {
        self.valid.touch(paths.iter().map(StorePath::digest));
        let nars = self.database.read(move |conn| objects::small(conn, &paths)).await?;
        let content = |nar: Bytes| FileNar::contents(&nar).map(|content| nar.slice_ref(content));
        Ok(nars.into_iter().map(|nar| nar.and_then(content)).collect())
    }

    /// Finishes what is queued and closes the database; afterwards adding is refused.
    pub async fn close(&self) {
        self.database.close().await;
    }
}
