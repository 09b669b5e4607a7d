//! Bytes that go from one socket to another without coming by here.

use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{Interest, ReadBuf};

use super::{SocketReader, SocketWriter};

/// Bytes the pipe is to hold: more than a socket does, so that one call takes all that has arrived.
const ROOM: usize = 1024 * 1024;

/// A pipe between two sockets, whose pages it hands on.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes in it.
    held: usize,
}

impl Pipe {
    pub(crate) fn new() -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Users have a limit on what all their pipes hold; a smaller one only takes more calls.
        let _ = fcntl_setpipe_size(&write, ROOM);
        Ok(Self { read, write, held: 0 })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves at most `left` bytes from one socket to the other, in one go, and says how many arrived there. Zero is the
    /// end of what comes. What was taken and did not arrive yet stays in the pipe.
    pub(crate) fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &SocketReader,
        to: &SocketWriter,
        left: u64,
    ) -> Poll<io::Result<u64>> {
        if self.held == 0 {
            let most = usize::try_from(left).map_or(ROOM, |left| left.min(ROOM));
            self.held = ready!(from.poll_with(cx, Interest::READABLE, |socket| splice(
                socket,
                None,
                &self.write,
                None,
                most,
                SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
            )))?;
            if self.held == 0 {
                return Poll::Ready(Ok(0));
            }
        }
        let passed = ready!(to.poll_with(cx, Interest::WRITABLE, |socket| splice(
            &self.read,
            None,
            socket,
            None,
            self.held,
            SpliceFlags::NONBLOCK | SpliceFlags::MOVE,
        )))?;
        self.held -= passed;
        Poll::Ready(Ok(passed as u64))
    }

    /// Takes out bytes that are to be looked at after all.
    pub(crate) fn take(&mut self, out: &mut ReadBuf<'_>) -> io::Result<()> {
        let room = out.remaining().min(self.held);
        let taken = rustix::io::read(&self.read, out.initialize_unfilled_to(room))?;
        out.advance(taken);
        self.held -= taken;
        Ok(())
    }
}
