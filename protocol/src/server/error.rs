use std::io;

use crate::handshake::HandshakeError;
use crate::io::{PathStreamError, ReadError};
use crate::log::RemoteError;
use crate::wire::WireError;

/// Why a handler did not do what it was asked. The client is told, and the connection stays usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct HandlerError(#[from] pub RemoteError);

impl HandlerError {
    /// An error in one line: what was wrong, and with what.
    #[must_use]
    pub fn new(message: impl Into<String>) -> Self {
        Self(RemoteError::new(message))
    }
}

impl From<String> for HandlerError {
    fn from(message: String) -> Self {
        Self::new(message)
    }
}

/// A body that broke off or is malformed.
impl From<io::Error> for HandlerError {
    fn from(error: io::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// A stream of paths that broke off or is malformed.
impl From<PathStreamError> for HandlerError {
    fn from(error: PathStreamError) -> Self {
        match error {
            PathStreamError::Io(cause) => Self::new(format!("failed to read a stream of paths: {cause}")),
            other => Self::new(other.to_string()),
        }
    }
}

/// Why a connection ended other than by the client's wish between two requests.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// No agreement on a protocol.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// A request that cannot be understood; the client was told.
    #[error("{operation}: {error}")]
    Request {
        /// The operation's name, or its number.
        operation: String,
        /// What is wrong.
        #[source]
        error: WireError,
    },
    /// What follows a request cannot be understood; the client was told.
    #[error("{operation}: {message}")]
    Body {
        /// The operation's name.
        operation: &'static str,
        /// What is wrong.
        message: String,
    },
    /// The client went away while the operation ran.
    #[error("the client hung up during {operation}")]
    HungUp {
        /// The operation's name.
        operation: String,
    },
    /// A NAR could not be read, or has another size than was announced; the client could not be told.
    #[error("{operation}: failed to read what was to be sent")]
    Reply {
        /// The operation's name.
        operation: &'static str,
        /// What is wrong.
        #[source]
        error: io::Error,
    },
    /// The socket failed.
    #[error("failed to talk to the client")]
    Io(#[source] io::Error),
}

impl ServeError {
    pub(super) fn reading(operation: impl Into<String>, error: ReadError) -> Self {
        let operation = operation.into();
        match error {
            ReadError::Wire(error) => Self::Request { operation, error },
            ReadError::Io(error) => Self::Io(error),
            ReadError::Closed => Self::HungUp { operation },
        }
    }
}
