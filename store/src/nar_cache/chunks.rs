//! Reading files in large pieces, without an allocation for each.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bytes of a file that are read at once: so many that the hand-over to another thread does not count.
pub(super) const CHUNK: usize = 512 * 1024;
/// Buffers that are kept for the next reader while nobody reads.
const KEPT: usize = 32;
/// A piece up to this size gets a buffer of its own.
const SMALL: usize = 32 * 1024;

/// Buffers of [`CHUNK`] bytes that come back when their readers are done with them.
#[derive(Debug, Default)]
pub(super) struct Pool {
    /// Held for a push or a pop.
    free: Mutex<Vec<Box<[u8]>>>,
}

struct Lent {
    buffer: Box<[u8]>,
    length: usize,
    pool: Arc<Pool>,
}

impl Pool {
    fn lend(self: &Arc<Self>, length: usize) -> Lent {
        let kept = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        Lent {
            buffer: kept.unwrap_or_else(|| vec![0; CHUNK].into()),
            length,
            pool: self.clone(),
        }
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.buffer[..self.length]
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        let mut free = self.pool.free.lock().unwrap_or_else(PoisonError::into_inner);
        if free.len() < KEPT && buffer.len() == CHUNK {
            free.push(buffer);
        }
    }
}

/// At most [`CHUNK`] bytes of a file that reaches at least to `end`. Blocks.
pub(super) fn read_at(file: &File, pool: &Arc<Pool>, at: u64, end: u64) -> io::Result<Bytes> {
    let length = usize::try_from(end.saturating_sub(at)).map_or(CHUNK, |left| left.min(CHUNK));
    if length <= SMALL {
        let mut buffer = vec![0; length];
        file.read_exact_at(&mut buffer, at)?;
        return Ok(buffer.into());
    }
    let mut lent = pool.lend(length);
    file.read_exact_at(&mut lent.buffer[..length], at)?;
    Ok(Bytes::from_owner(lent))
}

/// As [`read_at`], on a thread that may block.
pub(super) async fn read(file: &Arc<File>, pool: &Arc<Pool>, at: u64, end: u64) -> io::Result<Bytes> {
    let (file, pool) = (file.clone(), pool.clone());
    let read = tokio::task::spawn_blocking(move || read_at(&file, &pool, at, end));
    read.await.map_err(io::Error::other)?
}
