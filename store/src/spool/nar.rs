//! Reading NARs back.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::task::JoinHandle;

use super::large::Reading;

/// Bytes that are unpacked at a time.
const CHUNK: usize = 256 * 1024;

/// The NAR of an object, as a stream of exactly [`size`](Self::size) bytes.
#[derive(Debug)]
pub struct Nar {
    size: u64,
    left: u64,
    ready: Bytes,
    /// The rest of a large one.
    more: Option<More>,
}

impl Nar {
    /// Its size in bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn small(content: Bytes) -> Self {
        let size = content.len() as u64;
        Self {
            size,
            left: size,
            ready: content,
            more: None,
        }
    }

    pub(super) fn large(reading: Reading, size: u64) -> Self {
        Self {
            size,
            left: size,
            ready: Bytes::new(),
            more: Some(More::unpack(reading)),
        }
    }
}

/// The next chunk of a large NAR, unpacked on a thread that may block. One is unpacked ahead and no more, so that a
/// reader who takes his time holds no thread.
struct More(JoinHandle<(Reading, io::Result<Vec<u8>>)>);

impl fmt::Debug for More {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("More").finish_non_exhaustive()
    }
}

impl More {
    fn unpack(mut reading: Reading) -> Self {
        Self(tokio::task::spawn_blocking(move || {
            let chunk = reading.next(CHUNK);
            (reading, chunk)
        }))
    }

    /// The chunk; empty at the end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Vec<u8>>> {
        let unpacked = ready!(Pin::new(&mut self.0).poll(cx));
        let (reading, chunk) = unpacked.map_err(io::Error::other)?;
        if chunk.as_ref().is_ok_and(|chunk| !chunk.is_empty()) {
            *self = Self::unpack(reading);
        }
        Poll::Ready(chunk)
    }
}

impl AsyncRead for Nar {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.ready.is_empty() && self.left > 0 {
            let Some(more) = &mut self.more else {
                return Poll::Ready(Err(ended()));
            };
            match ready!(more.poll(cx)) {
                Ok(chunk) if !chunk.is_empty() => self.ready = chunk.into(),
                ended_early => {
                    // A task that has ended must not be asked again.
                    self.more = None;
                    return Poll::Ready(Err(ended_early.err().unwrap_or_else(ended)));
                }
            }
        }
        let count = self.ready.len().min(into.remaining());
        let count = count.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        into.put_slice(&self.ready[..count]);
        self.ready.advance(count);
        self.left -= count as u64;
        Poll::Ready(Ok(()))
    }
}

fn ended() -> io::Error {
    io::Error::new(
        io::ErrorKind::UnexpectedEof,
        "a NAR in the spool is shorter than it should be",
    )
}
