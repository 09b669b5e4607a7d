//! Why a store cannot be reached, and what to do.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use nixci_protocol::client;

use super::StoreUri;

/// A store cannot be reached. The text says which, why, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach store `{store}` ({uri}): {fault}; {}", fault.advice())]
pub struct Unreachable {
    /// The store's name in the configuration.
    pub store: String,
    /// Its URI.
    pub uri: Box<StoreUri>,
    /// Why.
    pub fault: Box<Fault>,
}

/// Why a store cannot be reached.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The socket does not accept connections.
    #[error("socket {}: {error}", socket.display())]
    Socket {
        /// The socket.
        socket: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// A program cannot be started.
    #[error("program {program}: {error}")]
    Program {
        /// The program.
        program: String,
        /// What the system said.
        error: io::Error,
    },
    /// A file that ssh needs cannot be written.
    #[error("folder {}: {error}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What the system said.
        error: io::Error,
    },
    /// The other side did not answer in time.
    #[error("no answer within {} seconds{}", after.as_secs(), quoted(said))]
    Timeout {
        /// How long was waited.
        after: Duration,
        /// The last lines of the program's errors.
        said: String,
        /// Whether ssh is in between.
        by_ssh: bool,
    },
    /// The other side is no Nix daemon, or refused us.
    #[error("{error}{}", quoted(said))]
    Handshake {
        /// What went wrong.
        error: client::Error,
        /// The last lines of the program's errors.
        said: String,
        /// Whether ssh is in between.
        by_ssh: bool,
    },
    /// The pool is closed.
    #[error("its connections were closed")]
    Closed,
    /// `NIX_REMOTE` names a store that we cannot use.
    #[error("NIX_REMOTE: {0}")]
    NixRemote(super::StoreUriError),
}

impl Fault {
    fn advice(&self) -> &'static str {
        match self {
            Self::Socket { error, .. } => match error.kind() {
                io::ErrorKind::NotFound => "start nix-daemon, or correct the store's URI",
                io::ErrorKind::PermissionDenied => "let this user use the socket (its mode, and `allowed-users`)",
                io::ErrorKind::ConnectionRefused => "nobody listens there: start nix-daemon again",
                _ => "see whether nix-daemon runs",
            },
            Self::Program { error, .. } if error.kind() == io::ErrorKind::NotFound => {
                "install it, or name another one with `remote-program`"
            }
            Self::Program { .. } => "see whether it may be run",
            Self::Folder { .. } => "make room there, or set TMPDIR",
            Self::Timeout { by_ssh: true, .. } | Self::Handshake { by_ssh: true, .. } => {
                "see whether `ssh -oBatchMode=yes HOST nix-daemon --stdio` works as this user"
            }
            Self::Timeout { by_ssh: false, .. } => "see whether nix-daemon is overloaded or stopped",
            Self::Handshake { by_ssh: false, .. } => {
                "see the log of nix-daemon, and whether this user is in `allowed-users`"
            }
            Self::Closed => "open the store again",
            Self::NixRemote(_) => "unset it, or name the store in the configuration",
        }
    }
}

fn quoted(said: &str) -> String {
    if said.is_empty() {
        String::new()
    } else {
        format!(" (it said: {said})")
    }
}
