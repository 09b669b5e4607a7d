//! Pull requests (merge requests) as their forge told of them last: table `pull_request`.

use nixci_protocol::nixci::control::Millis;
use rusqlite::{Connection, Row, Transaction, named_params, params};

use super::error::Result;
use super::names::{from_column, to_column};

/// A pull request, and when its forge says it was so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequestRow {
    /// The forge, by its name in the configuration.
    pub forge: String,
    /// The repository it is to be merged into: `owner/name`.
    pub repository: String,
    /// Its number there.
    pub number: u64,
    /// The commit at its head.
    pub head: String,
    /// Its branch.
    pub head_ref: Option<String>,
    /// The commit it is to be merged into.
    pub base: Option<String>,
    /// The branch it is to be merged into.
    pub base_ref: Option<String>,
    /// Whether it is open.
    pub is_open: bool,
    /// Whether its head is in another repository.
    pub is_fork: bool,
    /// When it was last changed, by the forge's clock.
    pub changed: Millis,
}

/// What is known of a pull request.
pub fn get(conn: &Connection, forge: &str, repository: &str, number: u64) -> Result<Option<PullRequestRow>> {
    let number = to_column("the number of a pull request", number)?;
    let mut find = conn.prepare_cached(GET)?;
    let mut rows = find.query(params![forge, repository, number])?;
    rows.next()?.map(read).transpose()
}

/// The pull requests of a repository whose head is this commit, open ones first, then the newest.
pub fn by_head(conn: &Connection, forge: &str, repository: &str, head: &str) -> Result<Vec<PullRequestRow>> {
    let mut find = conn.prepare_cached(BY_HEAD)?;
    let mut rows = find.query(params![forge, repository, head])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// Records what a forge says. Whether that is newer than what is known, the caller finds out.
pub fn put(tx: &Transaction<'_>, row: &PullRequestRow) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO pull_request
            (forge, repository, number, head, head_ref, base, base_ref, is_open, is_fork, changed)
         VALUES (:forge, :repository, :number, :head, :head_ref, :base, :base_ref, :is_open, :is_fork, :changed)
         ON CONFLICT (forge, repository, number) DO UPDATE SET
            head = :head, head_ref = :head_ref, base = :base, base_ref = :base_ref, is_open = :is_open,
            is_fork = :is_fork, changed = :changed",
    )?
    .execute(named_params! {
        ":forge": row.forge,
        ":repository": row.repository,
        ":number": to_column("the number of a pull request", row.number)?,
        ":head": row.head,
        ":head_ref": row.head_ref,
        ":base": row.base,
        ":base_ref": row.base_ref,
        ":is_open": row.is_open,
        ":is_fork": row.is_fork,
        ":changed": row.changed,
    })?;
    Ok(())
}

/// Forgets pull requests that are closed and were last changed before a time, at most `limit` of them, and says how many.
pub fn prune(tx: &Transaction<'_>, before: Millis, limit: u32) -> Result<usize> {
    Ok(tx.prepare_cached(OLD)?.execute(params![before, limit])?)
}

fn read(row: &Row<'_>) -> Result<PullRequestRow> {
    Ok(PullRequestRow {
        forge: row.get(0)?,
        repository: row.get(1)?,
        number: from_column("the number of a pull request", row.get(2)?)?,
        head: row.get(3)?,
        head_ref: row.get(4)?,
        base: row.get(5)?,
        base_ref: row.get(6)?,
        is_open: row.get(7)?,
        is_fork: row.get(8)?,
        changed: row.get(9)?,
    })
}

pub(super) const GET: &str =
    "SELECT forge, repository, number, head, head_ref, base, base_ref, is_open, is_fork, changed
     FROM pull_request WHERE forge = ?1 AND repository = ?2 AND number = ?3";
pub(super) const BY_HEAD: &str =
    "SELECT forge, repository, number, head, head_ref, base, base_ref, is_open, is_fork, changed
     FROM pull_request WHERE head = ?3 AND forge = ?1 AND repository = ?2 ORDER BY is_open DESC, number DESC";
pub(super) const OLD: &str = "DELETE FROM pull_request WHERE (forge, repository, number) IN
     (SELECT forge, repository, number FROM pull_request WHERE is_open = 0 AND changed < ?1 ORDER BY changed LIMIT ?2)";
