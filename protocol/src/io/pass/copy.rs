//! Through a buffer, where the system has no `splice`.

use std::io;
use std::ops::Range;
use std::task::{Context, Poll, ready};

use tokio::io::{Interest, ReadBuf};

use crate::io::{SocketReader, SocketWriter};

/// Bytes the buffer holds: what a socket of these systems does.
const ROOM: usize = 64 * 1024;

/// A buffer between two sockets.
#[derive(Debug)]
pub(crate) struct Pipe {
    buffer: Box<[u8]>,
    /// Where in the buffer the bytes are that did not arrive yet.
    held: Range<usize>,
}

impl Pipe {
    /// A buffer for what goes to this socket.
    // It cannot fail, and the other one can.
    #[expect(clippy::unnecessary_wraps, reason = "the pipe of Linux has this signature")]
    pub(crate) fn new(to: &SocketWriter) -> io::Result<Self> {
        to.widen(ROOM);
        Ok(Self {
            buffer: vec![0; ROOM].into_boxed_slice(),
            held: 0..0,
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Moves at most `left` bytes from one socket to the other, and says how many arrived there. Zero is the end of what
    /// comes. What was taken and did not arrive yet stays in the buffer.
    pub(crate) fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &SocketReader,
        to: &SocketWriter,
        left: u64,
    ) -> Poll<io::Result<u64>> {
        if self.is_empty() {
            let room = usize::try_from(left).unwrap_or(usize::MAX).min(ROOM);
            let buffer = &mut self.buffer[..room];
            let taken = from
                .0
                .poll_with(cx, Interest::READABLE, |socket| rustix::io::read(socket, &mut *buffer));
            self.held = 0..ready!(taken)?;
            if self.is_empty() {
                return Poll::Ready(Ok(0));
            }
        }
        let bytes = &self.buffer[self.held.clone()];
        let passed =
            to.0.poll_with(cx, Interest::WRITABLE, |socket| rustix::io::write(socket, bytes));
        let passed = ready!(passed)?;
        self.held.start += passed;
        Poll::Ready(Ok(passed as u64))
    }

    /// Takes out bytes that are to be looked at after all.
    // It cannot fail, and the other one can.
    #[expect(clippy::unnecessary_wraps, reason = "the pipe of Linux has this signature")]
    pub(crate) fn take(&mut self, out: &mut ReadBuf<'_>) -> io::Result<()> {
        let room = out.remaining().min(self.held.len());
        let taken = self.held.start..self.held.start + room;
        out.put_slice(&self.buffer[taken]);
        self.held.start += room;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;
    use crate::io::eager::Company;
    use crate::io::socket::socket;

    #[tokio::test]
    async fn what_comes_goes_on_whole_up_to_the_limit_and_the_rest_can_be_looked_at() {
        // More than the buffer and the sockets hold, so that both sides have to wait.
        let sent: Vec<u8> = (0..20 * ROOM).map(|at| (at % 251) as u8).collect();
        let (mut source, near) = UnixStream::pair().unwrap();
        let (far, mut sink) = UnixStream::pair().unwrap();
        let company = Company::default();
        let (from, _keep) = socket(near, &company);
        let (_other, to) = socket(far, &company);
        let bytes = sent.clone();
        let writing = tokio::spawn(async move { source.write_all(&bytes).await });
        let limit = sent.len() - 10;
        let reading = tokio::spawn(async move {
            let mut arrived = vec![0; limit];
            sink.read_exact(&mut arrived).await.map(|_| arrived)
        });
        let mut pipe = Pipe::new(&to).unwrap();
        let mut left = limit as u64;
        while left > 0 {
            left -= poll_fn(|cx| pipe.poll_pass(cx, &from, &to, left)).await.unwrap();
        }
        assert!(pipe.is_empty());
        assert_eq!(reading.await.unwrap().unwrap(), sent[..limit]);
        writing.await.unwrap().unwrap();
        // The receiver is gone: what was taken for it is still there.
        assert!(poll_fn(|cx| pipe.poll_pass(cx, &from, &to, 10)).await.is_err());
        let mut rest = [0; 16];
        let mut first = ReadBuf::new(&mut rest[..4]);
        pipe.take(&mut first).unwrap();
        assert_eq!(first.filled(), &sent[limit..limit + 4]);
        let mut others = ReadBuf::new(&mut rest);
        pipe.take(&mut others).unwrap();
        assert_eq!(others.filled(), &sent[limit + 4..]);
        // The sender is gone too.
        assert_eq!(poll_fn(|cx| pipe.poll_pass(cx, &from, &to, 10)).await.unwrap(), 0);
    }
}
