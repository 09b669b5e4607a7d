use std::io;

use crate::handshake::HandshakeError;
use crate::io::{NarError, ReadError};
use crate::log::RemoteError;
use crate::op::Unsupported;
use crate::wire::WireError;

/// Why an operation, or the opening of a connection, came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The server could not do it, and says why.
    #[error(transparent)]
    Remote(#[from] RemoteError),
    /// The server refused the connection as a whole, and says why.
    #[error("the server refused the connection: {0}")]
    Refused(#[source] RemoteError),
    /// No agreement on a protocol.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// The peer does not know the operation; it was not sent.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The socket failed.
    #[error("failed to talk to the server")]
    Io(#[source] io::Error),
    /// The server is gone.
    #[error("the server closed the connection")]
    Closed,
    /// What the server sent cannot be understood.
    #[error("the server sent something malformed: {0}")]
    Wire(#[from] WireError),
    /// The server sent something that is no NAR.
    #[error("the server sent a malformed NAR")]
    Nar(#[from] NarError),
    /// The server sent a NAR of another size.
    #[error("the server sent a NAR of {found} bytes where {expected} were expected")]
    NarSize {
        /// What its path info said.
        expected: u64,
        /// Where it ended; one more than expected when it did not.
        found: u64,
    },
    /// What was to be sent could not be read.
    #[error("failed to read what was to be sent to the server")]
    Body(#[source] io::Error),
    /// What arrived could not be put where it belongs.
    #[error("failed to write what the server sent")]
    Sink(#[source] io::Error),
    /// An earlier operation was cut off or failed, and nobody knows what the server would send next.
    #[error("the connection cannot be used again after an operation that was cut off or failed")]
    NotReusable,
}

impl Error {
    /// Whether the server itself said no, to this operation.
    #[must_use]
    pub fn is_remote(&self) -> bool {
        matches!(self, Self::Remote(_))
    }

    /// What the server said.
    #[must_use]
    pub fn remote(&self) -> Option<&RemoteError> {
        match self {
            Self::Remote(error) | Self::Refused(error) => Some(error),
            Self::Handshake(_)
            | Self::Unsupported(_)
            | Self::Io(_)
            | Self::Closed
            | Self::Wire(_)
            | Self::Nar(_)
            | Self::NarSize { .. }
            | Self::Body(_)
            | Self::Sink(_)
            | Self::NotReusable => None,
        }
    }
}

impl From<ReadError> for Error {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Wire(error) => Self::Wire(error),
            ReadError::Io(error) => Self::Io(error),
            ReadError::Closed => Self::Closed,
        }
    }
}
