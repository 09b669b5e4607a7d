//! Tries at builds: table `attempt`.
//!
//! An attempt without a result is running. What a derivation's attempts come to together is said by
//! [`super::outcomes`], not here.

use std::collections::HashMap;

use nixci_protocol::nixci::control::{AttemptId, Millis};
use nixci_protocol::nixci::outcome::{FailureClass, Success};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};

use super::DrvId;
use super::error::{Error, Result};
use super::names::{class, class_name, from_column, nonsense, success, success_name, to_column};

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AttemptResult {
    /// The outputs exist.
    Succeeded(Success),
    /// It failed.
    Failed(FailureClass),
    /// Somebody cancelled it; it says nothing about the derivation.
    Cancelled,
}

/// What is recorded when an attempt ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptEnd {
    /// How it ended.
    pub result: AttemptResult,
    /// What the store said, first line first, without ANSI escapes; empty after a success.
    pub message: String,
    /// Lines it printed, those beyond the limit of the log included.
    pub log_lines: u64,
    /// Until when a failure whose class is remembered stands in the way of another try; none: until it is forgotten.
    pub expires: Option<Millis>,
}

/// One try at a build on one store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRow {
    /// Its number, which names its log.
    pub id: AttemptId,
    /// The derivation.
    pub drv: DrvId,
    /// The name of the store.
    pub store: String,
    /// When it began.
    pub started: Millis,
    /// When it ended; none while it runs.
    pub ended: Option<Millis>,
    /// How it ended; none while it runs.
    pub result: Option<AttemptResult>,
    /// What the store said; empty after a success.
    pub message: String,
    /// Lines it printed.
    pub log_lines: u64,
    /// Until when its failure is remembered, where that has an end.
    pub expires: Option<Millis>,
    /// Whether a restart has forgotten its failure.
    pub forgotten: bool,
}

/// Begins an attempt.
pub fn begin(tx: &Transaction<'_>, drv: DrvId, store: &str, now: Millis) -> Result<AttemptId> {
    let store = store_id(tx, store)?;
    let mut insert = tx.prepare_cached("INSERT INTO attempt (drv, store, started) VALUES (?1, ?2, ?3)")?;
    Ok(AttemptId(insert.insert(params![drv.0, store, now])?))
}

/// Ends an attempt. False, and nothing changes, where it had ended already.
pub fn finish(tx: &Transaction<'_>, id: AttemptId, end: &AttemptEnd, now: Millis) -> Result<bool> {
    let (result, class) = columns(end.result);
    let changed = tx
        .prepare_cached(
            "UPDATE attempt SET ended = max(started, :now), result = :result, class = :class, message = :message,
                log_lines = :lines, expires = :expires
             WHERE id = :id AND result IS NULL",
        )?
        .execute(named_params! {
            ":id": id.0,
            ":now": now,
            ":result": result,
            ":class": class,
            ":message": (!end.message.is_empty()).then_some(&end.message),
            ":lines": to_column("the number of log lines", end.log_lines)?,
            ":expires": end.expires,
        })?;
    if changed == 0 && get(tx, id)?.is_none() {
        return Err(Error::Missing {
            what: "attempt",
            id: id.0,
        });
    }
    Ok(changed == 1)
}

/// Records that a store has the outputs of derivations without an attempt of ours, and returns for how many that is
/// news: one whose newest attempt says so already gets no other.
pub fn record_valid(tx: &Transaction<'_>, drvs: &[DrvId], store: &str, how: Success, now: Millis) -> Result<u64> {
    let store = store_id(tx, store)?;
    let mut newest = tx.prepare_cached("SELECT result FROM attempt WHERE drv = ?1 ORDER BY id DESC LIMIT 1")?;
    let mut insert = tx.prepare_cached(
        "INSERT INTO attempt (drv, store, started, ended, result, log_lines) VALUES (?1, ?2, ?3, ?3, ?4, 0)",
    )?;
    let mut news = 0;
    for drv in drvs {
        let said: Option<Option<String>> = newest.query_row([drv.0], |row| row.get(0)).optional()?;
        if said.flatten().is_none_or(|result| success(&result).is_none()) {
            insert.execute(params![drv.0, store, now, success_name(how)])?;
            news += 1;
        }
    }
    Ok(news)
}

/// Ends the attempts that were running when the daemon stopped, as failures of class store, and returns how many.
/// Called once, when the daemon starts.
pub fn requeue_running(tx: &Transaction<'_>, now: Millis) -> Result<u64> {
    let changed = tx
        .prepare_cached(
            "UPDATE attempt SET ended = max(started, ?1), result = 'failed', class = 'store',
                message = 'the daemon stopped'
             WHERE result IS NULL",
        )?
        .execute([now])?;
    Ok(changed as u64)
}

/// Forgets the failures of derivations, so that they may be tried again, and returns how many derivations had one.
/// The attempts stay and say nothing any more.
pub fn forget(tx: &Transaction<'_>, drvs: &[DrvId]) -> Result<u64> {
    let mut update =
        tx.prepare_cached("UPDATE attempt SET forgotten = 1 WHERE drv = ?1 AND result = 'failed' AND forgotten = 0")?;
    let mut had = 0;
    for drv in drvs {
        had += u64::from(update.execute([drv.0])? > 0);
    }
    Ok(had)
}

/// One attempt by its number.
pub fn get(conn: &Connection, id: AttemptId) -> Result<Option<AttemptRow>> {
    let mut find = conn.prepare_cached(GET)?;
    let row = find.query_row([id.0], |row| Ok(read(row)));
    row.optional()?.transpose()
}

/// All attempts at a derivation, newest first.
pub fn of(conn: &Connection, drv: DrvId) -> Result<Vec<AttemptRow>> {
    let mut find = conn.prepare_cached(OF)?;
    let mut rows = find.query([drv.0])?;
    let mut attempts = Vec::new();
    while let Some(row) = rows.next()? {
        attempts.push(read(row)?);
    }
    Ok(attempts)
}

/// The newest attempt at each derivation, whatever it says and also while it runs; derivations without one are absent.
pub fn last(conn: &Connection, drvs: &[DrvId]) -> Result<HashMap<DrvId, AttemptRow>> {
    first_of_each(conn, LAST, drvs, |_| true)
}

/// The attempts that run now, oldest first.
pub fn running(conn: &Connection) -> Result<Vec<AttemptRow>> {
    let mut find = conn.prepare_cached(RUNNING)?;
    let mut rows = find.query([])?;
    let mut attempts = Vec::new();
    while let Some(row) = rows.next()? {
        attempts.push(read(row)?);
    }
    Ok(attempts)
}

/// The failures that stand in the way of another try: the newest of each derivation that has no success after it, if
/// its class is remembered and it has neither expired nor been forgotten.
pub fn remembered_failures(conn: &Connection, drvs: &[DrvId], now: Millis) -> Result<HashMap<DrvId, AttemptRow>> {
    first_of_each(conn, LAST_WEIGHTY, drvs, |attempt| match attempt.result {
        Some(AttemptResult::Failed(class)) => {
            class.is_remembered() && attempt.expires.is_none_or(|expires| now < expires)
        }
        Some(AttemptResult::Succeeded(_) | AttemptResult::Cancelled) | None => false,
    })
}

macro_rules! select {
    ($rest:literal) => {
        concat!(
            "SELECT a.id, a.drv, s.name, a.started, a.ended, a.result, a.class, a.message, a.log_lines, a.expires,
                a.forgotten
             FROM attempt a JOIN store s ON s.id = a.store ",
            $rest
        )
    };
}

const GET: &str = select!("WHERE a.id = ?1");
pub(super) const RUNNING: &str = select!("WHERE a.result IS NULL ORDER BY a.id");
pub(super) const OF: &str = select!("WHERE a.drv = ?1 ORDER BY a.id DESC");
pub(super) const LAST: &str = select!("WHERE a.drv = ?1 ORDER BY a.id DESC LIMIT 1");
/// The newest that says something about the derivation itself.
pub(super) const LAST_WEIGHTY: &str = select!(
    "WHERE a.drv = ?1 AND a.forgotten = 0
       AND (a.result IN ('built', 'substituted', 'already-valid') OR a.class IN ('build', 'hash-mismatch'))
     ORDER BY a.id DESC LIMIT 1"
);

fn first_of_each(
    conn: &Connection,
    sql: &str,
    drvs: &[DrvId],
    wanted: impl Fn(&AttemptRow) -> bool,
) -> Result<HashMap<DrvId, AttemptRow>> {
    let mut find = conn.prepare_cached(sql)?;
    let mut attempts = HashMap::new();
    for drv in drvs {
        let mut rows = find.query([drv.0])?;
        if let Some(row) = rows.next()? {
            let attempt = read(row)?;
            if wanted(&attempt) {
                attempts.insert(*drv, attempt);
            }
        }
    }
    Ok(attempts)
}

fn read(row: &Row<'_>) -> Result<AttemptRow> {
    let result = row.get_ref(5)?.as_str_or_null().map_err(rusqlite::Error::from)?;
    let class = row.get_ref(6)?.as_str_or_null().map_err(rusqlite::Error::from)?;
    Ok(AttemptRow {
        id: AttemptId(row.get(0)?),
        drv: DrvId(row.get(1)?),
        store: row.get(2)?,
        started: row.get(3)?,
        ended: row.get(4)?,
        result: result.map(|result| parse(result, class)).transpose()?,
        message: row.get::<_, Option<String>>(7)?.unwrap_or_default(),
        log_lines: from_column("the number of log lines", row.get::<_, Option<i64>>(8)?.unwrap_or(0))?,
        expires: row.get(9)?,
        forgotten: row.get(10)?,
    })
}

fn columns(result: AttemptResult) -> (&'static str, Option<&'static str>) {
    match result {
        AttemptResult::Succeeded(how) => (success_name(how), None),
        AttemptResult::Failed(class) => ("failed", Some(class_name(class))),
        AttemptResult::Cancelled => ("cancelled", None),
    }
}

pub(super) fn parse(result: &str, of: Option<&str>) -> Result<AttemptResult> {
    match (result, of) {
        ("failed", Some(of)) => Ok(AttemptResult::Failed(class(of)?)),
        ("cancelled", None) => Ok(AttemptResult::Cancelled),
        (how, None) => success(how)
            .map(AttemptResult::Succeeded)
            .ok_or_else(|| nonsense(format!("an attempt has result `{how}`"))),
        (result, Some(of)) => Err(nonsense(format!("an attempt has result `{result}` and class `{of}`"))),
    }
}

/// The number of a store by its name.
pub(super) fn store_id(tx: &Transaction<'_>, name: &str) -> Result<i64> {
    let mut find = tx.prepare_cached("SELECT id FROM store WHERE name = ?1")?;
    if let Some(id) = find.query_row([name], |row| row.get(0)).optional()? {
        return Ok(id);
    }
    Ok(tx
        .prepare_cached("INSERT INTO store (name) VALUES (?1)")?
        .insert([name])?)
}
