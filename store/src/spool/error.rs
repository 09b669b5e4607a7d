//! What can go wrong in the spool.

use std::io;
use std::path::{Path, PathBuf};

use nixci_protocol::types::StorePath;

use super::verify::VerifyError;
use crate::index;

/// Why the spool did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Its database failed.
    #[error(transparent)]
    Database(#[from] index::Error),
    /// The disk is full. What was stored before is intact, and adding works again once there is room.
    #[error("no space left in {}: free some, or move the state directory to a larger disk; nothing stored was lost", dir.display())]
    Full {
        /// The directory that has no room.
        dir: PathBuf,
    },
    /// A file of the spool could not be written or read.
    #[error("failed to {doing} {}", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An object refers to one that is neither here nor in the same batch.
    #[error("{path} refers to {reference}, which is not here: send it first, or in the same batch")]
    MissingReference {
        /// The object.
        path: StorePath,
        /// What it refers to.
        reference: StorePath,
    },
    /// The content is not what was promised.
    #[error(transparent)]
    Verify(#[from] VerifyError),
    /// The sender stopped in the middle of a NAR.
    #[error("the content of {path} ended after {got} of {expected} bytes")]
    Short {
        /// The object.
        path: StorePath,
        /// Bytes that came.
        got: u64,
        /// Bytes that were promised.
        expected: u64,
    },
    /// The sender failed in the middle of a NAR.
    #[error("failed to receive {what}")]
    Receive {
        /// The object.
        what: String,
        /// What the sender's side said.
        #[source]
        source: io::Error,
    },
    /// The spool is damaged: what it says it has cannot be read.
    #[error("the spool is damaged at {path}: {what}")]
    Damaged {
        /// The object.
        path: StorePath,
        /// What is wrong with it.
        what: String,
    },
    /// A task of the spool panicked, or the runtime is going down.
    #[error("a task of the spool did not end")]
    Stopped,
}

/// What the functions of the spool return.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// A file operation that failed; a full disk is told as such.
    pub(super) fn file(doing: &'static str, path: &Path, source: io::Error) -> Self {
        if matches!(source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            let dir = path.parent().unwrap_or(path);
            return Self::Full { dir: dir.to_owned() };
        }
        Self::File {
            doing,
            path: path.to_owned(),
            source,
        }
    }
}
