//! What is to be shown on forges, and what they have of it: table `status`.
//!
//! A row is one context of one commit. Whoever wants something shown writes it with [`want`]; whoever sends takes what is
//! newest. The number `seq` grows with every change, so that "sent" always says what was sent.

mod refused;
mod sending;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{EvaluationId, Millis};
use nixci_protocol::nixci::report::{StatusContent, StatusReport, StatusRole, StatusState};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};

use super::error::Result;
use super::names::{from_column, json, nonsense};

pub use refused::{
    RefusedRepository, allow_repositories, allow_repository, refuse, refuse_repository, refused, refused_statuses,
};
pub use sending::{
    Begun, Counts, Failure, Held, Unsent, begin, confirm, counts, fail, found, renew, send_again, tried_since, unsent,
    unsent_places, unsent_repositories,
};

#[cfg(test)]
pub(super) use sending::HOT as SENDING;

/// The number of a status; it is never given twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StatusId(pub i64);

/// A place where a status stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StatusKey {
    /// The forge, by its name in the configuration.
    pub forge: String,
    /// The repository there: `owner/name`.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// The name it is known by.
    pub context: String,
}

/// What shall stand there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Where.
    pub key: StatusKey,
    /// The evaluation that says so.
    pub evaluation: EvaluationId,
    /// Which of its statuses this is.
    pub role: StatusRole,
    /// The job, where it is of one.
    pub attr: Option<AttrPath>,
    /// What it says.
    pub content: StatusContent,
}

/// One status, and what its forge has of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusRow {
    /// Its number.
    pub id: StatusId,
    /// Where, who, and what.
    pub wanted: Wanted,
    /// The number of the content; it grows with every change.
    pub seq: i64,
    /// When the content was last changed.
    pub changed: Millis,
    /// The newest content a request was begun for. Newer than `sent_seq`: it is under way, or its answer was lost.
    pub tried_seq: Option<i64>,
    /// The content that the forge has confirmed.
    pub sent_seq: Option<i64>,
    /// Its state.
    pub sent_state: Option<StatusState>,
    /// When it was confirmed.
    pub sent: Option<Millis>,
    /// The forge's own number of it: of a check run, of a pipeline.
    pub remote_id: Option<String>,
    /// Whether the forge was ever told something red here, or may have been.
    pub was_red: bool,
    /// Requests that were begun and would have changed something.
    pub writes: u64,
    /// Failures since the last success.
    pub failures: u64,
    /// Not before this time.
    pub retry_at: Option<Millis>,
    /// What went wrong last.
    pub error: Option<String>,
    /// Since when nothing more is tried.
    pub refused: Option<Millis>,
}

/// A status without its words: what there is to know of it before they are written anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stand {
    /// The name it is known by.
    pub context: String,
    /// The evaluation that says so.
    pub evaluation: EvaluationId,
    /// Which of its statuses this is.
    pub role: StatusRole,
    /// The job, where it is of one.
    pub attr: Option<AttrPath>,
    /// What is wanted to stand there.
    pub state: StatusState,
    /// When that was last changed.
    pub changed: Millis,
    /// Whether the forge was ever told something red here, or may have been.
    pub was_red: bool,
}

/// What [`want`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// There is something to send.
    Changed(StatusId),
    /// That is what stood there.
    Same(StatusId),
    /// A newer evaluation has said what stands there.
    Superseded,
}

impl StatusRow {
    /// As `nixci report` shows it.
    #[must_use]
    pub fn report(self) -> StatusReport {
        StatusReport {
            is_sent: self.sent_seq == Some(self.seq),
            forge: self.wanted.key.forge,
            repository: self.wanted.key.repository,
            commit: self.wanted.key.commit,
            context: self.wanted.key.context,
            role: self.wanted.role,
            evaluation: self.wanted.evaluation,
            attr: self.wanted.attr,
            state: self.wanted.content.state,
            description: self.wanted.content.description,
            sent_state: self.sent_state,
            sent: self.sent,
            writes: self.writes,
            error: self.error,
            is_refused: self.refused.is_some(),
        }
    }
}

/// Says what shall stand at a place. What a newer evaluation of the same commit has said stays. A change clears what
/// stood in the way of sending.
pub fn want(tx: &Transaction<'_>, wanted: &Wanted, now: Millis) -> Result<Want> {
    let key = &wanted.key;
    let content = json(&wanted.content)?;
    let found = tx
        .prepare_cached(
            "SELECT id, evaluation, content, seq FROM status
             WHERE forge = ?1 AND repository = ?2 AND commit_id = ?3 AND context = ?4",
        )?
        .query_row(params![key.forge, key.repository, key.commit, key.context], |row| {
            let (id, evaluation, content): (i64, i64, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
            Ok((id, evaluation, content, row.get::<_, i64>(3)?))
        })
        .optional()?;
    let attr = wanted.attr.as_ref().map(json).transpose()?;
    let seq = match &found {
        None => 1,
        Some((_, evaluation, ..)) if *evaluation > wanted.evaluation.0 => return Ok(Want::Superseded),
        Some((id, evaluation, old, _)) if *old == content => {
            if *evaluation != wanted.evaluation.0 {
                tx.prepare_cached("UPDATE status SET evaluation = ?2 WHERE id = ?1")?
                    .execute(params![id, wanted.evaluation.0])?;
            }
            return Ok(Want::Same(StatusId(*id)));
        }
        Some((.., seq)) => seq + 1,
    };
    let values = named_params! {
        ":forge": key.forge,
        ":repository": key.repository,
        ":commit": key.commit,
        ":context": key.context,
        ":evaluation": wanted.evaluation.0,
        ":role": wanted.role.word(),
        ":attr": attr,
        ":seq": seq,
        ":state": wanted.content.state.word(),
        ":content": content,
        ":now": now,
    };
    let id = tx
        .prepare_cached(
            "INSERT INTO status (forge, repository, commit_id, context, evaluation, role, attr, seq, state, content, wanted)
             VALUES (:forge, :repository, :commit, :context, :evaluation, :role, :attr, :seq, :state, :content, :now)
             ON CONFLICT (forge, repository, commit_id, context) DO UPDATE SET
                evaluation = :evaluation, role = :role, attr = :attr, seq = :seq, state = :state, content = :content,
                wanted = :now, failures = 0, retry_at = NULL, refused = NULL
             RETURNING id",
        )?
        .query_row(values, |row| row.get(0))?;
    Ok(Want::Changed(StatusId(id)))
}

/// One status.
pub fn get(conn: &Connection, id: StatusId) -> Result<Option<StatusRow>> {
    Ok(many(conn, "WHERE id = ?1", [id.0])?.pop())
}

/// All of an evaluation, in the order in which they were first wanted.
pub fn of_evaluation(conn: &Connection, evaluation: EvaluationId) -> Result<Vec<StatusRow>> {
    many(conn, "WHERE evaluation = ?1 ORDER BY id", [evaluation.0])
}

/// All of a commit in one repository.
pub fn of_commit(conn: &Connection, forge: &str, repository: &str, commit: &str) -> Result<Vec<StatusRow>> {
    many(
        conn,
        "WHERE forge = ?1 AND repository = ?2 AND commit_id = ?3 ORDER BY id",
        [forge, repository, commit],
    )
}

/// The same without their words, which are most of what there is to read.
pub fn standing(conn: &Connection, forge: &str, repository: &str, commit: &str) -> Result<Vec<Stand>> {
    let mut find = conn.prepare_cached(STANDING)?;
    let mut rows = find.query([forge, repository, commit])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        let context: String = row.get(0)?;
        let broken = |what: &str| nonsense(format!("{what} of the status `{context}` of {commit} cannot be read"));
        let (role, attr, state): (String, Option<String>, String) = (row.get(2)?, row.get(3)?, row.get(4)?);
        found.push(Stand {
            evaluation: EvaluationId(row.get(1)?),
            role: StatusRole::from_word(&role).ok_or_else(|| broken("the role"))?,
            attr: attr
                .map(|attr| serde_json::from_str(&attr).map_err(|_| broken("the job")))
                .transpose()?,
            state: StatusState::from_word(&state).ok_or_else(|| broken("the state"))?,
            changed: row.get(5)?,
            was_red: row.get(6)?,
            context,
        });
    }
    Ok(found)
}

pub(super) const STANDING: &str = "SELECT context, evaluation, role, attr, state, wanted, was_red FROM status
     WHERE forge = ?1 AND repository = ?2 AND commit_id = ?3 ORDER BY id";

/// Evaluations whose summary is not final where it stands.
pub fn unfinished(conn: &Connection) -> Result<Vec<EvaluationId>> {
    ids(
        conn,
        "SELECT DISTINCT evaluation FROM status WHERE role = 'summary' AND state IN ('queued', 'running')",
        [],
    )
}

/// Evaluations that have ended since then, of which nothing was ever wanted.
pub fn untold(conn: &Connection, since: Millis) -> Result<Vec<EvaluationId>> {
    ids(
        conn,
        "SELECT id FROM evaluation WHERE ended >= ?1 AND id NOT IN (SELECT evaluation FROM status)",
        [since],
    )
}

fn ids(conn: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<Vec<EvaluationId>> {
    let mut find = conn.prepare_cached(sql)?;
    let rows = find.query_map(values, |row| Ok(EvaluationId(row.get(0)?)))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

fn many(conn: &Connection, which: &str, values: impl rusqlite::Params) -> Result<Vec<StatusRow>> {
    let mut find = conn.prepare_cached(&format!(
        "SELECT id, forge, repository, commit_id, context, evaluation, role, attr, seq, content, wanted, tried_seq,
                sent_seq, sent_state, sent, remote_id, was_red, writes, failures, retry_at, error, refused
         FROM status {which}"
    ))?;
    let mut rows = find.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn read(row: &Row<'_>) -> Result<StatusRow> {
    let id: i64 = row.get(0)?;
    let broken = |what: &str| nonsense(format!("{what} of status {id} cannot be read"));
    let (role, attr, content): (String, Option<String>, String) = (row.get(6)?, row.get(7)?, row.get(9)?);
    let sent_state: Option<String> = row.get(13)?;
    Ok(StatusRow {
        id: StatusId(id),
        wanted: Wanted {
            key: StatusKey {
                forge: row.get(1)?,
                repository: row.get(2)?,
                commit: row.get(3)?,
                context: row.get(4)?,
            },
            evaluation: EvaluationId(row.get(5)?),
            role: StatusRole::from_word(&role).ok_or_else(|| broken("the role"))?,
            attr: attr
                .map(|attr| serde_json::from_str(&attr).map_err(|_| broken("the job")))
                .transpose()?,
            content: serde_json::from_str(&content).map_err(|_| broken("the content"))?,
        },
        seq: row.get(8)?,
        changed: row.get(10)?,
        tried_seq: row.get(11)?,
        sent_seq: row.get(12)?,
        sent_state: sent_state
            .map(|state| StatusState::from_word(&state).ok_or_else(|| broken("the state")))
            .transpose()?,
        sent: row.get(14)?,
        remote_id: row.get(15)?,
        was_red: row.get(16)?,
        writes: from_column("the writes of a status", row.get(17)?)?,
        failures: from_column("the failures of a status", row.get(18)?)?,
        retry_at: row.get(19)?,
        error: row.get(20)?,
        refused: row.get(21)?,
    })
}
