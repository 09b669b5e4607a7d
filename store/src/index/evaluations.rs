//! Evaluated commits: tables `evaluation` and `project`.

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState, Millis, Selector, Submission};
use rusqlite::{Connection, Row, Transaction, named_params, params};

use super::error::{Error, Result};
use super::names::{from_column, json, nonsense, state, state_name, to_column};

/// The fewest digits of a commit that may stand for all of it.
pub const COMMIT_PREFIX: usize = 7;
/// Candidates named when a prefix is ambiguous.
const CANDIDATES: usize = 5;

/// What is known of one evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluationRow {
    /// Its number.
    pub id: EvaluationId,
    /// What the submission said of itself.
    pub submission: Submission,
    /// Who submitted it: `uid:0`.
    pub principal: String,
    /// Where it stands.
    pub state: EvaluationState,
    /// Why the evaluation as a whole failed, if it did.
    pub error: Option<String>,
    /// When it was begun.
    pub created: Millis,
    /// When it became done, cancelled or abandoned.
    pub ended: Option<Millis>,
}

/// Begins an evaluation, or finds the one of the same key: then the second value is true and nothing changes.
///
/// Fails with [`Error::KeyInUse`] where the key was used for another project or commit.
pub fn begin(
    tx: &Transaction<'_>,
    submission: &Submission,
    principal: &str,
    now: Millis,
) -> Result<(EvaluationId, bool)> {
    if let Some(known) = by_key(tx, &submission.key)? {
        let same = known.submission.project == submission.project && known.submission.commit == submission.commit;
        return if same {
            Ok((known.id, true))
        } else {
            Err(Error::KeyInUse {
                key: submission.key.clone(),
                evaluation: known.id,
                project: known.submission.project,
            })
        };
    }
    tx.prepare_cached("INSERT INTO project (name) VALUES (?1) ON CONFLICT DO NOTHING")?
        .execute([&submission.project])?;
    let pull_request = submission
        .pull_request
        .map(|number| to_column("the number of a pull request", number))
        .transpose()?;
    let id = tx
        .prepare_cached(
            "INSERT INTO evaluation
                (key, project, commit_id, git_ref, base, pull_request, source, labels, principal, state, created)
             SELECT :key, id, :commit, :git_ref, :base, :pull_request, :source, :labels, :principal, :state, :now
             FROM project WHERE name = :project",
        )?
        .insert(named_params! {
            ":key": submission.key,
            ":project": submission.project,
            ":commit": submission.commit,
            ":git_ref": submission.git_ref,
            ":base": submission.base,
            ":pull_request": pull_request,
            ":source": submission.source,
            ":labels": json(&submission.labels)?,
            ":principal": principal,
            ":state": state_name(EvaluationState::Receiving),
            ":now": now,
        })?;
    Ok((EvaluationId(id), false))
}

/// Moves an evaluation to another state. The first move to done, cancelled or abandoned sets when it ended; a move
/// back, as a restart makes, clears that.
pub fn set_state(tx: &Transaction<'_>, id: EvaluationId, to: EvaluationState, now: Millis) -> Result<()> {
    let ended = match to {
        EvaluationState::Receiving | EvaluationState::Building => None,
        EvaluationState::Done | EvaluationState::Cancelled | EvaluationState::Abandoned => Some(now),
    };
    let changed = tx
        .prepare_cached(
            "UPDATE evaluation SET state = ?2, ended = CASE WHEN ?3 IS NULL THEN NULL ELSE coalesce(ended, ?3) END
             WHERE id = ?1",
        )?
        .execute(params![id.0, state_name(to), ended])?;
    expect_one(changed, id)
}

/// Records why an evaluation as a whole failed.
pub fn set_error(tx: &Transaction<'_>, id: EvaluationId, error: Option<&str>) -> Result<()> {
    let changed = tx
        .prepare_cached("UPDATE evaluation SET error = ?2 WHERE id = ?1")?
        .execute(params![id.0, error])?;
    expect_one(changed, id)
}

/// Gives an evaluation a label, in place of the one of this name; or takes that from it.
pub fn set_label(tx: &Transaction<'_>, id: EvaluationId, name: &str, value: Option<&str>) -> Result<()> {
    let Some(mut labels) = get(tx, id)?.map(|row| row.submission.labels) else {
        return expect_one(0, id);
    };
    match value {
        Some(value) => labels.insert(name.to_owned(), value.to_owned()),
        None => labels.remove(name),
    };
    let changed = tx
        .prepare_cached("UPDATE evaluation SET labels = ?2 WHERE id = ?1")?
        .execute(params![id.0, json(&labels)?])?;
    expect_one(changed, id)
}

/// One evaluation by its number.
pub fn get(conn: &Connection, id: EvaluationId) -> Result<Option<EvaluationRow>> {
    one(conn, &select("WHERE e.id = ?1"), [id.0])
}

/// The evaluation of a submission key.
pub fn by_key(conn: &Connection, key: &str) -> Result<Option<EvaluationRow>> {
    one(conn, &select("WHERE e.key = ?1"), [key])
}

/// The evaluation that a selector names: of a commit or a project the newest.
///
/// Fails with [`Error::AmbiguousCommit`] where a prefix fits several commits, and with [`Error::NotACommit`] where it
/// is shorter than [`COMMIT_PREFIX`] or not hexadecimal and no commit is exactly that.
pub fn find(conn: &Connection, which: &Selector) -> Result<Option<EvaluationRow>> {
    match which {
        Selector::Evaluation(id) => get(conn, *id),
        Selector::Latest { project } => Ok(list(conn, project.as_deref(), 1)?.pop()),
        Selector::Commit { project, commit } => {
            let exact = newest_of_commit(conn, project.as_deref(), commit)?;
            if exact.is_some() {
                return Ok(exact);
            }
            match expand(conn, project.as_deref(), commit)? {
                Some(commit) => newest_of_commit(conn, project.as_deref(), &commit),
                None => Ok(None),
            }
        }
    }
}

/// The newest evaluations, newest first, at most `limit`.
pub fn list(conn: &Connection, project: Option<&str>, limit: u32) -> Result<Vec<EvaluationRow>> {
    match project {
        Some(project) => many(conn, &select(OF_PROJECT), params![project, limit]),
        None => many(conn, &select("ORDER BY e.id DESC LIMIT ?1"), [limit]),
    }
}

/// The evaluations that still receive jobs or have some that are not final, oldest first.
pub fn open(conn: &Connection) -> Result<Vec<EvaluationRow>> {
    many(conn, &select(OPEN), [])
}

/// Those of [`open`] that are of a pull request with this number, in whichever project, oldest first.
pub fn open_of_pull_request(conn: &Connection, number: u64) -> Result<Vec<EvaluationRow>> {
    let number = to_column("the number of a pull request", number)?;
    many(conn, &select(OPEN_OF_PULL_REQUEST), [number])
}

/// The names of all projects, sorted.
pub fn projects(conn: &Connection) -> Result<Vec<String>> {
    let mut find = conn.prepare_cached("SELECT name FROM project ORDER BY name")?;
    let rows = find.query_map([], |row| row.get(0))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

pub(super) const OF_PROJECT: &str =
    "WHERE e.project = (SELECT id FROM project WHERE name = ?1) ORDER BY e.id DESC LIMIT ?2";
pub(super) const OPEN: &str = "WHERE e.state IN ('receiving', 'building') ORDER BY e.id";
pub(super) const OPEN_OF_PULL_REQUEST: &str =
    "WHERE e.state IN ('receiving', 'building') AND e.pull_request = ?1 ORDER BY e.id";
pub(super) const OF_COMMIT: &str = "WHERE e.commit_id = ?1 ORDER BY e.id DESC LIMIT 1";
pub(super) const OF_PROJECT_COMMIT: &str =
    "WHERE e.commit_id = ?1 AND e.project = (SELECT id FROM project WHERE name = ?2) ORDER BY e.id DESC LIMIT 1";
pub(super) const WITH_PREFIX: &str = "SELECT DISTINCT commit_id FROM evaluation
     WHERE commit_id >= ?1 AND commit_id < ?1 || 'g'
       AND (?2 IS NULL OR project = (SELECT id FROM project WHERE name = ?2))
     ORDER BY commit_id LIMIT ?3";

/// Every column of a row, in the order in which [`read`] takes them.
pub(super) fn select(rest: &str) -> String {
    format!(
        "SELECT e.id, e.key, p.name, e.commit_id, e.git_ref, e.base, e.pull_request, e.source, e.labels, e.principal,
                e.state, e.error, e.created, e.ended
         FROM evaluation e JOIN project p ON p.id = e.project {rest}"
    )
}

fn read(row: &Row<'_>) -> Result<EvaluationRow> {
    let id = row.get(0)?;
    let labels: String = row.get(8)?;
    Ok(EvaluationRow {
        id: EvaluationId(id),
        submission: Submission {
            key: row.get(1)?,
            project: row.get(2)?,
            commit: row.get(3)?,
            git_ref: row.get(4)?,
            base: row.get(5)?,
            pull_request: row
                .get::<_, Option<i64>>(6)?
                .map(|number| from_column("the number of a pull request", number))
                .transpose()?,
            source: row.get(7)?,
            labels: serde_json::from_str(&labels)
                .map_err(|error| nonsense(format!("the labels of evaluation {id}: {error}")))?,
        },
        principal: row.get(9)?,
        state: state(row.get_ref(10)?.as_str().map_err(rusqlite::Error::from)?)?,
        error: row.get(11)?,
        created: row.get(12)?,
        ended: row.get(13)?,
    })
}

fn many(conn: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<Vec<EvaluationRow>> {
    let mut find = conn.prepare_cached(sql)?;
    let mut rows = find.query(values)?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn one(conn: &Connection, sql: &str, values: impl rusqlite::Params) -> Result<Option<EvaluationRow>> {
    Ok(many(conn, sql, values)?.pop())
}

fn newest_of_commit(conn: &Connection, project: Option<&str>, commit: &str) -> Result<Option<EvaluationRow>> {
    match project {
        None => one(conn, &select(OF_COMMIT), [commit]),
        Some(project) => one(conn, &select(OF_PROJECT_COMMIT), [commit, project]),
    }
}

/// The only commit that begins so.
fn expand(conn: &Connection, project: Option<&str>, prefix: &str) -> Result<Option<String>> {
    if prefix.len() < COMMIT_PREFIX || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Error::NotACommit {
            prefix: prefix.to_owned(),
            minimum: COMMIT_PREFIX,
        });
    }
    let digits = prefix.to_ascii_lowercase();
    let mut find = conn.prepare_cached(WITH_PREFIX)?;
    let rows = find.query_map(params![digits, project, CANDIDATES as i64], |row| row.get(0))?;
    let mut candidates: Vec<String> = rows.collect::<rusqlite::Result<_>>()?;
    if candidates.len() > 1 {
        return Err(Error::AmbiguousCommit {
            prefix: prefix.to_owned(),
            candidates,
        });
    }
    Ok(candidates.pop())
}

fn expect_one(changed: usize, id: EvaluationId) -> Result<()> {
    if changed == 1 {
        return Ok(());
    }
    Err(Error::Missing {
        what: "evaluation",
        id: id.0,
    })
}
