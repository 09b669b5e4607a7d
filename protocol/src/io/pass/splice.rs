//! Bytes that go from one socket to another without coming by here.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};
use tokio::io::{Interest, ReadBuf};

use crate::io::{SocketReader, SocketWriter};

/// Bytes the pipe is to hold: more than a socket does, so that one call takes all that has arrived.
const ROOM: usize = 1024 * 1024;

const FLAGS: SpliceFlags = SpliceFlags::NONBLOCK.union(SpliceFlags::MOVE);

/// A pipe between two sockets, whose pages it hands on.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes in it.
    held: usize,
}

impl Pipe {
    /// A pipe for what goes to this socket, which is to take as much as the system allows from now on.
    pub(crate) fn new(to: &SocketWriter) -> io::Result<Self> {
        to.widen(ROOM);
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Users have a limit on what all their pipes hold; a smaller one only takes more calls.
        let _ = fcntl_setpipe_size(&write, ROOM);
        Ok(Self { read, write, held: 0 })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves at most `left` bytes from one socket to the other, and says how many arrived there. Zero is the end of what
    /// comes. What was taken and did not arrive yet stays in the pipe.
    pub(crate) fn poll_pass(
        &mut self,
        cx: &mut Context<'_>,
        from: &SocketReader,
        to: &SocketWriter,
        left: u64,
    ) -> Poll<io::Result<u64>> {
        let left = usize::try_from(left).unwrap_or(usize::MAX);
        if self.held == 0 {
            let taken = from
                .0
                .poll_with(cx, Interest::READABLE, |socket| self.fill(socket, left));
            self.held = ready!(taken)?;
            if self.held == 0 {
                return Poll::Ready(Ok(0));
            }
        }
        let mut to_move = self.held;
        let passed = to.0.poll_with(cx, Interest::WRITABLE, |socket| {
            let moved = splice(&self.read, None, socket, None, to_move, FLAGS);
            // While the receiver is busy the sender is not to wait for it: what has come is taken as long as there is
            // room. Whether the socket is empty or the pipe full does not matter here.
            if moved.is_err() && to_move < ROOM / 2 {
                let more = from.0.with(|socket| self.fill(socket, left - to_move));
                to_move += more.unwrap_or(0);
            }
            moved
        });
        self.held = to_move;
        let passed = ready!(passed)?;
        self.held -= passed;
        Poll::Ready(Ok(passed as u64))
    }

    fn fill(&self, socket: BorrowedFd<'_>, left: usize) -> rustix::io::Result<usize> {
        splice(socket, None, &self.write, None, left.min(ROOM), FLAGS)
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
