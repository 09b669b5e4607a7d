//! Reading NARs back.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::large::Reading;

/// Bytes that are unpacked at a time.
const CHUNK: usize = 64 * 1024;
/// Chunks that may wait for a slow reader.
const CHUNKS: usize = 4;

/// The NAR of an object, as a stream of exactly [`size`](Self::size) bytes.
#[derive(Debug)]
pub struct Nar {
    size: u64,
    left: u64,
    ready: Bytes,
    /// The rest of a large one, unpacked on a thread that may block.
    more: Option<mpsc::Receiver<io::Result<Vec<u8>>>>,
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

    pub(super) fn large(mut reading: Reading, size: u64) -> Self {
        let (chunks, more) = mpsc::channel(CHUNKS);
        tokio::task::spawn_blocking(move || {
            loop {
                let chunk = reading.next(CHUNK);
                let last = chunk.as_ref().map_or(true, Vec::is_empty);
                // A reader that went away wants no more.
                if chunks.blocking_send(chunk).is_err() || last {
                    break;
                }
            }
        });
        Self {
            size,
            left: size,
            ready: Bytes::new(),
            more: Some(more),
        }
    }
}

impl AsyncRead for Nar {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        while self.ready.is_empty() && self.left > 0 {
            let Some(more) = &mut self.more else {
                return Poll::Ready(Err(ended()));
            };
            match more.poll_recv(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(chunk))) if !chunk.is_empty() => self.ready = chunk.into(),
                Poll::Ready(Some(Ok(_)) | None) => return Poll::Ready(Err(ended())),
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
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
