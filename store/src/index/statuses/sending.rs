//! The sending half: what a forge has not confirmed yet, and what came of each request.
//!
//! A request is recorded before it goes out ([`begin`]) and when its end is known ([`confirm`], [`fail`],
//! [`refuse`](super::refuse)). Between the two, also after a killed process, `tried_seq` is newer than `sent_seq`: the
//! status is *in doubt*, and who sends looks at the forge before anything is sent again ([`found`]).

use nixci_protocol::nixci::control::{EvaluationId, Millis};
use nixci_protocol::nixci::report::{StatusRole, StatusState};
use rusqlite::{Connection, OptionalExtension, Row, Transaction, named_params, params};

use super::super::error::Result;
use super::super::evaluations::{self, EvaluationRow};
use super::super::names::{from_column, nonsense};
use super::{StatusId, StatusRow};

/// Jobs of an evaluation whose progress is shown. Of one with more, each job is shown when it is final: forges count
/// every write, and hundreds of jobs that wait tell nobody anything.
const FEW_JOBS: i64 = 32;

/// A status that is to be sent, without what it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsent {
    /// Its number.
    pub id: StatusId,
    /// The repository.
    pub repository: String,
    /// The evaluation that says it.
    pub evaluation: EvaluationId,
    /// Which of its statuses it is.
    pub role: StatusRole,
    /// What it comes to.
    pub state: StatusState,
    /// The number of its content.
    pub seq: i64,
    /// When that was written.
    pub changed: Millis,
    /// Whether the forge has ever confirmed anything of it.
    pub is_first: bool,
    /// Whether a request was begun whose end is not known.
    pub is_in_doubt: bool,
    /// When the last request was begun.
    pub tried: Option<Millis>,
    /// Requests so far.
    pub writes: u64,
    /// Failures since the last success.
    pub failures: u64,
    /// Not before this time.
    pub retry_at: Option<Millis>,
    /// What it had better come after.
    pub held: Held,
}

/// What a final summary had better come after.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Held {
    /// Nothing.
    Free,
    /// Jobs of the same evaluation that are final, and none of them red.
    Jobs,
    /// Jobs of the same evaluation that are red.
    RedJobs,
}

/// A request that is about to go out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Begun {
    /// The status as it is now.
    pub row: StatusRow,
    /// Its evaluation, where it is still known.
    pub evaluation: Option<EvaluationRow>,
}

/// Why a request came to nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// In one line.
    pub error: String,
    /// Failures since the last success, this one included.
    pub failures: u64,
    /// Not before this time.
    pub retry_at: Option<Millis>,
    /// Whether it may have happened.
    pub is_in_doubt: bool,
}

/// What one forge has not got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts {
    /// The forge, by its name in the configuration.
    pub forge: String,
    /// Statuses to be sent, without the progress of jobs.
    pub unsent: u64,
    /// When the oldest of them was written.
    pub oldest: Option<Millis>,
    /// Statuses of which nothing more is tried.
    pub refused: u64,
}

/// The repositories of a forge that something is to be sent to and that are not refused; of one owner where it is given.
pub fn unsent_repositories(conn: &Connection, forge: &str, owner: Option<&str>) -> Result<Vec<String>> {
    // Names of an owner's repositories are between `owner/` and `owner0`, the character after the slash.
    let mut last = owner.map(|owner| format!("{owner}/")).unwrap_or_default();
    let end = owner.map(|owner| format!("{owner}0"));
    let mut next = conn.prepare_cached(NEXT_REPOSITORY)?;
    let mut is_refused =
        conn.prepare_cached("SELECT 1 FROM refused_repository WHERE forge = ?1 AND repository = ?2")?;
    let mut found = Vec::new();
    loop {
        let repository: Option<String> = next.query_row([forge, &last], |row| row.get(0)).optional()?;
        match repository {
            Some(repository) if end.as_ref().is_none_or(|end| repository < *end) => {
                if !is_refused.exists([forge, &repository])? {
                    found.push(repository.clone());
                }
                last = repository;
            }
            Some(_) | None => return Ok(found),
        }
    }
}

/// Every repository that something is to be sent to, as (forge, repository), also the refused.
pub fn unsent_places(conn: &Connection) -> Result<Vec<(String, String)>> {
    let mut next = conn.prepare_cached(NEXT_PLACE)?;
    let mut found: Vec<(String, String)> = Vec::new();
    loop {
        let (forge, repository) = found.last().map(|(f, r)| (f.as_str(), r.as_str())).unwrap_or_default();
        let place = next.query_row([forge, repository], |row| Ok((row.get(0)?, row.get(1)?)));
        match place.optional()? {
            Some(place) => found.push(place),
            None => return Ok(found),
        }
    }
}

/// What is to be sent to a repository: of each rank at most so many, the oldest evaluations first. The second value is
/// whether that is all.
pub fn unsent(conn: &Connection, forge: &str, repository: &str, most: usize) -> Result<(Vec<Unsent>, bool)> {
    let mut found = Vec::new();
    let mut is_all = true;
    let limit = i64::try_from(most).unwrap_or(i64::MAX);
    let mut of_rank = conn.prepare_cached(OF_RANK)?;
    for rank in 0..=2 {
        let before = found.len();
        let mut rows = of_rank.query(params![forge, repository, rank, limit])?;
        while let Some(row) = rows.next()? {
            found.push(read(row, repository)?);
        }
        is_all &= found.len() - before < most;
    }
    let mut of_evaluation = conn.prepare_cached(OF_EVALUATION)?;
    for row in &mut found {
        if row.role == StatusRole::Summary && row.state.is_final() {
            row.held = Held::Free;
            for (rank, held) in [(1, Held::RedJobs), (2, Held::Jobs)] {
                if of_evaluation.exists(params![forge, repository, rank, row.evaluation.0, 1])? {
                    row.held = row.held.max(held);
                }
            }
        }
    }
    let mut next_evaluation = conn.prepare_cached(NEXT_EVALUATION)?;
    let mut jobs = conn.prepare_cached(JOBS)?;
    let (mut last, mut progress) = (i64::MIN, 0);
    while progress < most {
        let values = params![forge, repository, last];
        let evaluation: Option<i64> = next_evaluation.query_row(values, |row| row.get(0)).optional()?;
        let Some(evaluation) = evaluation else { break };
        let count: i64 = jobs.query_row(params![evaluation, FEW_JOBS + 1], |row| row.get(0))?;
        if count <= FEW_JOBS {
            let mut rows = of_evaluation.query(params![forge, repository, 3, evaluation, FEW_JOBS])?;
            while let Some(row) = rows.next()? {
                found.push(read(row, repository)?);
                progress += 1;
            }
        }
        last = evaluation;
    }
    Ok((found, is_all))
}

/// Begins a request: recorded before it goes out. None where there is nothing to send any more.
pub fn begin(tx: &Transaction<'_>, id: StatusId, now: Millis) -> Result<Option<Begun>> {
    let changed = tx
        .prepare_cached(
            "UPDATE status SET tried_seq = seq, tried = ?2, writes = writes + 1,
                was_red = max(was_red, state IN ('failure', 'error', 'cancelled', 'action-required'))
             WHERE id = ?1 AND sent_seq IS NOT seq AND refused IS NULL",
        )?
        .execute(params![id.0, now])?;
    if changed == 0 {
        return Ok(None);
    }
    let row = super::get(tx, id)?.ok_or_else(|| nonsense(format!("status {} was changed and is not there", id.0)))?;
    let evaluation = evaluations::get(tx, row.wanted.evaluation)?;
    Ok(Some(Begun { row, evaluation }))
}

/// Records that the forge has the content of this number. Says whether there is a newer one by now.
pub fn confirm(
    tx: &Transaction<'_>,
    id: StatusId,
    seq: i64,
    state: StatusState,
    remote_id: Option<&str>,
    now: Millis,
) -> Result<bool> {
    let is_newer: Option<bool> = tx
        .prepare_cached(
            "UPDATE status SET
                tried_seq = :seq, sent_seq = :seq, sent_state = :state, sent = :now,
                remote_id = coalesce(:remote_id, remote_id), failures = 0, retry_at = NULL, error = NULL
             WHERE id = :id AND coalesce(sent_seq, 0) <= :seq
             RETURNING seq <> :seq",
        )?
        .query_row(
            named_params! {
                ":id": id.0,
                ":seq": seq,
                ":state": state.word(),
                ":remote_id": remote_id,
                ":now": now,
            },
            |row| row.get(0),
        )
        .optional()?;
    Ok(is_newer.unwrap_or(false))
}

/// Records that a request for the content of this number came to nothing. Says whether there is a newer content by now:
/// that need not wait.
pub fn fail(tx: &Transaction<'_>, id: StatusId, seq: i64, failure: &Failure) -> Result<bool> {
    let failures = i64::try_from(failure.failures).unwrap_or(i64::MAX);
    let is_newer: Option<bool> = tx
        .prepare_cached(
            "UPDATE status SET
                tried_seq = CASE WHEN :in_doubt THEN tried_seq ELSE sent_seq END,
                error = :error,
                failures = CASE WHEN seq = :seq THEN :failures ELSE 0 END,
                retry_at = CASE WHEN seq = :seq THEN :retry_at END
             WHERE id = :id RETURNING seq <> :seq",
        )?
        .query_row(
            named_params! {
                ":id": id.0,
                ":seq": seq,
                ":in_doubt": failure.is_in_doubt,
                ":error": failure.error,
                ":failures": failures,
                ":retry_at": failure.retry_at,
            },
            |row| row.get(0),
        )
        .optional()?;
    Ok(is_newer.unwrap_or(false))
}

/// Records that the forge was looked at and has not what was tried, but perhaps an older content, under this number:
/// nothing is in doubt any more, and it is to be sent.
pub fn found(tx: &Transaction<'_>, id: StatusId, remote_id: Option<&str>, state: Option<StatusState>) -> Result<()> {
    tx.prepare_cached(
        "UPDATE status SET tried_seq = sent_seq, remote_id = coalesce(?2, remote_id), sent_state = coalesce(?3, sent_state)
         WHERE id = ?1",
    )?
    .execute(params![id.0, remote_id, state.map(StatusState::word)])?;
    Ok(())
}

/// Sends a status once more as a new one: a button to run again is only at a new check run. Not before `not_before`, unless
/// what it says changes: then at once.
pub fn renew(tx: &Transaction<'_>, id: StatusId, now: Millis, not_before: Option<Millis>) -> Result<()> {
    tx.prepare_cached(
        "UPDATE status SET seq = seq + 1, wanted = ?2, tried_seq = sent_seq, remote_id = NULL, sent_state = NULL,
            failures = 0, retry_at = ?3, refused = NULL
         WHERE id = ?1",
    )?
    .execute(params![id.0, now, not_before])?;
    Ok(())
}

/// Sends all of an evaluation once more, also what was refused, with its repositories. Returns those, as (forge,
/// repository).
pub fn send_again(tx: &Transaction<'_>, evaluation: EvaluationId, now: Millis) -> Result<Vec<(String, String)>> {
    let mut find = tx.prepare_cached("SELECT DISTINCT forge, repository FROM status WHERE evaluation = ?1")?;
    let rows = find.query_map([evaluation.0], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let places: Vec<(String, String)> = rows.collect::<rusqlite::Result<_>>()?;
    for (forge, repository) in &places {
        super::allow_repository(tx, forge, repository)?;
    }
    tx.prepare_cached(
        "UPDATE status SET seq = seq + 1, wanted = ?2, failures = 0, retry_at = NULL, refused = NULL
         WHERE evaluation = ?1",
    )?
    .execute(params![evaluation.0, now])?;
    Ok(places)
}

/// When statuses of a forge were last tried, since a time, oldest first: as near as is known to how much of its limits
/// was used before a restart. Of one owner where it is given.
pub fn tried_since(conn: &Connection, forge: &str, owner: Option<&str>, since: Millis) -> Result<Vec<Millis>> {
    let (from, to) = match owner {
        Some(owner) => (format!("{owner}/"), format!("{owner}0")),
        None => (String::new(), "\u{10ffff}".to_owned()),
    };
    let mut find = conn.prepare_cached(TRIED)?;
    let rows = find.query_map(params![forge, since, from, to], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// What forges have not got, by forge.
pub fn counts(conn: &Connection) -> Result<Vec<Counts>> {
    let mut find = conn.prepare_cached(COUNTS)?;
    let mut rows = find.query([])?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(Counts {
            forge: row.get(0)?,
            unsent: from_column("a count of statuses", row.get(1)?)?,
            oldest: row.get(2)?,
            refused: from_column("a count of statuses", row.get(3)?)?,
        });
    }
    Ok(found)
}

fn read(row: &Row<'_>, repository: &str) -> Result<Unsent> {
    let id: i64 = row.get(0)?;
    let (role, state): (String, String) = (row.get(2)?, row.get(3)?);
    let (tried_seq, sent_seq): (Option<i64>, Option<i64>) = (row.get(6)?, row.get(7)?);
    Ok(Unsent {
        id: StatusId(id),
        repository: repository.to_owned(),
        evaluation: EvaluationId(row.get(1)?),
        role: StatusRole::from_word(&role).ok_or_else(|| nonsense(format!("status {id} has role `{role}`")))?,
        state: StatusState::from_word(&state).ok_or_else(|| nonsense(format!("status {id} has state `{state}`")))?,
        seq: row.get(4)?,
        changed: row.get(5)?,
        is_first: sent_seq.is_none(),
        is_in_doubt: tried_seq > sent_seq,
        tried: row.get(8)?,
        writes: from_column("the writes of a status", row.get(9)?)?,
        failures: from_column("the failures of a status", row.get(10)?)?,
        retry_at: row.get(11)?,
        held: Held::Free,
    })
}

const OF_RANK: &str = "
    SELECT id, evaluation, role, state, seq, wanted, tried_seq, sent_seq, tried, writes, failures, retry_at FROM status
    WHERE forge = ?1 AND repository = ?2 AND rank = ?3 AND sent_seq IS NOT seq AND refused IS NULL
    ORDER BY evaluation, id LIMIT ?4";
const OF_EVALUATION: &str = "
    SELECT id, evaluation, role, state, seq, wanted, tried_seq, sent_seq, tried, writes, failures, retry_at FROM status
    WHERE forge = ?1 AND repository = ?2 AND rank = ?3 AND evaluation = ?4 AND sent_seq IS NOT seq AND refused IS NULL
    ORDER BY id LIMIT ?5";
const NEXT_REPOSITORY: &str = "
    SELECT repository FROM status WHERE forge = ?1 AND repository > ?2 AND sent_seq IS NOT seq AND refused IS NULL
    ORDER BY repository LIMIT 1";
const NEXT_PLACE: &str = "
    SELECT forge, repository FROM status
    WHERE (forge, repository) > (?1, ?2) AND sent_seq IS NOT seq AND refused IS NULL
    ORDER BY forge, repository LIMIT 1";
const NEXT_EVALUATION: &str = "
    SELECT evaluation FROM status
    WHERE forge = ?1 AND repository = ?2 AND rank = 3 AND evaluation > ?3 AND sent_seq IS NOT seq AND refused IS NULL
    ORDER BY evaluation LIMIT 1";
const JOBS: &str = "SELECT count(*) FROM (SELECT 1 FROM status WHERE evaluation = ?1 AND role = 'job' LIMIT ?2)";
const TRIED: &str =
    "SELECT tried FROM status WHERE forge = ?1 AND tried > ?2 AND repository > ?3 AND repository < ?4 ORDER BY tried";
const COUNTS: &str = "
    SELECT forge, sum(unsent), min(oldest), sum(refused) FROM (
        SELECT forge, count(*) AS unsent, min(wanted) AS oldest, 0 AS refused FROM status
        WHERE sent_seq IS NOT seq AND refused IS NULL AND rank < 3 GROUP BY forge
        UNION ALL
        SELECT forge, 0, NULL, count(*) FROM status WHERE refused IS NOT NULL GROUP BY forge
    ) GROUP BY forge";

/// The queries whose plans are asserted.
#[cfg(test)]
pub(in super::super) const HOT: [&str; 8] = [
    OF_RANK,
    OF_EVALUATION,
    NEXT_REPOSITORY,
    NEXT_PLACE,
    NEXT_EVALUATION,
    JOBS,
    TRIED,
    COUNTS,
];
