//! Copies of a spool that a daemon uses meanwhile, for backups.
//!
//! The database is copied as [`Snapshot`] does it. The files of large objects are written once and named by a row only
//! when they are whole, so that they can be copied as they are for as long as nothing is collected.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::STEPS;
use crate::index::Result;
use crate::index::snapshot::Snapshot;

/// The newest schema of a spool that this build knows.
pub const KNOWN: i64 = STEPS.len() as i64;

/// The database in the folder of a spool.
#[must_use]
pub fn database(dir: &Path) -> PathBuf {
    dir.join("spool.db")
}

/// The folder of large objects in that of a spool.
#[must_use]
pub fn large_files(dir: &Path) -> PathBuf {
    dir.join("nars")
}

/// Takes a snapshot of the database of a spool. Blocks. Fails where a newer nixci has written it.
pub fn take(dir: &Path) -> Result<Snapshot> {
    Snapshot::open(&database(dir), KNOWN)
}

/// How many objects there are.
pub fn objects(spool: &Connection) -> Result<u64> {
    let count: i64 = spool.query_row("SELECT count(*) FROM object", [], |row| row.get(0))?;
    Ok(count as u64)
}

/// The names of the files of large objects.
pub fn files(spool: &Connection) -> Result<Vec<String>> {
    let mut find = spool.prepare("SELECT file FROM object WHERE file IS NOT NULL ORDER BY id")?;
    let rows = find.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
