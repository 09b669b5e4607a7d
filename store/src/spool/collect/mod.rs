//! Collecting objects that nobody needs: mark and sweep, beside everything else.
//!
//! **What stays.** An object is kept, with everything it refers to, when it is one of the roots that the caller names,
//! when it was added lately, when a [lease](super::lease) that is open when the collection begins protects it, and
//! when anybody asks for it, adds it or refers to it while the collection is under way.
//!
//! **Marking** reads one snapshot, once through, from the newest object to the oldest: references have lower numbers
//! than what refers to them, as objects come references first, so that every referrer was seen before. Where a batch
//! came in another order, what is referred to upwards stays for as long as what refers to it is there.
//!
//! **Sweeping** goes the same way, some at a time, each time in one transaction of the spool's writer: what is in use
//! by then is spared with its references, the rest is taken out of the set in memory and its rows are deleted. Objects
//! go before what they refer to, so that after every transaction, and after a crash, each that is left has its
//! references. Adding runs on the same thread, so that nothing is added onto an object that is about to go. A
//! transaction that fails puts the digests back whose rows are still there.
//!
//! **Giving back.** A block goes with its last object, a file after its row; what a crash leaves of files is removed
//! when the spool is opened. Blocks that are mostly dead are packed together anew, and free pages are given back to the
//! file system where the database was made for that, as new ones are; else they are used again.

mod mark;
mod repack;
mod sweep;

use std::collections::HashSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rusqlite::Connection;
use tokio::sync::OwnedMutexGuard;
use tokio_util::sync::CancellationToken;

use super::Spool;
use super::error::Result;
use super::lease::Kept;
use crate::index::Durability;

/// Pages that are given back in one transaction: four megabytes.
const PAGES_AT_ONCE: i64 = 1_024;
/// The share of free pages that is left for what comes next: one of so many.
const FREE_SHARE: i64 = 8;

/// A collection that has begun: what is asked for and added from now on stays. Dropping it ends it.
#[derive(Debug)]
pub struct Collection {
    spool: Spool,
    turn: Arc<Turn>,
    kept: Kept,
}

/// What is held until the last part of a collection has ended, also of one that was dropped.
struct Turn {
    _collecting: OwnedMutexGuard<()>,
    _of_caller: Box<dyn Send + Sync>,
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Turn")
    }
}

/// What a collection found that nobody needs.
#[derive(Debug)]
pub struct Garbage {
    of: Collection,
    marked: Marked,
    /// Numbers, highest first.
    dead: Vec<i64>,
    /// Blocks of which little will be left.
    thin: Vec<i64>,
}

/// How much a collection found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marked {
    /// All objects.
    pub objects: u64,
    /// Those that nobody needs.
    pub dead: u64,
    /// Bytes of the NARs of those.
    pub nar_bytes: u64,
    /// What they take of the disk, about.
    pub disk_bytes: u64,
}

/// What a collection freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Objects that are gone.
    pub objects: u64,
    /// Bytes of their NARs.
    pub nar_bytes: u64,
    /// Bytes of blocks and files that are gone, less those of blocks that were packed anew.
    pub disk_bytes: u64,
}

impl Spool {
    /// Begins a collection. Waits while another one is under way.
    ///
    /// Roots are to be looked up after this: who commits one before it must be protected by a lease until then.
    pub async fn collect(&self) -> Collection {
        self.collect_holding(()).await
    }

    /// As [`collect`](Self::collect), and drops `held` when the last part has ended, also of a collection that is dropped
    /// before.
    pub async fn collect_holding(&self, held: impl Send + Sync + 'static) -> Collection {
        let collecting = self.collecting.clone().lock_owned().await;
        Collection {
            spool: self.clone(),
            turn: Arc::new(Turn {
                _collecting: collecting,
                _of_caller: Box::new(held),
            }),
            kept: self.valid.begin_period(),
        }
    }
}

impl Collection {
    /// Finds what is neither needed by the objects with these digests, as far as they are here, nor in use, nor
    /// younger than `min_age`. Changes nothing.
    pub async fn mark(self, roots: HashSet<[u8; 20]>, min_age: Duration) -> Result<Garbage> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let before = i64::try_from(now.saturating_sub(min_age).as_secs()).unwrap_or(i64::MAX);
        let stop = CancellationToken::new();
        let _stop_when_dropped = stop.clone().drop_guard();
        let question = mark::Question {
            valid: self.spool.valid.clone(),
            kept: self.kept,
            roots,
            // Whole seconds are kept, so that an age of nothing protects nothing.
            before: if min_age.is_zero() { i64::MAX } else { before },
            stop,
        };
        let answer = self.spool.database.read(move |conn| question.answer(conn)).await?;
        let mark::Answer {
            mut marked,
            dead,
            thin,
            files,
        } = answer;
        let folder = self.spool.large.clone();
        let sized = tokio::task::spawn_blocking(move || files.iter().map(|name| folder.size(name)).sum::<u64>());
        marked.disk_bytes += sized.await.map_err(|_| super::Error::Stopped)?;
        Ok(Garbage {
            of: self,
            marked,
            dead,
            thin,
        })
    }
}

impl Garbage {
    /// How much it is.
    #[must_use]
    pub fn marked(&self) -> Marked {
        self.marked
    }

    /// Deletes it, but for what is in use again, a bounded part at a time, each of which is durable before the next.
    ///
    /// Dropping the future ends it after the part that is under way.
    pub async fn sweep(self) -> Result<Freed> {
        let Self { of, dead, thin, .. } = self;
        let mut freed = sweep::all(&of, &dead).await?;
        repack::all(&of, &thin, &mut freed).await?;
        of.give_back().await?;
        Ok(freed)
    }
}

impl Collection {
    /// Gives free pages back to the file system.
    async fn give_back(&self) -> Result<()> {
        loop {
            let more = self.spool.database.write(Durability::Process, |tx| {
                let number = |what| tx.pragma_query_value(None, what, |row| row.get::<_, i64>(0));
                if number("auto_vacuum")? == 0 || number("freelist_count")? * FREE_SHARE <= number("page_count")? {
                    return Ok(false);
                }
                let before = number("freelist_count")?;
                let mut vacuum = tx.prepare(&format!("PRAGMA incremental_vacuum({PAGES_AT_ONCE})"))?;
                let mut rows = vacuum.query([])?;
                while rows.next()?.is_some() {}
                Ok(number("freelist_count")? < before)
            });
            if !more.await? {
                return Ok(());
            }
        }
    }
}

/// Makes a database that does not exist yet one that can give pages back, which must be said before it has any.
pub(super) fn prepare(path: &Path) -> rusqlite::Result<()> {
    if fs::metadata(path).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    let conn = Connection::open(path)?;
    conn.execute_batch("PRAGMA auto_vacuum = INCREMENTAL; PRAGMA user_version = 0;")
}
