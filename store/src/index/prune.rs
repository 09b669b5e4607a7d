//! Forgetting evaluations that are old enough, and the attempts and logs that only they were about.
//!
//! What stays of a forgotten evaluation is the graph: its derivations, their edges and outputs, whose numbers others
//! hold, and that something was built, for which it is served signed. That is small beside logs and uploads.

use std::collections::HashSet;

use nixci_protocol::nixci::control::{AttemptId, EvaluationId, Millis};
use rusqlite::{Connection, Transaction, named_params, params};

use super::DrvId;
use super::derivations;
use super::error::Result;
use super::names::json;

/// Which evaluations are kept.
#[derive(Debug, Clone, Copy)]
pub struct Keep {
    /// Those that ended at this time or later.
    pub ended_since: Millis,
    /// So many of each project, the newest, whenever they ended.
    pub newest: u32,
}

/// The evaluations that are not kept, oldest first: ended, older, not among the newest of their project, and not of a
/// commit that an evaluation which is kept names as its base.
pub fn expired(conn: &Connection, keep: Keep) -> Result<Vec<EvaluationId>> {
    let mut find = conn.prepare_cached(EXPIRED)?;
    let rows = find.query_map(
        named_params! {":since": keep.ended_since, ":newest": keep.newest},
        |row| row.get(0).map(EvaluationId),
    )?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// Forgets an evaluation with its jobs and statuses, and says whether it did: not one that was opened again meanwhile.
pub fn forget(tx: &Transaction<'_>, id: EvaluationId, keep: Keep) -> Result<bool> {
    let mut find = tx.prepare_cached("SELECT 1 FROM evaluation WHERE id = ?1 AND ended < ?2")?;
    if !find.exists(params![id.0, keep.ended_since])? {
        return Ok(false);
    }
    tx.prepare_cached("DELETE FROM job WHERE evaluation = ?1")?
        .execute([id.0])?;
    tx.prepare_cached("DELETE FROM status WHERE evaluation = ?1")?
        .execute([id.0])?;
    tx.prepare_cached("DELETE FROM evaluation WHERE id = ?1")?
        .execute([id.0])?;
    Ok(true)
}

/// The digests of the derivations that jobs of evaluations are, but for those of some evaluations.
pub fn roots(conn: &Connection, except: &[EvaluationId]) -> Result<HashSet<[u8; 20]>> {
    let mut find = conn.prepare_cached(ROOTS)?;
    let rows = find.query_map([json(&except)?], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// The attempts whose failure or log is to be forgotten: they ended before `since` at derivations that no evaluation
/// needs. Failures that still count stay.
pub fn unneeded_attempts(conn: &Connection, since: Millis, now: Millis) -> Result<Vec<AttemptId>> {
    let mut old = conn.prepare_cached(
        "SELECT id, drv FROM attempt
         WHERE ended < ?1 AND (log_lines > 0 OR result IN ('failed', 'cancelled'))
           AND (expires IS NULL OR expires <= ?2 OR forgotten = 1)",
    )?;
    let rows = old.query_map([since, now], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let old: Vec<(i64, i64)> = rows.collect::<rusqlite::Result<_>>()?;
    if old.is_empty() {
        return Ok(Vec::new());
    }
    let mut find = conn.prepare_cached("SELECT DISTINCT drv FROM job WHERE drv IS NOT NULL")?;
    let rows = find.query_map([], |row| row.get(0).map(DrvId))?;
    let jobs: Vec<DrvId> = rows.collect::<rusqlite::Result<_>>()?;
    let needed: HashSet<DrvId> = derivations::closure(conn, &jobs)?.into_iter().collect();
    let unneeded = old.into_iter().filter(|(_, drv)| !needed.contains(&DrvId(*drv)));
    Ok(unneeded.map(|(id, _)| AttemptId(id)).collect())
}

/// Forgets attempts that failed, and that the others had logs. Those are files, which the caller removes.
pub fn forget_attempts(tx: &Transaction<'_>, attempts: &[AttemptId]) -> Result<()> {
    let mut delete = tx.prepare_cached("DELETE FROM attempt WHERE id = ?1 AND result IN ('failed', 'cancelled')")?;
    let mut update = tx.prepare_cached("UPDATE attempt SET log_lines = 0 WHERE id = ?1 AND result IS NOT NULL")?;
    for attempt in attempts {
        delete.execute([attempt.0])?;
        update.execute([attempt.0])?;
    }
    Ok(())
}

pub(super) const EXPIRED: &str = "
    WITH ranked AS (
        SELECT id, project, commit_id, base, ended,
               row_number() OVER (PARTITION BY project ORDER BY id DESC) AS nth
        FROM evaluation
    ), kept AS (
        SELECT project, base FROM ranked WHERE ended IS NULL OR ended >= :since OR nth <= :newest
    )
    SELECT id FROM ranked
    WHERE ended < :since AND nth > :newest
      AND NOT EXISTS (SELECT 1 FROM kept WHERE kept.base = ranked.commit_id AND kept.project = ranked.project)
    ORDER BY id";
pub(super) const ROOTS: &str = "SELECT digest FROM derivation d
     WHERE EXISTS (SELECT 1 FROM job WHERE drv = d.id AND evaluation NOT IN (SELECT value FROM json_each(?1)))";
