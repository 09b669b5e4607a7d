//! What the daemon knows: evaluations, jobs, derivations and their graph, attempts, and infos of outputs.
//!
//! One SQLite file (WAL, STRICT tables). One thread writes, and makes all changes that wait in one
//! transaction; read-only connections answer questions from snapshots. Each table has a file of plain
//! functions on a connection or a transaction; a caller puts several into one closure:
//!
//! ```
//! # use nixci_store::index::{self, Index};
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> index::Result<()> {
//! # let dir = tempfile::tempdir().unwrap();
//! let index = Index::open(&dir.path().join("index.db"))?;
//! let requeued = index.write(|tx| index::attempts::requeue_running(tx, 1_700_000_000_000)).await?;
//! let open = index.read(|conn| index::evaluations::open(conn)).await?;
//! assert_eq!((requeued, open.len()), (0, 0));
//! # Ok(())
//! # }
//! ```
//!
//! **Invariants.** Outcomes and "blocked by" are derived from attempts ([`outcomes`]), never stored.
//! Derivations and edges are immutable once added. Evaluation and attempt numbers are never given twice.
//! Only [`derivations::add`] writes derivations, outputs and edges.

use std::path::Path;

use rusqlite::{Connection, Transaction};

pub mod attempts;
pub mod contents;
mod database;
pub mod deliveries;
pub mod derivations;
mod error;
pub mod evaluations;
pub mod identities;
pub mod jobs;
mod names;
pub mod outcomes;
pub mod paths;
pub mod prune;
pub mod pull_requests;
pub mod pushes;
mod readers;
mod schema;
pub mod snapshot;
pub mod statuses;
pub mod tokens;
mod writer;

#[cfg(test)]
mod tests;

pub(crate) use database::{Database, open_reader};
pub use error::{Error, Result};
pub(crate) use writer::Durability;

/// The number of a derivation in this index; it means nothing elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrvId(pub i64);

/// A handle on the index; clones share it.
#[derive(Debug, Clone)]
pub struct Index {
    database: Database,
}

impl Index {
    /// Opens the index, or makes an empty one, and brings its schema up to date. Blocks.
    ///
    /// Fails where the file is no database, where a newer nixci has written it, and where the disk is full.
    pub fn open(path: &Path) -> Result<Self> {
        let database = Database::open(path, "index", &schema::MIGRATIONS, schema::KNOWN)?;
        Ok(Self { database })
    }

    /// Makes one change, all or nothing, and returns what `change` returns once it is committed.
    ///
    /// It survives a killed process. A power cut may lose the last changes, in order and whole; where that
    /// will not do there is [`write_durable`](Self::write_durable). Changes are made in the order in which
    /// they were asked for. A caller that goes away while it waits does not undo its change.
    pub async fn write<T, F>(&self, change: F) -> Result<T>
    where
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.database.write(Durability::Process, change).await
    }

    /// As [`write`](Self::write), and on disk before it returns, together with every change before it.
    pub async fn write_durable<T, F>(&self, change: F) -> Result<T>
    where
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.database.write(Durability::Power, change).await
    }

    /// Asks one question, answered from one snapshot on a thread that may block.
    pub async fn read<T, F>(&self, question: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        self.database.read(question).await
    }

    /// Makes the changes that wait and closes the file; afterwards everything is refused as [`Error::Closed`].
    pub async fn close(&self) {
        self.database.close().await;
    }
}
