//! Copies of a database that other processes write meanwhile, for backups, and what is done to a copy that is restored.
//!
//! A [`Snapshot`] is one read transaction: what it shows and copies is the database of one moment, however long that
//! takes and whatever is written. Writers do not wait for it, as the log beside the database (WAL) takes what is new;
//! that log cannot be cut back for so long, so a snapshot is to be dropped once it is copied.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nixci_protocol::nixci::control::{AttemptId, Millis};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags, OptionalExtension as _, TransactionBehavior, named_params};

use super::database::open_reader;
use super::error::{Error, Result};
use super::schema;

/// Pages that are copied before they are written to disk: some megabytes, so that what others write to the same disk
/// and wait for never waits for all of a copy.
const PAGES_AT_ONCE: i32 = 1_024;
/// Numbers that are left out at least after a restore.
const LEAST_GAP: i64 = 1_000;
/// How many times as many numbers are left out as were given in as long a time before the backup.
const GAP_FACTOR: i64 = 10;

/// The database of one moment.
#[derive(Debug)]
pub struct Snapshot {
    conn: Connection,
    path: PathBuf,
    schema: i64,
}

/// What a copy of an index holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Contents {
    /// Evaluations.
    pub evaluations: u64,
    /// Those that have not ended.
    pub open: u64,
    /// Attempts.
    pub attempts: u64,
    /// Those that have not ended.
    pub running: u64,
}

impl Snapshot {
    /// Takes a snapshot of an index. Blocks. Fails where the file is not there, and where a newer nixci has written it.
    pub fn of_index(path: &Path) -> Result<Self> {
        Self::open(path, schema::KNOWN)
    }

    pub(crate) fn open(path: &Path, known: i64) -> Result<Self> {
        let opening = |error| match Error::from(error) {
            Error::Sqlite(source) => Error::Open {
                path: path.to_owned(),
                source,
            },
            other => other,
        };
        let conn = open_reader(path).map_err(opening)?;
        conn.execute_batch("BEGIN").map_err(opening)?;
        // The first question begins the snapshot.
        let schema = user_version(&conn).map_err(opening)?;
        if schema > known {
            return Err(Error::NewerSchema {
                path: path.to_owned(),
                found: schema,
                supported: known,
            });
        }
        Ok(Self {
            conn,
            path: path.to_owned(),
            schema,
        })
    }

    /// The number of its schema.
    #[must_use]
    pub fn schema(&self) -> i64 {
        self.schema
    }

    /// To ask it something.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.conn
    }

    /// How many bytes a copy takes.
    pub fn bytes(&self) -> Result<u64> {
        let number = |what| self.conn.pragma_query_value(None, what, |row| row.get::<_, i64>(0));
        Ok((number("page_count")? * number("page_size")?) as u64)
    }

    /// Copies it into an empty file, durably but for the file's name, a part at a time. Blocks.
    ///
    /// The copy is one file, without a log beside it, and can be read where nothing can be written.
    pub fn copy(&self, to: &Path, file: &File) -> Result<()> {
        let dir = to.parent().unwrap_or(to);
        let failed = |error: rusqlite::Error| Error::from(error).locate(dir);
        let mut conn = open_plain(to, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        // Nobody needs half a copy.
        conn.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF;")
            .map_err(failed)?;
        {
            let copying = Backup::new(&self.conn, &mut conn).map_err(failed)?;
            loop {
                let step = copying.step(PAGES_AT_ONCE).map_err(failed)?;
                file.sync_data().map_err(|error| Error::file(to, error))?;
                match step {
                    StepResult::Done => break,
                    StepResult::More => {}
                    // Nobody else has the copy, and to read a snapshot needs no lock.
                    _ => {
                        return Err(Error::Nonsense {
                            what: format!("{} cannot be copied: it is locked", self.path.display()),
                        });
                    }
                }
            }
        }
        conn.close().map_err(|(_, error)| failed(error))?;
        let conn = open_plain(to, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(failed)?;
        conn.pragma_update(None, "journal_mode", "DELETE").map_err(failed)?;
        conn.close().map_err(|(_, error)| failed(error))?;
        file.sync_all().map_err(|error| Error::file(to, error))
    }
}

/// Opens a copy that nobody writes, checks it as far as that is possible without its content being read twice, and
/// that its schema has this number. Blocks.
pub fn check(path: &Path, schema: i64) -> Result<Connection> {
    let opening = |error| match Error::from(error) {
        Error::Sqlite(source) => Error::Open {
            path: path.to_owned(),
            source,
        },
        other => other,
    };
    let nonsense = |what: String| Error::Nonsense {
        what: format!("{}: {what}", path.display()),
    };
    let conn = open_plain(path, OpenFlags::SQLITE_OPEN_READ_ONLY).map_err(opening)?;
    let found = user_version(&conn).map_err(opening)?;
    if found != schema {
        return Err(nonsense(format!(
            "it has schema {found}, and not {schema} as was said of it"
        )));
    }
    let said: String = conn
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(opening)?;
    if said != "ok" {
        return Err(nonsense(said));
    }
    let dangling: Option<String> = conn
        .query_row("PRAGMA foreign_key_check", [], |row| row.get(0))
        .optional()
        .map_err(opening)?;
    match dangling {
        Some(table) => Err(nonsense(format!("a row of {table} refers to one that is not there"))),
        None => Ok(conn),
    }
}

/// What an index holds.
pub fn contents(index: &Connection) -> Result<Contents> {
    let count = |sql: &str| {
        index
            .query_row(sql, [], |row| row.get::<_, i64>(0))
            .map(|count| count as u64)
    };
    Ok(Contents {
        evaluations: count("SELECT count(*) FROM evaluation")?,
        open: count("SELECT count(*) FROM evaluation WHERE state IN ('receiving', 'building')")?,
        attempts: count("SELECT count(*) FROM attempt")?,
        running: count("SELECT count(*) FROM attempt WHERE result IS NULL")?,
    })
}

/// The attempts that may have a log, by number: those that printed something, and those that have not ended or were cut
/// off.
pub fn logged(index: &Connection) -> Result<Vec<AttemptId>> {
    let mut find = index.prepare("SELECT id FROM attempt WHERE log_lines IS NULL OR log_lines > 0 ORDER BY id")?;
    let rows = find.query_map([], |row| row.get(0).map(AttemptId))?;
    Ok(rows.collect::<rusqlite::Result<_>>()?)
}

/// How many derivations that jobs are of have no object in a spool, which is given by its database. Blocks.
pub fn jobs_without_object(index: &Path, spool: &Path) -> Result<u64> {
    let conn = open_plain(index, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    conn.execute("ATTACH ?1 AS spool", [spool.to_string_lossy()])?;
    let missing: i64 = conn.query_row(
        "SELECT count(*) FROM derivation d WHERE EXISTS (SELECT 1 FROM job WHERE drv = d.id)
             AND NOT EXISTS (SELECT 1 FROM spool.object WHERE digest = d.digest)",
        [],
        |row| row.get(0),
    )?;
    Ok(missing as u64)
}

/// Makes a copy of an index that was taken at `taken` one to go on with at `now`. Blocks.
///
/// Numbers that were given between the two are not known any more, but stand in addresses, at forges and in names of
/// logs. So some are left out before the next is given: ten times as many as in as long a time before `taken`, and a
/// thousand at least. What was not sent to forges may have been sent since: it is in doubt, so that they are asked
/// first.
pub fn take_up(index: &Path, taken: Millis, now: Millis) -> Result<()> {
    let mut conn = open_plain(index, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let since = taken.saturating_sub(now.saturating_sub(taken).max(0));
    for (table, time) in [
        ("evaluation", "created"),
        ("attempt", "started"),
        ("status", "wanted"),
        ("delivery", "received"),
    ] {
        // Older schemas lack some.
        if !exists(&tx, table)? {
            continue;
        }
        let given: i64 = tx.query_row(
            &format!("SELECT count(*) FROM {table} WHERE {time} > ?1"),
            [since],
            |row| row.get(0),
        )?;
        let gap = given.saturating_mul(GAP_FACTOR).max(LEAST_GAP);
        let last: Option<i64> = tx
            .query_row("SELECT seq FROM sqlite_sequence WHERE name = ?1", [table], |row| {
                row.get(0)
            })
            .optional()?;
        let next = last.unwrap_or(0).saturating_add(gap);
        let values = named_params! {":name": table, ":next": next};
        if last.is_some() {
            tx.execute("UPDATE sqlite_sequence SET seq = :next WHERE name = :name", values)?;
        } else {
            tx.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :next)", values)?;
        }
    }
    if exists(&tx, "status")? {
        tx.execute(
            "UPDATE status SET tried_seq = seq, tried = coalesce(tried, wanted)
             WHERE sent_seq IS NOT seq AND refused IS NULL",
            [],
        )?;
    }
    tx.commit()?;
    conn.close().map_err(|(_, error)| error)?;
    Ok(())
}

/// The newest schema of an index that this build knows.
pub const KNOWN: i64 = schema::KNOWN;

fn exists(conn: &Connection, table: &str) -> Result<bool> {
    let mut find = conn.prepare_cached("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1")?;
    Ok(find.exists([table])?)
}

fn user_version(conn: &Connection) -> rusqlite::Result<i64> {
    conn.pragma_query_value(None, "user_version", |row| row.get(0))
}

fn open_plain(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(conn)
}

impl Error {
    fn file(path: &Path, error: std::io::Error) -> Self {
        let dir = path.parent().unwrap_or(path).to_owned();
        match error.kind() {
            std::io::ErrorKind::StorageFull => Self::Full { dir },
            _ => Self::Open {
                path: path.to_owned(),
                source: Arc::new(rusqlite::Error::ToSqlConversionFailure(Box::new(error))),
            },
        }
    }
}
