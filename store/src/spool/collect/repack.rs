//! Packing together what is left in blocks that are mostly dead.

use std::sync::atomic::AtomicI64;

use rusqlite::{Connection, OptionalExtension as _, Transaction, params};

use super::sweep::delete_empty;
use super::{Collection, Freed};
use crate::index::{self, Durability};
use crate::spool::batch::pack;
use crate::spool::error::{Error, Result};
use crate::spool::objects::{self, ADD_BLOCK, Packed, add_block};
use crate::spool::{BLOCK, Spool};

/// Blocks that are unpacked for one new one at most.
const BLOCKS_AT_ONCE: usize = 16;

/// What one transaction moves.
struct Move {
    /// What is in `content`, one after the other: number, old block and size.
    objects: Vec<(i64, i64, usize)>,
    content: Vec<u8>,
    blocks: Vec<i64>,
}

/// Packs the objects of these blocks into new ones.
pub(super) async fn all(of: &Collection, thin: &[i64], freed: &mut Freed) -> Result<()> {
    let mut left = thin.to_vec();
    left.reverse();
    while !left.is_empty() {
        let (spool, turn, blocks) = (of.spool.clone(), of.turn.clone(), left);
        let step = tokio::spawn(async move {
            let step = some(&spool, blocks).await;
            drop(turn);
            step
        });
        let (still_left, bytes) = step.await.map_err(|_| Error::Stopped)??;
        freed.disk_bytes = freed.disk_bytes.saturating_add_signed(bytes);
        left = still_left;
    }
    Ok(())
}

/// Takes blocks from the end of a list until they fill a new one, and returns those that are left and how many bytes
/// fewer are stored.
async fn some(spool: &Spool, mut blocks: Vec<i64>) -> Result<(Vec<i64>, i64)> {
    let (moved, blocks) = spool
        .database
        .read(move |conn| Ok((gather(conn, &mut blocks)?, blocks)))
        .await?;
    let packing = tokio::task::spawn_blocking(move || {
        let packed = if moved.content.is_empty() {
            None
        } else {
            Some(pack(&moved.content)?)
        };
        Ok::<_, Error>((moved, packed))
    });
    let (moved, packed) = packing.await.map_err(|_| Error::Stopped)??;
    let last = spool.blocks.last_number();
    let change = move |tx: &Transaction<'_>| moved.make(tx, packed.as_ref(), &last);
    let bytes = spool.database.write(Durability::Process, change).await?;
    Ok((blocks, bytes))
}

/// Reads what is left in blocks. Nobody else moves objects, and who deletes some does so before.
fn gather(conn: &Connection, blocks: &mut Vec<i64>) -> index::Result<Move> {
    let mut of_block = conn.prepare_cached("SELECT id, at, nar_size FROM object WHERE block = ?1 ORDER BY at")?;
    let mut exists = conn.prepare_cached("SELECT 1 FROM block WHERE id = ?1")?;
    let mut gathered = Move {
        objects: Vec::new(),
        content: Vec::new(),
        blocks: Vec::new(),
    };
    while gathered.blocks.len() < BLOCKS_AT_ONCE
        && gathered.content.len() < BLOCK / 2
        && let Some(block) = blocks.pop()
    {
        if exists.query_row([block], |_| Ok(())).optional()?.is_none() {
            continue;
        }
        gathered.blocks.push(block);
        let unpacked = objects::block(conn, block)?;
        let mut rows = of_block.query([block])?;
        while let Some(row) = rows.next()? {
            let (id, at, size) = (
                row.get(0)?,
                row.get::<_, i64>(1)? as usize,
                row.get::<_, i64>(2)? as usize,
            );
            let nar = at.checked_add(size).and_then(|end| unpacked.get(at..end));
            let nar = nar.ok_or_else(|| index::Error::Nonsense {
                what: format!("block {block} of the spool is too short"),
            })?;
            gathered.objects.push((id, block, size));
            gathered.content.extend_from_slice(nar);
        }
    }
    Ok(gathered)
}

impl Move {
    fn make(&self, tx: &Transaction<'_>, packed: Option<&Packed>, last: &AtomicI64) -> index::Result<i64> {
        let mut stored = 0;
        if let Some(packed) = packed {
            let new = add_block(&mut tx.prepare_cached(ADD_BLOCK)?, packed, last)?;
            stored = packed.content.len() as i64;
            let mut update = tx.prepare_cached("UPDATE object SET block = ?3, at = ?4 WHERE id = ?1 AND block = ?2")?;
            let mut at = 0;
            for (id, old, size) in &self.objects {
                update.execute(params![id, old, new, at as i64])?;
                at += size;
            }
        }
        Ok(delete_empty(tx, self.blocks.iter().copied())? as i64 - stored)
    }
}
