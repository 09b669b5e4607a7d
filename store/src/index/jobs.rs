//! What evaluations found: table `job`.

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::EvaluationId;
use nixci_protocol::types::StorePath;
use rusqlite::{Connection, Transaction, params};

use super::DrvId;
use super::error::Result;
use super::names::{from_column, json, nonsense, store_path};

/// One job of an evaluation: a derivation or an error, never both.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRow {
    /// Its identity within the evaluation.
    pub attr: AttrPath,
    /// The derivation it evaluated to.
    pub drv: Option<(DrvId, StorePath)>,
    /// The evaluation error, where there is no derivation.
    pub error: Option<String>,
}

/// A job that a derivation is, in one evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Use {
    /// The evaluation.
    pub evaluation: EvaluationId,
    /// Its project.
    pub project: String,
    /// Its commit.
    pub commit: Option<String>,
    /// The job.
    pub attr: AttrPath,
}

/// Adds jobs to an evaluation and returns how many it has now. One that is there already stays as it is.
pub fn add(tx: &Transaction<'_>, evaluation: EvaluationId, jobs: &[JobRow]) -> Result<u64> {
    let mut insert = tx.prepare_cached(
        "INSERT INTO job (evaluation, attr, drv, error) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (evaluation, attr) DO NOTHING",
    )?;
    for job in jobs {
        let drv = job.drv.as_ref().map(|(id, _)| id.0);
        insert.execute(params![evaluation.0, json(&job.attr)?, drv, job.error])?;
    }
    count(tx, evaluation)
}

/// How many jobs an evaluation has.
pub fn count(conn: &Connection, evaluation: EvaluationId) -> Result<u64> {
    let mut count = conn.prepare_cached("SELECT count(*) FROM job WHERE evaluation = ?1")?;
    from_column("a count", count.query_row([evaluation.0], |row| row.get(0))?)
}

/// The jobs of an evaluation, by attribute path.
pub fn of(conn: &Connection, evaluation: EvaluationId) -> Result<Vec<JobRow>> {
    let mut find = conn.prepare_cached(OF)?;
    let mut rows = find.query([evaluation.0])?;
    let mut jobs = Vec::new();
    while let Some(row) = rows.next()? {
        let drv = match row.get::<_, Option<i64>>(1)? {
            Some(id) => {
                let name = row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?;
                Some((DrvId(id), store_path("derivation", row.get(2)?, name)?))
            }
            None => None,
        };
        jobs.push(JobRow {
            attr: attr(row.get_ref(0)?.as_str().map_err(rusqlite::Error::from)?)?,
            drv,
            error: row.get(4)?,
        });
    }
    jobs.sort_unstable_by(|left, right| left.attr.cmp(&right.attr));
    Ok(jobs)
}

/// One job of an evaluation.
pub fn one(conn: &Connection, evaluation: EvaluationId, attr_path: &AttrPath) -> Result<Option<JobRow>> {
    let mut find = conn.prepare_cached(
        "SELECT j.drv, d.digest, d.name, j.error FROM job j LEFT JOIN derivation d ON d.id = j.drv
         WHERE j.evaluation = ?1 AND j.attr = ?2",
    )?;
    let mut rows = find.query(params![evaluation.0, json(attr_path)?])?;
    let Some(row) = rows.next()? else {
        return Ok(None);
    };
    let drv = match row.get::<_, Option<i64>>(0)? {
        Some(id) => Some((
            DrvId(id),
            store_path("derivation", row.get(1)?, &row.get::<_, String>(2)?)?,
        )),
        None => None,
    };
    Ok(Some(JobRow {
        attr: attr_path.clone(),
        drv,
        error: row.get(3)?,
    }))
}

/// The jobs that are this derivation, those of the newest evaluations first, at most `limit`.
pub fn where_used(conn: &Connection, drv: DrvId, limit: u32) -> Result<Vec<Use>> {
    let mut find = conn.prepare_cached(WHERE_USED)?;
    let mut rows = find.query(params![drv.0, limit])?;
    let mut uses = Vec::new();
    while let Some(row) = rows.next()? {
        uses.push(Use {
            evaluation: EvaluationId(row.get(0)?),
            project: row.get(1)?,
            commit: row.get(2)?,
            attr: attr(row.get_ref(3)?.as_str().map_err(rusqlite::Error::from)?)?,
        });
    }
    Ok(uses)
}

pub(super) const OF: &str = "SELECT j.attr, j.drv, d.digest, d.name, j.error
     FROM job j LEFT JOIN derivation d ON d.id = j.drv WHERE j.evaluation = ?1";
pub(super) const WHERE_USED: &str = "SELECT e.id, p.name, e.commit_id, j.attr
     FROM job j JOIN evaluation e ON e.id = j.evaluation JOIN project p ON p.id = e.project
     WHERE j.drv = ?1 ORDER BY j.evaluation DESC, j.attr LIMIT ?2";

fn attr(text: &str) -> Result<AttrPath> {
    serde_json::from_str(text).map_err(|error| nonsense(format!("the attribute path `{text}` of a job: {error}")))
}
