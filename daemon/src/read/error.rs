//! Why a question has no answer.

use nixci_store::index;

use crate::scheduler::SchedulerGone;

/// Why a question about what the daemon knows has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// What was asked for is not known here.
    #[error("there is no {0} here")]
    NotFound(String),
    /// The question does not name one thing.
    #[error("{0}")]
    Unclear(String),
    /// The index failed; an operator has to look.
    #[error("failed to read the index")]
    Index(#[source] index::Error),
    /// The daemon is shutting down.
    #[error(transparent)]
    Stopping(#[from] SchedulerGone),
}

impl From<index::Error> for ReadError {
    fn from(error: index::Error) -> Self {
        match error {
            index::Error::AmbiguousCommit { .. } | index::Error::NotACommit { .. } => Self::Unclear(error.to_string()),
            index::Error::Missing { what, id } => Self::NotFound(format!("{what} {id}")),
            other => Self::Index(other),
        }
    }
}
