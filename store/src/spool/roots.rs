//! Sets of roots that clients came with, so that one that comes again is recognised by its digest: table `roots`.
//!
//! A set says nothing about validity. That is looked up when it is asked for, so that what was collected meanwhile
//! makes the answer no. Losing rows costs clients a negotiation and nothing else; they are not made durable against a
//! power cut, and nothing waits for them.

use nixci_protocol::nixci::RootsDigest;
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::{Error, Result, Spool};
use crate::index::{self, Durability};

/// The largest set that is remembered: 400,000 paths.
const LARGEST: usize = 8_000_000;
/// Sets that are on their way to the disk at once; what comes meanwhile is remembered when it comes again.
pub(super) const ON_THE_WAY: usize = 4;
/// What is kept at most, the sets that were not used for longest going first.
const ROOM: Room = Room {
    bytes: 64 << 20,
    sets: 10_000,
};

/// How many sets are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Bytes of their members.
    pub(super) bytes: i64,
    /// Their number.
    pub(super) sets: u32,
}

impl Spool {
    /// Whether a set is remembered and all of it is here now, with all it refers to. What is here of it is protected as
    /// by [`Self::valid_batch`].
    pub async fn knows_roots(&self, roots: RootsDigest) -> Result<bool> {
        let Some(found) = self.database.read(move |conn| find(conn, &roots)).await? else {
            return Ok(false);
        };
        let valid = self.valid_batch(&found.members);
        let valid: u32 = valid.iter().map(|byte| byte.count_ones()).sum();
        if valid as usize != found.members.len() {
            return Ok(false);
        }
        if !found.is_newest {
            let database = self.database.clone();
            // Nobody waits for it, and that it is lost does not matter.
            tokio::spawn(async move { database.write(Durability::Process, move |tx| touch(tx, &roots)).await });
        }
        Ok(true)
    }

    /// Remembers the set of paths with these digests, which need not be here yet, if `roots` is its digest. Does nothing
    /// where it is larger than what is remembered, or where others are being written.
    pub async fn remember_roots(&self, roots: RootsDigest, mut members: Vec<[u8; 20]>) -> Result<()> {
        if members.is_empty() || members.as_flattened().len() > LARGEST {
            return Ok(());
        }
        let Ok(_turn) = self.remembering.try_acquire() else {
            return Ok(());
        };
        let store_dir = self.store_dir().clone();
        let sorting = tokio::task::spawn_blocking(move || {
            let found = RootsDigest::of_members(&store_dir, &mut members);
            (found == roots).then_some(members)
        });
        let Some(members) = sorting.await.map_err(|_| Error::Stopped)? else {
            return Ok(());
        };
        let written = self
            .database
            .write(Durability::Process, move |tx| put(tx, &roots, &members, ROOM));
        Ok(written.await?)
    }
}

struct Found {
    members: Vec<[u8; 20]>,
    is_newest: bool,
}

fn find(conn: &Connection, roots: &RootsDigest) -> index::Result<Option<Found>> {
    let mut find =
        conn.prepare_cached("SELECT members, used = (SELECT max(used) FROM roots) FROM roots WHERE digest = ?1")?;
    let found = find.query_row([roots.as_bytes()], |row| {
        // A multiple of 20, as the schema checks.
        let (members, _) = row.get_ref(0)?.as_blob()?.as_chunks();
        Ok(Found {
            members: members.to_vec(),
            is_newest: row.get(1)?,
        })
    });
    Ok(found.optional()?)
}

fn touch(tx: &Transaction<'_>, roots: &RootsDigest) -> index::Result<()> {
    tx.prepare_cached("UPDATE roots SET used = (SELECT max(used) + 1 FROM roots) WHERE digest = ?1")?
        .execute([roots.as_bytes()])?;
    Ok(())
}

/// Adds a set, or makes it the newest, and removes what there is no room for.
pub(super) fn put(tx: &Transaction<'_>, roots: &RootsDigest, members: &[[u8; 20]], room: Room) -> index::Result<()> {
    let members = members.as_flattened();
    tx.prepare_cached(
        "INSERT INTO roots (digest, used, size, members)
         VALUES (?1, (SELECT coalesce(max(used), 0) + 1 FROM roots), length(?2), ?2)
         ON CONFLICT (digest) DO UPDATE SET used = excluded.used",
    )?
    .execute(params![roots.as_bytes(), members])?;
    let mut by_use = tx.prepare_cached("SELECT rowid, size FROM roots ORDER BY used DESC")?;
    let mut rows = by_use.query([])?;
    let (mut bytes, mut sets, mut gone) = (0, 0, Vec::new());
    while let Some(row) = rows.next()? {
        bytes += row.get::<_, i64>(1)?;
        sets += 1;
        if bytes > room.bytes || sets > room.sets {
            gone.push(row.get::<_, i64>(0)?);
        }
    }
    let mut remove = tx.prepare_cached("DELETE FROM roots WHERE rowid = ?1")?;
    for row in gone {
        remove.execute([row])?;
    }
    Ok(())
}
