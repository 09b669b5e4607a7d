//! What forges tell through webhooks: table `delivery`, a queue and a memory in one.
//!
//! A delivery is taken once, by its number and by the digest of its body, and waits until it is done. What it asked for is
//! dropped then; that it was here stays until [`prune`] forgets it.

use nixci_protocol::nixci::control::Millis;
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};

use super::error::Result;
use super::names::from_column;

/// The number of a delivery in this index; it is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryId(pub i64);

/// A delivery whose signature was right.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewDelivery {
    /// The forge, by its name in the configuration.
    pub forge: String,
    /// Its own number of it.
    pub number: String,
    /// SHA-256 of the body as it came.
    pub digest: [u8; 32],
    /// What the forge calls it.
    pub event: String,
    /// What it asks for, as JSON; or why it asks for nothing.
    pub content: std::result::Result<String, String>,
    /// Whether another body of the same bytes is the same delivery, whatever its number: numbers are not signed.
    pub is_unique: bool,
}

/// What [`take`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It waits to be handled.
    Queued(DeliveryId),
    /// It asks for nothing, and is remembered.
    Ignored,
    /// It was here before.
    Known,
}

/// A delivery that waits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeliveryRow {
    /// Its number here.
    pub id: DeliveryId,
    /// The forge, by its name in the configuration.
    pub forge: String,
    /// The forge's own number of it.
    pub number: String,
    /// What the forge calls it.
    pub event: String,
    /// What it asks for, as JSON.
    pub content: String,
    /// When it came.
    pub received: Millis,
    /// How often it was tried.
    pub tries: u32,
}

/// What became of a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// What it asked for was done.
    Handled,
    /// It is not about anything here.
    Ignored,
    /// It was given up.
    Failed,
}

impl Outcome {
    /// As the column, metrics and log lines write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Handled => "handled",
            Self::Ignored => "ignored",
            Self::Failed => "failed",
        }
    }
}

/// How much waits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waiting {
    /// Deliveries that are not done.
    pub length: u64,
    /// When the oldest of them came.
    pub oldest: Option<Millis>,
}

/// Takes a delivery, unless it was here before. One that failed is taken again: somebody has asked the forge to send it
/// once more.
pub fn take(tx: &Transaction<'_>, new: &NewDelivery, now: Millis) -> Result<Taken> {
    let twin = if new.is_unique {
        tx.prepare_cached(TWIN)?
            .query_row(params![new.forge, new.digest, new.number], |_| Ok(()))
            .optional()?
    } else {
        None
    };
    if twin.is_some() {
        return Ok(Taken::Known);
    }
    let (content, result) = match &new.content {
        Ok(content) => (Some(content), None),
        Err(why) => (None, Some(why)),
    };
    let is_ignored = content.is_none();
    let values = named_params! {
        ":forge": new.forge,
        ":number": new.number,
        ":digest": new.digest,
        ":event": new.event,
        ":content": content,
        ":now": now,
        ":done": is_ignored.then_some(now),
        ":outcome": is_ignored.then_some(Outcome::Ignored.word()),
        ":result": result,
    };
    let id = tx
        .prepare_cached(
            "INSERT INTO delivery (forge, number, digest, event, content, received, done, outcome, result)
             VALUES (:forge, :number, :digest, :event, :content, :now, :done, :outcome, :result)
             ON CONFLICT (forge, number) DO UPDATE SET
                digest = :digest, event = :event, content = :content, received = :now, tries = 0, retry_at = NULL,
                done = :done, outcome = :outcome, result = :result
             WHERE outcome = 'failed'
             RETURNING id",
        )?
        .query_row(values, |row| row.get(0))
        .optional()?;
    Ok(match id {
        None => Taken::Known,
        Some(_) if is_ignored => Taken::Ignored,
        Some(id) => Taken::Queued(DeliveryId(id)),
    })
}

/// The deliveries to handle now, oldest first, at most `limit`.
pub fn due(conn: &Connection, now: Millis, limit: u32) -> Result<Vec<DeliveryRow>> {
    let mut find = conn.prepare_cached(DUE)?;
    let rows = find.query_map(params![now, limit], read)?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// When the next of those that failed is to be tried again.
pub fn next_retry(conn: &Connection) -> Result<Option<Millis>> {
    Ok(conn.prepare_cached(NEXT_RETRY)?.query_row([], |row| row.get(0))?)
}

/// Notes that a delivery was tried, before it is: a delivery that brings the daemon down is then given up at last.
pub fn trying(tx: &Transaction<'_>, id: DeliveryId) -> Result<()> {
    tx.prepare_cached("UPDATE delivery SET tries = tries + 1 WHERE id = ?1 AND done IS NULL")?
        .execute([id.0])?;
    Ok(())
}

/// Puts a delivery back: not before `retry_at`.
pub fn again(tx: &Transaction<'_>, id: DeliveryId, why: &str, retry_at: Millis) -> Result<()> {
    tx.prepare_cached("UPDATE delivery SET retry_at = ?2, result = ?3 WHERE id = ?1 AND done IS NULL")?
        .execute(params![id.0, retry_at, why])?;
    Ok(())
}

/// Says what became of a delivery, and drops what it asked for.
pub fn done(tx: &Transaction<'_>, id: DeliveryId, outcome: Outcome, result: &str, now: Millis) -> Result<()> {
    tx.prepare_cached(
        "UPDATE delivery SET done = ?2, outcome = ?3, result = ?4, content = NULL, retry_at = NULL
         WHERE id = ?1 AND done IS NULL",
    )?
    .execute(params![id.0, now, outcome.word(), result])?;
    Ok(())
}

/// How much waits.
pub fn waiting(conn: &Connection) -> Result<Waiting> {
    let (length, oldest): (i64, Option<Millis>) = conn
        .prepare_cached(WAITING)?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    Ok(Waiting {
        length: from_column("the deliveries that wait", length)?,
        oldest,
    })
}

/// Forgets deliveries that are done and came before a time, at most `limit` of them, and says how many.
pub fn prune(tx: &Transaction<'_>, before: Millis, limit: u32) -> Result<usize> {
    Ok(tx.prepare_cached(OLD)?.execute(params![before, limit])?)
}

fn read(row: &Row<'_>) -> rusqlite::Result<DeliveryRow> {
    Ok(DeliveryRow {
        id: DeliveryId(row.get(0)?),
        forge: row.get(1)?,
        number: row.get(2)?,
        event: row.get(3)?,
        content: row.get(4)?,
        received: row.get(5)?,
        tries: row.get(6)?,
    })
}

pub(super) const TWIN: &str = "SELECT 1 FROM delivery
     WHERE forge = ?1 AND digest = ?2 AND number <> ?3 AND outcome IS NOT 'failed' LIMIT 1";
pub(super) const DUE: &str = "SELECT id, forge, number, event, content, received, tries FROM delivery
     WHERE done IS NULL AND coalesce(retry_at, 0) <= ?1 ORDER BY id LIMIT ?2";
pub(super) const NEXT_RETRY: &str = "SELECT min(retry_at) FROM delivery WHERE done IS NULL";
pub(super) const WAITING: &str = "SELECT count(*), min(received) FROM delivery WHERE done IS NULL";
pub(super) const OLD: &str = "DELETE FROM delivery WHERE id IN
     (SELECT id FROM delivery WHERE received < ?1 AND done IS NOT NULL LIMIT ?2)";
