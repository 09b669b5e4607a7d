use std::io;
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::{Pipe, ReadHalf, SocketWriter};

/// Bytes taken from a peer at once.
pub(crate) const BUFFER: usize = 64 * 1024;

/// A buffer that grew beyond this for one big value is given back when it is empty.
const KEPT: usize = 16 * BUFFER;

/// Bytes that a peer who was silent may send before a buffer is taken for it.
const FIRST: usize = 4 * 1024;

/// A peer's bytes, buffered.
pub(crate) struct Reader {
    inner: ReadHalf,
    buffer: BytesMut,
    /// There is no buffer until something comes.
    resting: bool,
    ended: bool,
}

impl Reader {
    pub(crate) fn new(inner: impl AsyncRead + Send + Unpin + 'static) -> Self {
        Self {
            inner: ReadHalf::new(inner),
            buffer: BytesMut::new(),
            resting: true,
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

    /// Nothing is expected soon: an empty buffer is given back until something comes.
    pub(crate) fn rest(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
            self.resting = true;
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

    /// Moves bytes to where they are wanted: those that are buffered, or else those that come, without buffering them.
    pub(crate) fn poll_take(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<usize>> {
        let taken = if self.buffer.is_empty() && !self.ended {
            let before = out.filled().len();
            ready!(Pin::new(&mut self.inner).poll_read(cx, out))?;
            let taken = out.filled().len() - before;
            self.ended = taken == 0;
            taken
        } else {
            let taken = self.buffer.len().min(out.remaining());
            out.put_slice(&self.buffer[..taken]);
            self.consume(taken);
            taken
        };
        Poll::Ready(Ok(taken))
    }

    /// Takes bytes that have arrived, without waiting; 0 is the end of the stream, pending that nothing is there.
    pub(crate) fn take_now(&mut self) -> Poll<io::Result<usize>> {
        let mut first = [MaybeUninit::uninit(); FIRST];
        let mut first = ReadBuf::uninit(&mut first);
        if !self.ended {
            ready!(self.inner.take_now(&mut first))?;
        }
        self.buffer.extend_from_slice(first.filled());
        self.ended = first.filled().is_empty();
        Poll::Ready(Ok(first.filled().len()))
    }

    /// Moves at most `left` bytes to a socket, unseen; none when something is buffered, or where that cannot be done.
    pub(crate) fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        pipe: &mut Pipe,
        to: &SocketWriter,
        left: u64,
    ) -> Poll<io::Result<Option<u64>>> {
        let ReadHalf::Socket(from) = &self.inner else {
            return Poll::Ready(Ok(None));
        };
        if !self.buffer.is_empty() || self.ended {
            return Poll::Ready(Ok(None));
        }
        let passed = ready!(pipe.poll_pass(cx, from, to, left))?;
        self.ended = passed == 0;
        Poll::Ready(Ok(Some(passed)))
    }

    /// Returns the last bytes that were taken.
    pub(crate) fn put_back(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            let rest = std::mem::take(&mut self.buffer);
            self.buffer.reserve(bytes.len() + rest.len());
            self.buffer.extend_from_slice(bytes);
            self.buffer.extend_from_slice(&rest);
        }
    }

    pub(crate) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.ended {
            return Poll::Ready(Ok(0));
        }
        let taken = if self.resting {
            let mut first = [MaybeUninit::uninit(); FIRST];
            let mut first = ReadBuf::uninit(&mut first);
            ready!(Pin::new(&mut self.inner).poll_read(cx, &mut first))?;
            self.resting = false;
            self.buffer.extend_from_slice(first.filled());
            first.filled().len()
        } else {
            self.buffer.reserve(BUFFER);
            ready!(pin!(self.inner.read_buf(&mut self.buffer)).poll(cx))?
        };
        self.ended = taken == 0;
        Poll::Ready(Ok(taken))
    }
}
