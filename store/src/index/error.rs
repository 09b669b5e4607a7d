//! What can go wrong with a database of ours.

use std::path::PathBuf;
use std::sync::Arc;

use nixci_protocol::nixci::control::EvaluationId;
use rusqlite::ffi;

/// Why the index, or the database of the spool, did not do what was asked.
///
/// It is cheap to clone, because one failed commit is told to everybody whose change was in it.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file could not be opened as a database.
    #[error("failed to open the database {}", path.display())]
    Open {
        /// The database.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: Arc<rusqlite::Error>,
    },
    /// A newer nixci has written this database.
    #[error(
        "the database {} has schema {found}, and this version of nixci knows schemas up to {supported}: \
         run the newer version again, or restore the state directory of before the upgrade",
        path.display()
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// Its schema.
        found: i64,
        /// The newest schema this build knows.
        supported: i64,
    },
    /// The schema could not be brought up to date; the database is as it was.
    #[error("failed to bring the schema of {} up to date", path.display())]
    Migrate {
        /// The database.
        path: PathBuf,
        /// Which migration failed, and how.
        #[source]
        source: Arc<rusqlite_migration::Error>,
    },
    /// The disk is full. What was stored before is intact, and writing works again once there is room.
    #[error("no space left in {}: free some, or move the state directory to a larger disk; nothing stored was lost", dir.display())]
    Full {
        /// The directory that has no room.
        dir: PathBuf,
    },
    /// SQLite failed.
    #[error("the database failed")]
    Sqlite(#[source] Arc<rusqlite::Error>),
    /// The database holds something that no version of nixci writes.
    #[error("the database holds nonsense: {what}")]
    Nonsense {
        /// Which table and row, and what is wrong with it.
        what: String,
    },
    /// A row that was named by number is not there.
    #[error("there is no {what} {id}")]
    Missing {
        /// `derivation`, `evaluation`, `attempt`.
        what: &'static str,
        /// The number.
        id: i64,
    },
    /// A path has the digest of a known one and another name, which no honest client can produce.
    #[error("store path {given} has the digest of {known}, which has another name")]
    DigestInUse {
        /// What was given.
        given: String,
        /// What is known under that digest.
        known: String,
    },
    /// A submission key was used before for something else.
    #[error("submission key `{key}` belongs to evaluation {} of {project}: use a new random key", evaluation.0)]
    KeyInUse {
        /// The key.
        key: String,
        /// What it belongs to.
        evaluation: EvaluationId,
        /// The project of that evaluation.
        project: String,
    },
    /// A prefix that is too short, or is not hexadecimal.
    #[error("`{prefix}` is not a commit: give at least {minimum} hexadecimal digits of it")]
    NotACommit {
        /// What was given.
        prefix: String,
        /// How many digits are needed.
        minimum: usize,
    },
    /// A prefix that more than one commit has.
    #[error("`{prefix}` may be any of the commits {}: give more digits", candidates.join(", "))]
    AmbiguousCommit {
        /// What was given.
        prefix: String,
        /// Some of the commits that begin so, sorted.
        candidates: Vec<String>,
    },
    /// A value that a column cannot hold.
    #[error("{what} is too large to be recorded: {value}")]
    TooLarge {
        /// What it is.
        what: &'static str,
        /// Its value.
        value: u64,
    },
    /// A change or a question panicked. It was rolled back; the database goes on.
    #[error("a {what} panicked and was undone")]
    Panicked {
        /// `change` or `question`.
        what: &'static str,
    },
    /// The database was closed.
    #[error("the database is closed")]
    Closed,
}

/// What every function of the index returns.
pub type Result<T> = std::result::Result<T, Error>;

impl From<rusqlite::Error> for Error {
    fn from(error: rusqlite::Error) -> Self {
        Self::Sqlite(Arc::new(error))
    }
}

impl Error {
    /// Names the directory where SQLite says only that the disk is full.
    pub(crate) fn locate(self, dir: &std::path::Path) -> Self {
        match &self {
            Self::Sqlite(error) if is_full(error) => Self::Full { dir: dir.to_owned() },
            _ => self,
        }
    }
}

/// Whether SQLite ran out of room: for the database or its log, or for the shared memory file beside it.
fn is_full(error: &rusqlite::Error) -> bool {
    match error {
        rusqlite::Error::SqliteFailure(failure, _) => {
            failure.code == ffi::ErrorCode::DiskFull || failure.extended_code == ffi::SQLITE_IOERR_SHMSIZE
        }
        _ => false,
    }
}
