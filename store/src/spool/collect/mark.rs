//! Finding what nobody needs.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use fixedbitset::FixedBitSet;
use rusqlite::{CachedStatement, Connection, OptionalExtension as _};
use tokio_util::sync::CancellationToken;

use super::Marked;
use crate::index::{Error, Result};
use crate::spool::lease::{Kept, Valid};
use crate::spool::objects::take_number;

/// Rows that are looked at between two looks at the set in memory.
const ROWS_AT_ONCE: usize = 4_096;

/// What is asked of a snapshot.
pub(super) struct Question {
    pub(super) valid: Arc<Valid>,
    pub(super) kept: Kept,
    pub(super) roots: HashSet<[u8; 20]>,
    /// What was added at this second or later is kept.
    pub(super) before: i64,
    pub(super) stop: CancellationToken,
}

#[derive(Default)]
pub(super) struct Answer {
    pub(super) marked: Marked,
    /// Numbers, highest first.
    pub(super) dead: Vec<i64>,
    /// Blocks of which less than half is needed.
    pub(super) thin: Vec<i64>,
    /// Files of dead objects.
    pub(super) files: Vec<String>,
}

/// An object that nobody needs, as far as is known.
struct Dead {
    id: i64,
    block: Option<i64>,
    size: u64,
    file: Option<String>,
}

struct Row {
    id: i64,
    refs: Vec<u8>,
    added: i64,
    block: Option<i64>,
    size: u64,
    file: Option<String>,
}

impl Question {
    pub(super) fn answer(self, conn: &Connection) -> Result<Answer> {
        let highest: i64 = conn.query_row("SELECT coalesce(max(id), 0) FROM object", [], |row| row.get(0))?;
        let mut needed = Needed {
            bits: FixedBitSet::with_capacity(highest as usize + 1),
            refs: conn.prepare_cached("SELECT refs FROM object WHERE id = ?1")?,
        };
        let mut select =
            conn.prepare("SELECT id, refs, added, block, nar_size, file, digest FROM object ORDER BY id DESC")?;
        let mut rows = select.query([])?;
        let mut dead: Vec<Dead> = Vec::new();
        let mut live_bytes: HashMap<i64, u64, foldhash::fast::FixedState> = HashMap::default();
        let mut objects = 0;
        let (mut some, mut digests) = (Vec::with_capacity(ROWS_AT_ONCE), Vec::with_capacity(ROWS_AT_ONCE));
        loop {
            if self.stop.is_cancelled() {
                return Err(Error::Closed);
            }
            some.clear();
            digests.clear();
            while some.len() < ROWS_AT_ONCE
                && let Some(row) = rows.next()?
            {
                some.push(Row {
                    id: row.get(0)?,
                    refs: row.get(1)?,
                    added: row.get(2)?,
                    block: row.get(3)?,
                    size: row.get::<_, i64>(4)? as u64,
                    file: row.get(5)?,
                });
                digests.push(row.get::<_, [u8; 20]>(6)?);
            }
            if some.is_empty() {
                break;
            }
            objects += some.len() as u64;
            let kept = self.valid.kept(&digests, self.kept);
            for ((row, digest), is_kept) in some.drain(..).zip(&digests).zip(kept) {
                let is_root = is_kept || row.added >= self.before || self.roots.contains(digest);
                let is_live = needed.see(row.id, &row.refs, is_root)?;
                if is_live {
                    if let Some(block) = row.block {
                        *live_bytes.entry(block).or_default() += row.size;
                    }
                } else {
                    dead.push(Dead {
                        id: row.id,
                        block: row.block,
                        size: row.size,
                        file: row.file,
                    });
                }
            }
        }
        dead.retain(|object| {
            let is_live = needed.contains(object.id);
            if is_live && let Some(block) = object.block {
                *live_bytes.entry(block).or_default() += object.size;
            }
            !is_live
        });
        let mut answer = Answer {
            marked: Marked {
                objects,
                dead: dead.len() as u64,
                nar_bytes: dead.iter().map(|object| object.size).sum(),
                disk_bytes: 0,
            },
            dead: dead.iter().map(|object| object.id).collect(),
            thin: Vec::new(),
            files: dead.into_iter().filter_map(|object| object.file).collect(),
        };
        answer.blocks(conn, &live_bytes)?;
        Ok(answer)
    }
}

impl Answer {
    fn blocks(&mut self, conn: &Connection, live: &HashMap<i64, u64, foldhash::fast::FixedState>) -> Result<()> {
        let mut select = conn.prepare("SELECT id, size, length(content) FROM block")?;
        let mut rows = select.query([])?;
        while let Some(row) = rows.next()? {
            let (id, size, stored) = (row.get(0)?, row.get::<_, i64>(1)? as u64, row.get::<_, i64>(2)? as u64);
            let live = live.get(&id).copied().unwrap_or(0).min(size);
            self.marked.disk_bytes += stored * (size - live) / size.max(1);
            if live < size / 2 {
                self.thin.push(id);
            }
        }
        Ok(())
    }
}

/// Numbers of objects that are needed.
struct Needed<'c> {
    bits: FixedBitSet,
    refs: CachedStatement<'c>,
}

impl Needed<'_> {
    fn contains(&self, id: i64) -> bool {
        self.bits.contains(id as usize)
    }

    /// Takes the next object, and says whether it is needed.
    fn see(&mut self, id: i64, refs: &[u8], is_root: bool) -> Result<bool> {
        if is_root {
            self.bits.insert(id as usize);
        }
        let is_live = self.contains(id);
        for reference in numbers(refs) {
            if reference > id {
                // Seen already: everything below it is looked at again.
                self.need(reference, id)?;
            } else if is_live {
                self.bits.insert(reference as usize);
            }
        }
        Ok(is_live)
    }

    /// Needs an object that was seen, with everything below it that was seen too; the rest is still to come.
    fn need(&mut self, id: i64, seen_down_to: i64) -> Result<()> {
        let mut next = vec![id];
        while let Some(id) = next.pop() {
            if self.contains(id) {
                continue;
            }
            self.bits.insert(id as usize);
            let refs: Option<Vec<u8>> = self.refs.query_row([id], |row| row.get(0)).optional()?;
            for reference in numbers(refs.as_deref().unwrap_or_default()) {
                if reference >= seen_down_to {
                    next.push(reference);
                } else {
                    self.bits.insert(reference as usize);
                }
            }
        }
        Ok(())
    }
}

/// The numbers that are packed in a column.
pub(super) fn numbers(mut packed: &[u8]) -> impl Iterator<Item = i64> + '_ {
    std::iter::from_fn(move || take_number(&mut packed).map(|number| number as i64))
}
