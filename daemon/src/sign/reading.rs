//! Reading a NAR from a store to know what is in it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use nixci_protocol::client;
use nixci_protocol::types::{NarHash, StorePath};
use nixci_store::remote::{Remote, Unreachable};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWrite;

/// What a store sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A NAR of the expected size, with this hash.
    Nar(NarHash),
    /// One of another size: where it ended, or the first byte too many.
    Size(u64),
}

/// Why nothing is known of what a store sends.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    /// The store cannot be reached.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// It did not send the NAR, or no NAR.
    #[error("failed to read it")]
    Store(#[source] client::Error),
}

/// Reads the NAR of a path once, as a stream.
pub(super) async fn read(store: &Remote, path: &StorePath, size: u64) -> Result<Found, ReadError> {
    let mut connection = store.acquire().await?;
    let mut nar = Hashing(Sha256::new());
    match connection.nar_from_path(path, size, &mut nar, &mut ()).await {
        Ok(()) => Ok(Found::Nar(NarHash(nar.0.finalize().into()))),
        Err(client::Error::NarSize { found, .. }) => Ok(Found::Size(found)),
        Err(error) => Err(ReadError::Store(error)),
    }
}

/// Where bytes go to be hashed and forgotten.
struct Hashing(Sha256);

impl AsyncWrite for Hashing {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.update(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
