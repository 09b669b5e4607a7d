//! Pull requests (merge requests) as their forge told of them last: table `pull_request`, and the commits that were their
//! heads before: table `former_head`.

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
    /// The forge's number of that repository, where it told it.
    pub repository_id: Option<u64>,
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

/// The pull requests of this number at a forge, in whichever repository.
pub fn of_number(conn: &Connection, forge: &str, number: u64) -> Result<Vec<PullRequestRow>> {
    let number = to_column("the number of a pull request", number)?;
    let mut find = conn.prepare_cached(OF_NUMBER)?;
    let mut rows = find.query(params![forge, number])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

/// Whether a commit was the head of a pull request, and is not any more.
pub fn was_head(conn: &Connection, of: &PullRequestRow, commit: &str) -> Result<bool> {
    let number = to_column("the number of a pull request", of.number)?;
    let mut find = conn.prepare_cached(WAS_HEAD)?;
    Ok(find.exists(params![of.forge, of.repository, number, commit])?)
}

/// Records what a forge says; a head that was another before becomes a former one. Whether what it says is newer than what
/// is known, the caller finds out.
pub fn put(tx: &Transaction<'_>, row: &PullRequestRow) -> Result<()> {
    if let Some(known) = get(tx, &row.forge, &row.repository, row.number)? {
        left(tx, row, &known.head)?;
    }
    let number = to_column("the number of a pull request", row.number)?;
    let repository_id = row
        .repository_id
        .map(|id| to_column("the number of a repository", id))
        .transpose()?;
    tx.prepare_cached(
        "INSERT INTO pull_request
            (forge, repository, repository_id, number, head, head_ref, base, base_ref, is_open, is_fork, changed)
         VALUES (:forge, :repository, :repository_id, :number, :head, :head_ref, :base, :base_ref, :is_open, :is_fork,
            :changed)
         ON CONFLICT (forge, repository, number) DO UPDATE SET
            repository_id = :repository_id, head = :head, head_ref = :head_ref, base = :base, base_ref = :base_ref,
            is_open = :is_open, is_fork = :is_fork, changed = :changed",
    )?
    .execute(named_params! {
        ":forge": row.forge,
        ":repository": row.repository,
        ":repository_id": repository_id,
        ":number": number,
        ":head": row.head,
        ":head_ref": row.head_ref,
        ":base": row.base,
        ":base_ref": row.base_ref,
        ":is_open": row.is_open,
        ":is_fork": row.is_fork,
        ":changed": row.changed,
    })?;
    // A branch can be set back.
    tx.prepare_cached(
        "DELETE FROM former_head WHERE forge = ?1 AND repository = ?2 AND number = ?3 AND commit_id = ?4",
    )?
    .execute(params![row.forge, row.repository, number, row.head])?;
    Ok(())
}

/// Records that a commit was the head of a pull request whose head is another as `now` tells.
pub fn left(tx: &Transaction<'_>, now: &PullRequestRow, commit: &str) -> Result<()> {
    if commit == now.head {
        return Ok(());
    }
    let number = to_column("the number of a pull request", now.number)?;
    tx.prepare_cached(
        "INSERT INTO former_head (forge, repository, number, commit_id, since) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?
    .execute(params![now.forge, now.repository, number, commit, now.changed])?;
    Ok(())
}

/// Forgets pull requests that are closed and were last changed before a time, and heads that were left before it, at most
/// `limit` of each, and says how many of which there were more.
pub fn prune(tx: &Transaction<'_>, before: Millis, limit: u32) -> Result<usize> {
    let heads = tx.prepare_cached(OLD_HEADS)?.execute(params![before, limit])?;
    Ok(heads.max(tx.prepare_cached(OLD)?.execute(params![before, limit])?))
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
        repository_id: row
            .get::<_, Option<i64>>(10)?
            .map(|id| from_column("the number of a repository", id))
            .transpose()?,
    })
}

pub(super) const GET: &str =
    "SELECT forge, repository, number, head, head_ref, base, base_ref, is_open, is_fork, changed, repository_id
     FROM pull_request WHERE forge = ?1 AND repository = ?2 AND number = ?3";
pub(super) const BY_HEAD: &str =
    "SELECT forge, repository, number, head, head_ref, base, base_ref, is_open, is_fork, changed, repository_id
     FROM pull_request WHERE head = ?3 AND forge = ?1 AND repository = ?2 ORDER BY is_open DESC, number DESC";
pub(super) const OF_NUMBER: &str =
    "SELECT forge, repository, number, head, head_ref, base, base_ref, is_open, is_fork, changed, repository_id
     FROM pull_request WHERE number = ?2 AND forge = ?1";
pub(super) const WAS_HEAD: &str =
    "SELECT 1 FROM former_head WHERE forge = ?1 AND repository = ?2 AND number = ?3 AND commit_id = ?4";
pub(super) const OLD_HEADS: &str = "DELETE FROM former_head WHERE (forge, repository, number, commit_id) IN
     (SELECT forge, repository, number, commit_id FROM former_head WHERE since < ?1 ORDER BY since LIMIT ?2)";
pub(super) const OLD: &str = "DELETE FROM pull_request WHERE (forge, repository, number) IN
     (SELECT forge, repository, number FROM pull_request WHERE is_open = 0 AND changed < ?1 ORDER BY changed LIMIT ?2)";
