//! Pushes as forges told of them: table `push`.

use nixci_protocol::nixci::control::Millis;
use rusqlite::{Connection, Transaction, params};

use super::error::Result;

/// A branch or tag that was made, moved or removed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushRow {
    /// The forge, by its name in the configuration.
    pub forge: String,
    /// The repository: `owner/name`.
    pub repository: String,
    /// The ref, whole: `refs/heads/main`.
    pub git_ref: String,
    /// Where it was; none where it is new.
    pub old_commit: Option<String>,
    /// Where it is; none where it was removed.
    pub new_commit: Option<String>,
    /// When we were told.
    pub received: Millis,
}

/// Records a push.
pub fn add(tx: &Transaction<'_>, row: &PushRow) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO push (forge, repository, git_ref, old_commit, new_commit, received)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?
    .execute(params![
        row.forge,
        row.repository,
        row.git_ref,
        row.old_commit,
        row.new_commit,
        row.received
    ])?;
    Ok(())
}

/// The newest pushes to a ref, newest first, at most `limit`.
pub fn of(conn: &Connection, forge: &str, repository: &str, git_ref: &str, limit: u32) -> Result<Vec<PushRow>> {
    let mut find = conn.prepare_cached(OF)?;
    let rows = find.query_map(params![forge, repository, git_ref, limit], |row| {
        Ok(PushRow {
            forge: row.get(0)?,
            repository: row.get(1)?,
            git_ref: row.get(2)?,
            old_commit: row.get(3)?,
            new_commit: row.get(4)?,
            received: row.get(5)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Forgets pushes that came before a time, at most `limit` of them, and says how many.
pub fn prune(tx: &Transaction<'_>, before: Millis, limit: u32) -> Result<usize> {
    Ok(tx.prepare_cached(OLD)?.execute(params![before, limit])?)
}

pub(super) const OF: &str = "SELECT forge, repository, git_ref, old_commit, new_commit, received FROM push
     WHERE forge = ?1 AND repository = ?2 AND git_ref = ?3 ORDER BY id DESC LIMIT ?4";
pub(super) const OLD: &str = "DELETE FROM push WHERE id IN (SELECT id FROM push WHERE received < ?1 LIMIT ?2)";
