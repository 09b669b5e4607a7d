//! What forges have refused for good: nothing more is tried there before something changes.

use nixci_protocol::nixci::control::Millis;
use rusqlite::{Connection, OptionalExtension, Transaction, named_params, params};

use super::super::error::Result;
use super::{StatusId, StatusRow};

/// A repository that takes nothing from us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRepository {
    /// The forge, by its name in the configuration.
    pub forge: String,
    /// The repository there.
    pub repository: String,
    /// Why, in one line.
    pub reason: String,
    /// Since when.
    pub since: Millis,
    /// A digest of how the forge was configured then: another one is a change.
    pub settings: String,
}

/// Sends a status no more until its content changes or somebody asks for it. Says whether its content has changed
/// since `seq` was sent: then nothing is refused.
pub fn refuse(tx: &Transaction<'_>, id: StatusId, seq: i64, error: &str, now: Millis) -> Result<bool> {
    let is_newer: Option<bool> = tx
        .prepare_cached(
            "UPDATE status SET
                tried_seq = sent_seq,
                error = :error,
                refused = CASE WHEN seq = :seq THEN :now END
             WHERE id = :id RETURNING seq <> :seq",
        )?
        .query_row(
            named_params! {":id": id.0, ":seq": seq, ":error": error, ":now": now},
            |row| row.get(0),
        )
        .optional()?;
    Ok(is_newer.unwrap_or(false))
}

/// Sends nothing more to a repository. What was said of it first stays.
pub fn refuse_repository(tx: &Transaction<'_>, refused: &RefusedRepository) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO refused_repository (forge, repository, reason, since, settings) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO NOTHING",
    )?
    .execute(params![
        refused.forge,
        refused.repository,
        refused.reason,
        refused.since,
        refused.settings
    ])?;
    Ok(())
}

/// Tries a repository again, and says whether it was refused before.
pub fn allow_repository(tx: &Transaction<'_>, forge: &str, repository: &str) -> Result<bool> {
    let gone = tx
        .prepare_cached("DELETE FROM refused_repository WHERE forge = ?1 AND repository = ?2")?
        .execute([forge, repository])?;
    Ok(gone > 0)
}

/// Tries every repository of a forge again that was refused under other settings than these, and says how many.
pub fn allow_repositories(tx: &Transaction<'_>, forge: &str, settings: &str) -> Result<usize> {
    Ok(tx
        .prepare_cached("DELETE FROM refused_repository WHERE forge = ?1 AND settings <> ?2")?
        .execute([forge, settings])?)
}

/// Statuses that are sent no more, the newest refusals first, at most so many.
pub fn refused_statuses(conn: &Connection, most: u32) -> Result<Vec<StatusRow>> {
    super::many(
        conn,
        "WHERE refused IS NOT NULL ORDER BY refused DESC, id DESC LIMIT ?1",
        [most],
    )
}

/// All refused repositories, in the order of their names.
pub fn refused(conn: &Connection) -> Result<Vec<RefusedRepository>> {
    let mut find = conn.prepare_cached(
        "SELECT forge, repository, reason, since, settings FROM refused_repository ORDER BY forge, repository",
    )?;
    let rows = find.query_map([], |row| {
        Ok(RefusedRepository {
            forge: row.get(0)?,
            repository: row.get(1)?,
            reason: row.get(2)?,
            since: row.get(3)?,
            settings: row.get(4)?,
        })
    })?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}
