//! `nixci-daemon stdio`: bytes between standard input and output and the daemon's socket.
//!
//! The protocol is not looked at, so features pass; trust comes from the socket peer, which is this
//! process, unless it says that it speaks for somebody else: then that one gets no more than this process
//! has, and only what is asked for. What an ssh client asked to be run (`SSH_ORIGINAL_COMMAND`) is not
//! looked at: a forced command says all there is to say, and whoever holds a key may write there what he likes.

use std::io;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;

use crate::config::Config;
use crate::listen::preamble;
use crate::principal::Lowered;

/// Why the pipe could not be made or broke.
#[derive(Debug, thiserror::Error)]
pub enum StdioError {
    /// Nobody listens.
    #[error("no nixci-daemon listens on {tried}; start one with `nixci-daemon`, or name its socket with --socket")]
    NoDaemon {
        /// The sockets that were tried.
        tried: String,
    },
    /// A daemon is there, but cannot be reached.
    #[error("failed to connect to {path}: {source}", path = .path.display())]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The pipe broke.
    #[error("failed to pass bytes on: {0}")]
    Copy(#[source] io::Error),
}

/// Where a daemon of this user or of the system listens, the likelier place first.
#[must_use]
pub fn default_sockets() -> Vec<PathBuf> {
    let system = PathBuf::from("/run/nixci/socket");
    match Config::per_user() {
        Ok(config) if config.listen.socket != system => vec![config.listen.socket, system],
        _ => vec![system],
    }
}

/// Passes bytes both ways until the daemon closes, for the holder of a key where `lowered` names one.
/// Cancelling it closes the connection.
pub async fn stdio(candidates: &[PathBuf], lowered: Option<&Lowered>) -> Result<(), StdioError> {
    let stream = connect(candidates).await?;
    let (mut from_daemon, mut to_daemon) = stream.into_split();
    let preamble = lowered.map(preamble::encode).transpose().map_err(StdioError::Copy)?;
    let upwards = async {
        if let Some(preamble) = &preamble {
            to_daemon.write_all(preamble).await?;
        }
        tokio::io::copy(&mut tokio::io::stdin(), &mut to_daemon).await?;
        to_daemon.shutdown().await
    };
    let downwards = async {
        let mut stdout = tokio::io::stdout();
        tokio::io::copy(&mut from_daemon, &mut stdout).await?;
        stdout.flush().await
    };
    let mut downwards = std::pin::pin!(downwards);
    // The end of standard input is the end of requests, not of replies.
    let result = tokio::select! {
        result = &mut downwards => result,
        sent = upwards => match sent {
            Ok(()) => downwards.await,
            Err(error) => Err(error),
        },
    };
    result.map_err(StdioError::Copy)
}

async fn connect(candidates: &[PathBuf]) -> Result<UnixStream, StdioError> {
    for path in candidates {
        match UnixStream::connect(path).await {
            Ok(stream) => return Ok(stream),
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {}
            Err(source) => {
                return Err(StdioError::Connect {
                    path: path.clone(),
                    source,
                });
            }
        }
    }
    Err(StdioError::NoDaemon {
        tried: candidates
            .iter()
            .map(|path| shown(path))
            .collect::<Vec<_>>()
            .join(" or "),
    })
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}
