//! One SQLite file with one writer and many readers; the index and the spool each have one.
//!
//! Every pragma is set here and nowhere else. Migrations are an append-only list counted by
//! `user_version`, and run before anything else touches the file; a file with a higher count is refused.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction};
use rusqlite_migration::Migrations;

use super::error::{Error, Result};
use super::readers::Readers;
use super::writer::{Durability, Writer};

/// How long a connection waits for another process that holds the file, such as a backup.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// Page cache of the writer, in KiB: enough for the index pages that a large submission touches at random.
const WRITER_CACHE_KIB: i64 = 32 * 1024;
/// Page cache of each reader, in KiB.
const READER_CACHE_KIB: i64 = 8 * 1024;
/// Prepared statements kept per connection: more than there are in the crate.
const STATEMENTS: usize = 128;
/// The log beside the database is cut back to this many bytes once its content has been taken over.
const LOG_BYTES_KEPT: i64 = 64 * 1024 * 1024;

/// A handle on one database; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Database {
    writer: Writer,
    readers: Arc<Readers>,
}

impl Database {
    /// Opens or creates the file, brings its schema up to date and starts its writer. Blocks.
    pub(crate) fn open(path: &Path, name: &str, migrations: &Migrations<'static>, known: i64) -> Result<Self> {
        let dir = path.parent().map_or_else(|| PathBuf::from("."), Path::to_owned);
        let mut conn = open_writer(path).map_err(|error| opening(path, &dir, error))?;
        migrate(&mut conn, path, &dir, migrations, known)?;
        let readers = Arc::new(Readers::new(path.to_owned()));
        let writer = Writer::start(conn, dir, name)?;
        Ok(Self { writer, readers })
    }

    /// Makes one change; see [`super::Index::write`].
    pub(crate) async fn write<T, F>(&self, durability: Durability, change: F) -> Result<T>
    where
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.writer.write(durability, change).await
    }

    /// Asks one question; see [`super::Index::read`].
    pub(crate) async fn read<T, F>(&self, question: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        Arc::clone(&self.readers).read(question).await
    }

    /// Finishes what is queued and closes the file; later changes are refused.
    pub(crate) async fn close(&self) {
        self.readers.close();
        self.writer.close().await;
    }
}

fn opening(path: &Path, dir: &Path, error: rusqlite::Error) -> Error {
    match Error::from(error).locate(dir) {
        Error::Sqlite(source) => Error::Open {
            path: path.to_owned(),
            source,
        },
        other => other,
    }
}

fn open_writer(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.pragma_update(None, "journal_mode", "WAL")?;
    conn.pragma_update(None, "synchronous", "NORMAL")?;
    conn.pragma_update(None, "foreign_keys", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    conn.pragma_update(None, "journal_size_limit", LOG_BYTES_KEPT)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

/// A connection that cannot change anything.
pub(crate) fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let conn = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.pragma_update(None, "query_only", true)?;
    conn.pragma_update(None, "trusted_schema", false)?;
    conn.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    conn.set_prepared_statement_cache_capacity(STATEMENTS);
    Ok(conn)
}

fn migrate(conn: &mut Connection, path: &Path, dir: &Path, migrations: &Migrations<'static>, known: i64) -> Result<()> {
    let found: i64 = conn
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| opening(path, dir, error))?;
    if found > known {
        return Err(Error::NewerSchema {
            path: path.to_owned(),
            found,
            supported: known,
        });
    }
    migrations.to_latest(conn).map_err(|error| match error {
        rusqlite_migration::Error::RusqliteError { err, .. } => match Error::from(err).locate(dir) {
            Error::Sqlite(source) => Error::Open {
                path: path.to_owned(),
                source,
            },
            other => other,
        },
        other => Error::Migrate {
            path: path.to_owned(),
            source: Arc::new(other),
        },
    })
}
