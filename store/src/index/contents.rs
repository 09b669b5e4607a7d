//! What may be signed: tables `content`, `realised` and `realised_as`, and the attempts that built something.
//!
//! An output counts as built on a store when an attempt there succeeded by building. What merely was there, or was
//! fetched from a substituter, does not.

use nixci_protocol::types::{BuiltOutputs, DrvOutput, HashAlgo, NarHash, StorePath};
use rusqlite::{Connection, OptionalExtension, Transaction, params};

use super::DrvId;
use super::attempts::store_id;
use super::error::Result;
use super::names::{from_column, to_column};

/// What is known of the bytes that a store sends for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Provenance {
    /// No build on that store is known to have made them.
    Foreign,
    /// A build made them.
    Built {
        /// The size of the NAR, once it was read and found to have the hash in question.
        read: Option<u64>,
    },
}

/// What is known of paths that a store says have these hashes, in the order given.
pub fn provenance(conn: &Connection, store: &str, paths: &[(StorePath, NarHash)]) -> Result<Vec<Provenance>> {
    let mut built = conn.prepare_cached(BUILT)?;
    let mut realised = conn.prepare_cached(REALISED)?;
    let mut read = conn.prepare_cached(READ)?;
    paths
        .iter()
        .map(|(path, hash)| {
            let place = params![path.digest(), path.name(), store];
            if !built.exists(place)? && !realised.exists(place)? {
                return Ok(Provenance::Foreign);
            }
            let size: Option<i64> = read
                .query_row(params![path.digest(), hash.0], |row| row.get(0))
                .optional()?;
            let read = size.map(|size| from_column("the size of a NAR", size)).transpose()?;
            Ok(Provenance::Built { read })
        })
        .collect()
}

/// Records that the NAR of a path was read whole, and has this hash and size.
pub fn record_read(tx: &Transaction<'_>, path: &StorePath, hash: NarHash, size: u64) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO content (digest, nar_hash, nar_size) VALUES (?1, ?2, ?3)
         ON CONFLICT (digest, nar_hash) DO UPDATE SET nar_size = excluded.nar_size",
    )?
    .execute(params![path.digest(), hash.0, to_column("the size of a NAR", size)?])?;
    Ok(())
}

/// Records where a build on a store has put those outputs of a derivation whose paths were not known before; the newest
/// build stands. What else an output is called is recorded by calling this again. Returns whether there was any.
pub fn record_realised(tx: &Transaction<'_>, drv: DrvId, store: &str, outputs: &BuiltOutputs) -> Result<bool> {
    let told: Vec<(&str, &StorePath, Option<&[u8]>)> = match outputs {
        BuiltOutputs::Hashed(outputs) => outputs
            .iter()
            .map(|(key, made)| (key.output.as_str(), &made.out_path, hash_of(key)))
            .collect(),
        BuiltOutputs::Named(outputs) => outputs
            .iter()
            .map(|(name, made)| (name.as_str(), &made.out_path, None))
            .collect(),
    };
    let mut floating = tx.prepare_cached("SELECT 1 FROM output WHERE drv = ?1 AND name = ?2 AND digest IS NULL")?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO realised (drv, output, store, digest, path_name) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT (drv, output, store) DO UPDATE SET digest = excluded.digest, path_name = excluded.path_name",
    )?;
    let mut name = tx.prepare_cached(
        "INSERT INTO realised_as (drv, output, store, drv_hash) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING",
    )?;
    let mut any = false;
    for (output, path, hash) in told {
        if floating.exists(params![drv.0, output])? {
            any = true;
            let store = store_id(tx, store)?;
            insert.execute(params![drv.0, output, store, path.digest(), path.name()])?;
            if let Some(hash) = hash {
                name.execute(params![drv.0, output, store, hash])?;
            }
        }
    }
    Ok(any)
}

/// Whether a store resolves a derivation before it builds it: its outputs have no paths yet, and it needs others. What
/// such a build tells is named by what the derivation was resolved to.
pub fn is_resolved_first(conn: &Connection, drv: DrvId) -> Result<bool> {
    Ok(conn.prepare_cached(RESOLVED_FIRST)?.exists([drv.0])?)
}

/// Whether a build on this store has put the output with this hash at this path.
pub fn is_realised(conn: &Connection, store: &str, id: &DrvOutput, path: &StorePath) -> Result<bool> {
    let mut find = conn.prepare_cached(BY_HASH)?;
    Ok(find.exists(params![
        hash_of(id),
        id.output.as_str(),
        path.digest(),
        path.name(),
        store
    ])?)
}

/// The hash by which an output is asked about; none for the dummy that says nothing.
fn hash_of(id: &DrvOutput) -> Option<&[u8]> {
    let bytes = id.drv_hash.as_bytes();
    (id.drv_hash.algo() == HashAlgo::Sha256 && bytes.iter().any(|byte| *byte != 0)).then_some(bytes)
}

pub(super) const BUILT: &str = "SELECT 1 FROM output JOIN attempt ON attempt.drv = output.drv
     WHERE output.digest = ?1 AND output.path_name = ?2 AND attempt.result = 'built'
     AND attempt.store = (SELECT id FROM store WHERE name = ?3) LIMIT 1";
pub(super) const REALISED: &str = "SELECT 1 FROM realised WHERE digest = ?1 AND path_name = ?2
     AND store = (SELECT id FROM store WHERE name = ?3) LIMIT 1";
pub(super) const RESOLVED_FIRST: &str =
    "SELECT 1 FROM output JOIN edge USING (drv) WHERE drv = ?1 AND digest IS NULL LIMIT 1";
pub(super) const READ: &str = "SELECT nar_size FROM content WHERE digest = ?1 AND nar_hash = ?2";
pub(super) const BY_HASH: &str = "SELECT 1 FROM realised_as JOIN realised USING (drv, output, store)
     WHERE realised_as.drv_hash = ?1 AND output = ?2 AND digest = ?3 AND path_name = ?4
     AND store = (SELECT id FROM store WHERE name = ?5) LIMIT 1";
