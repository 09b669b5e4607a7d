//! Deleting what nobody needs.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::{OptionalExtension as _, Transaction};

use super::mark::numbers;
use super::{Collection, Freed};
use crate::index;
use crate::index::Durability;
use crate::spool::error::{Error, Result};
use crate::spool::lease::{Kept, Valid};
use crate::spool::{Spool, objects};

/// Objects that are deleted in one transaction: a few milliseconds, which is how long an upload may wait.
const OBJECTS_AT_ONCE: usize = 512;

/// Numbers of objects that are needed after all.
type Spared = HashSet<i64, foldhash::fast::FixedState>;

/// Deletes dead objects, highest numbers first.
pub(super) async fn all(of: &Collection, dead: &[i64]) -> Result<Freed> {
    let mut freed = Freed::default();
    let mut spared = Spared::default();
    for ids in dead.chunks(OBJECTS_AT_ONCE) {
        let (spool, turn, kept, ids) = (of.spool.clone(), of.turn.clone(), of.kept, ids.to_vec());
        // A task of its own, so that a caller that goes away does not part files, rows and memory. It keeps the turn:
        // periods must not change meanwhile.
        let step = tokio::spawn(async move {
            let step = some(&spool, kept, ids, spared).await;
            drop(turn);
            step
        });
        let (of_step, still_spared) = step.await.map_err(|_| Error::Stopped)??;
        spared = still_spared;
        freed.objects += of_step.objects;
        freed.nar_bytes += of_step.nar_bytes;
        freed.disk_bytes += of_step.disk_bytes;
    }
    Ok(freed)
}

async fn some(spool: &Spool, kept: Kept, ids: Vec<i64>, spared: Spared) -> Result<(Freed, Spared)> {
    let removed: Arc<Mutex<Vec<[u8; 20]>>> = Arc::default();
    let mut step = Step {
        valid: spool.valid.clone(),
        kept,
        spared,
        removed: removed.clone(),
        files: Vec::new(),
        freed: Freed::default(),
    };
    let swept = spool.database.write(Durability::Power, move |tx| {
        step.run(tx, &ids)?;
        Ok(step)
    });
    let Step {
        files,
        mut freed,
        spared,
        ..
    } = match swept.await {
        Ok(step) => step,
        Err(error) => {
            let removed = std::mem::take(&mut *removed.lock().unwrap_or_else(PoisonError::into_inner));
            put_back(spool, removed).await;
            return Err(error.into());
        }
    };
    if !files.is_empty() {
        let folder = spool.large.clone();
        let removed = tokio::task::spawn_blocking(move || folder.remove(&files));
        freed.disk_bytes += removed.await.map_err(|_| Error::Stopped)?;
    }
    Ok((freed, spared))
}

/// After a failure: what still has a row is valid again. Where not even that can be asked, what is on disk counts at
/// the next start.
async fn put_back(spool: &Spool, removed: Vec<[u8; 20]>) {
    let here = spool.database.read(move |conn| objects::here(conn, removed)).await;
    spool.valid.insert(here.unwrap_or_default());
}

/// One transaction.
struct Step {
    valid: Arc<Valid>,
    kept: Kept,
    spared: Spared,
    /// Digests that were taken out of the set in memory.
    removed: Arc<Mutex<Vec<[u8; 20]>>>,
    files: Vec<String>,
    freed: Freed,
}

struct Row {
    id: i64,
    refs: Vec<u8>,
    block: Option<i64>,
    file: Option<String>,
    size: u64,
}

impl Step {
    fn run(&mut self, tx: &Transaction<'_>, ids: &[i64]) -> index::Result<()> {
        let mut find = tx.prepare_cached("SELECT digest, refs, block, file, nar_size FROM object WHERE id = ?1")?;
        let (mut digests, mut rows) = (Vec::with_capacity(ids.len()), Vec::with_capacity(ids.len()));
        for id in ids {
            let row = find.query_row([id], |row| {
                let of = Row {
                    id: *id,
                    refs: row.get(1)?,
                    block: row.get(2)?,
                    file: row.get(3)?,
                    size: row.get::<_, i64>(4)? as u64,
                };
                Ok((row.get(0)?, of))
            });
            if let Some((digest, row)) = row.optional()? {
                digests.push(digest);
                rows.push(row);
            }
        }
        let mut dead = vec![false; rows.len()];
        {
            let mut removed = self.removed.lock().unwrap_or_else(PoisonError::into_inner);
            let spared = &mut self.spared;
            self.valid.remove(&digests, self.kept, |nth, is_kept| {
                let row: &Row = &rows[nth];
                if is_kept || spared.contains(&row.id) {
                    spared.extend(numbers(&row.refs));
                    return false;
                }
                removed.push(digests[nth]);
                dead[nth] = true;
                true
            });
        }
        let mut delete = tx.prepare_cached("DELETE FROM object WHERE id = ?1")?;
        let mut blocks = BTreeSet::new();
        for (row, _) in rows.into_iter().zip(dead).filter(|(_, is_dead)| *is_dead) {
            delete.execute([row.id])?;
            blocks.extend(row.block);
            self.files.extend(row.file);
            self.freed.objects += 1;
            self.freed.nar_bytes += row.size;
        }
        self.freed.disk_bytes += delete_empty(tx, blocks)?;
        Ok(())
    }
}

/// Deletes those of these blocks that no object is in, and returns their bytes.
pub(super) fn delete_empty(tx: &Transaction<'_>, blocks: impl IntoIterator<Item = i64>) -> index::Result<u64> {
    let mut delete = tx.prepare_cached(
        "DELETE FROM block WHERE id = ?1 AND NOT EXISTS (SELECT 1 FROM object WHERE block = ?1)
         RETURNING length(content)",
    )?;
    let mut bytes = 0;
    for block in blocks {
        let gone: Option<i64> = delete.query_row([block], |row| row.get(0)).optional()?;
        bytes += gone.unwrap_or(0) as u64;
    }
    Ok(bytes)
}
