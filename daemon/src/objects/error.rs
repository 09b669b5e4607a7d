//! Why store objects could not be read.

use nixci_protocol::client;
use nixci_protocol::types::StorePath;
use nixci_store::remote::Unreachable;
use nixci_store::{index, logs, spool};

/// A question about store objects that was not answered. That something is not there is an answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ObjectError {
    /// A store cannot be asked.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// A store did not answer.
    #[error("store `{store}` failed to answer")]
    Store {
        /// Its name in the configuration.
        store: String,
        /// Why.
        #[source]
        source: client::Error,
    },
    /// The spool failed.
    #[error("failed to read the spool")]
    Spool(#[from] spool::Error),
    /// The index failed.
    #[error("failed to use the index")]
    Index(#[from] index::Error),
    /// A log failed.
    #[error("failed to read a log")]
    Log(#[from] logs::Error),
    /// It was there a moment ago.
    #[error("{path} is gone from the spool")]
    Gone {
        /// The path, without its store directory.
        path: StorePath,
    },
}
