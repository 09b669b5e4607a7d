//! What can go wrong at the edges of the daemon: starting, and answering a control request.

use std::io;
use std::path::PathBuf;

use nixci_store::{index, spool};

use crate::config::ConfigError;
use crate::forge::OpenError;
use crate::http::TlsError;
use crate::listen::InheritError;
use crate::principal::TokenError;
use crate::read::ReadError;

/// Why the daemon did not start. Nothing is left bound or locked.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The state folder cannot be made or opened.
    #[error("failed to use the state folder {path}: {source}; make it writable for the daemon's user or name another with `state_dir`", path = .path.display())]
    StateDir {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another daemon uses the state folder.
    #[error("the state folder {path} is in use by another nixci-daemon; stop that one, or give this one its own `state_dir`", path = .path.display())]
    StateInUse {
        /// The folder.
        path: PathBuf,
    },
    /// A restore was cut off.
    #[error("a restore into the state folder {path} was cut off; run `nixci-daemon restore` again first", path = .path.display())]
    HalfRestored {
        /// The folder.
        path: PathBuf,
    },
    /// Another daemon answers on the socket.
    #[error("a daemon already listens on {path}; stop it, or name another `socket` in [listen]", path = .path.display())]
    SocketInUse {
        /// The socket.
        path: PathBuf,
    },
    /// Something that is not a socket is in its place.
    #[error("{path} exists and is not a socket; remove it, or name another `socket` in [listen]", path = .path.display())]
    NotASocket {
        /// What is there.
        path: PathBuf,
    },
    /// The hash of a token cannot be used.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The certificate of the HTTP door cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Forges cannot be used as they are configured.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Forges(Vec<OpenError>),
    /// A socket that the service manager passes cannot be used.
    #[error(transparent)]
    Inherit(#[from] InheritError),
    /// Several things at once.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Several(Vec<StartError>),
    /// An address cannot be listened on.
    #[error("failed to listen on {address}: {source}")]
    Bind {
        /// The address.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The index, spool or logs cannot be opened.
    #[error("failed to open {what} in the state folder: {source}")]
    Open {
        /// Which of them.
        what: &'static str,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A store's settings make no sense.
    #[error("store `{name}` cannot be used: {source}")]
    Store {
        /// The store.
        name: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Why a control request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum CiError {
    /// What was named does not exist.
    #[error("{0}")]
    NotFound(String),
    /// The request makes no sense, or names something that cannot be used as it is.
    #[error("{0}")]
    Invalid(String),
    /// It does not fit the state of things: jobs for an evaluation that is closed.
    #[error("{0}")]
    Conflict(String),
    /// Above a limit; the text names it.
    #[error("{0}")]
    TooMuch(String),
    /// The daemon is stopping.
    #[error("the daemon is stopping; ask again when it is back")]
    Stopping,
    /// The caller may not do that; the text says who may.
    #[error("{0}")]
    NotAllowed(String),
    /// The index failed.
    #[error("failed to use the index")]
    Index(#[source] index::Error),
    /// The spool failed.
    #[error("failed to use the spool")]
    Spool(#[from] spool::Error),
}

impl From<ReadError> for CiError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::NotFound(_) => Self::NotFound(error.to_string()),
            ReadError::Unclear(text) => Self::Invalid(text),
            ReadError::Index(error) => Self::Index(error),
            ReadError::Stopping(_) => Self::Stopping,
        }
    }
}

impl From<index::Error> for CiError {
    fn from(error: index::Error) -> Self {
        match error {
            index::Error::KeyInUse { .. } | index::Error::NotACommit { .. } | index::Error::AmbiguousCommit { .. } => {
                Self::Invalid(error.to_string())
            }
            other => Self::Index(other),
        }
    }
}

/// An error with its causes, for a log line or a reply.
pub(crate) fn told(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        // Some wrappers repeat their cause.
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = error.source();
    }
    text
}
