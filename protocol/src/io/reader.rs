use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::AsyncReadExt;

use super::BoxRead;

/// Bytes taken from a peer at once.
pub(crate) const BUFFER: usize = 64 * 1024;

/// A buffer that grew beyond this for one big value is given back when it is empty.
const KEPT: usize = 16 * BUFFER;

/// A peer's bytes, buffered.
pub(crate) struct Reader {
    inner: BoxRead,
    buffer: BytesMut,
    ended: bool,
}

impl Reader {
    pub(crate) fn new(inner: BoxRead) -> Self {
        Self {
            inner,
            buffer: BytesMut::new(),
            ended: false,
        }
    }

    /// What arrived and was not consumed.
    pub(crate) fn buffered(&self) -> &[u8] {
        &self.buffer
    }

    pub(crate) fn consume(&mut self, bytes: usize) {
        self.buffer.advance(bytes);
        if self.buffer.is_empty() && self.buffer.capacity() > KEPT {
            self.buffer = BytesMut::new();
        }
    }

    /// Waits for more bytes; 0 is the end of the stream. Cancel safe.
    pub(crate) async fn fill(&mut self) -> io::Result<usize> {
        std::future::poll_fn(|cx| self.poll_fill(cx)).await
    }

    /// Takes bytes as long as the buffer is small, only to notice the end of the stream; ready when it came.
    pub(crate) fn poll_hang_up(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.buffer.len() < BUFFER {
            match ready!(self.poll_fill(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        // Requests sent ahead fill the buffer; the end of the stream is behind them.
        Poll::Pending
    }

    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        self.buffer.reserve(BUFFER);
        let taken = ready!(pin!(self.inner.read_buf(&mut self.buffer)).poll(cx))?;
        self.ended = taken == 0;
        Poll::Ready(Ok(taken))
    }
}
