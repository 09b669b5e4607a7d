use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::call::{both, flush, put_request, read_log};
use super::connection::State;
use super::{Connection, Error, LogSink};
use crate::io::{NarError, NarScanner, Pipe, SocketWriter};
use crate::log::{self, RemoteError};
use crate::op::{NarFromPath, NarSource};
use crate::types::StorePath;
use crate::wire::{WireError, decode};

/// Content of at least so many bytes is passed on without reading it: below, the calls cost more than the copies.
const WORTH_PASSING: u64 = 128 * 1024;
/// Bytes of an error in the middle of a NAR; it is read again with every piece that comes.
const LONGEST_REASON: usize = 256 * 1024;

/// The NAR of a valid path as it arrives, straight out of the connection.
///
/// At its end the connection can be used again; when it is dropped before, it cannot. A NAR of another size, bytes
/// that are none, and an error that the server says in the middle are errors of reading; they break the connection.
pub struct NarStream<C> {
    connection: C,
    scanner: NarScanner,
    expected: u64,
    /// What content passes through on its way to another socket.
    pipe: Option<Pipe>,
    /// The server stopped in the middle, to say why.
    failing: bool,
}

impl<C: AsMut<Connection> + Send + Unpin> NarStream<C> {
    /// Asks for a NAR of the size its path info says. Returns when the server is about to send it.
    pub async fn open(
        mut connection: C,
        path: &StorePath,
        nar_size: u64,
        log: &mut impl LogSink,
    ) -> Result<Self, Error> {
        let this = connection.as_mut();
        this.begin()?;
        let request = NarFromPath { path: path.clone() };
        put_request(&request, &this.agreed.negotiated, &mut this.writer.out);
        let reading = read_log(&mut this.reader, &this.agreed.negotiated, log);
        let began = both(flush(&mut this.writer), reading).await;
        if began.is_err() {
            this.settle(began)?;
        }
        Ok(Self {
            connection,
            scanner: NarScanner::new(),
            expected: nar_size,
            pipe: None,
            failing: false,
        })
    }

    /// Takes some of it; nothing at its end.
    pub(super) async fn read(&mut self, piece: &mut [u8]) -> Result<usize, Error> {
        let mut out = ReadBuf::new(piece);
        std::future::poll_fn(|cx| self.poll_or_break(cx, &mut out)).await?;
        Ok(out.filled().len())
    }

    fn poll_or_break(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        let read = ready!(self.poll(cx, out));
        if read.is_err() {
            self.connection.as_mut().state = State::Broken;
        }
        Poll::Ready(read)
    }

    fn poll(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        if self.scanner.is_done() || out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if !self.failing {
            ready!(self.poll_some(cx, out))?;
        }
        if self.failing {
            return self.poll_reason(cx).map(Err);
        }
        let (found, expected) = (self.scanner.offset(), self.expected);
        if found > expected || (self.scanner.is_done() && found < expected) {
            return Poll::Ready(Err(Error::NarSize { expected, found }));
        }
        if self.scanner.is_done() {
            return Poll::Ready(self.connection.as_mut().settle(Ok(())));
        }
        Poll::Ready(Ok(()))
    }

    /// Passes content on; nothing where that is not worth it.
    fn poll_content(&mut self, cx: &mut Context<'_>, to: &SocketWriter) -> Poll<Result<u64, Error>> {
        let left = self.scanner.content_left();
        let underway = self.pipe.as_ref().is_some_and(|pipe| !pipe.is_empty());
        // A file that does not fit in the NAR is found out by reading it.
        if self.failing
            || left > self.expected.saturating_sub(self.scanner.offset())
            || (left < WORTH_PASSING && !underway)
        {
            return Poll::Ready(Ok(0));
        }
        let pipe = match self.pipe.take() {
            Some(pipe) => pipe,
            None => Pipe::new(to).map_err(Error::Io)?,
        };
        let pipe = self.pipe.insert(pipe);
        match ready!(self.connection.as_mut().reader.poll_pass(cx, pipe, to, left)) {
            Ok(Some(0)) => Poll::Ready(Err(Error::Closed)),
            Ok(Some(passed)) => {
                self.scanner.skip(passed);
                Poll::Ready(Ok(passed))
            }
            Ok(None) => Poll::Ready(Ok(0)),
            Err(error) => Poll::Ready(Err(Error::Io(error))),
        }
    }

    /// Why the server stopped.
    fn poll_reason(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        let connection = self.connection.as_mut();
        loop {
            match decode::<RemoteError>(&connection.agreed.negotiated, connection.reader.buffered()) {
                Ok((error, _)) => return Poll::Ready(Error::Remote(error)),
                Err(WireError::Incomplete) if connection.reader.buffered().len() <= LONGEST_REASON => {}
                Err(WireError::Incomplete) => {
                    let text = "the reason why the server stopped in the middle of a NAR is too long";
                    return Poll::Ready(Error::Io(io::Error::new(io::ErrorKind::InvalidData, text)));
                }
                Err(error) => return Poll::Ready(error.into()),
            }
            match ready!(connection.reader.poll_fill(cx)) {
                Ok(0) => return Poll::Ready(Error::Closed),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Error::Io(error)),
            }
        }
    }

    /// Takes what has arrived; what is no part of the NAR is put back.
    fn poll_some(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<Result<(), Error>> {
        let reader = &mut self.connection.as_mut().reader;
        let (before, offset) = (out.filled().len(), self.scanner.offset());
        if let Some(pipe) = self.pipe.as_mut().filter(|pipe| !pipe.is_empty()) {
            pipe.take(out).map_err(Error::Io)?;
        } else if ready!(reader.poll_take(cx, out)).map_err(Error::Io)? == 0 {
            return Poll::Ready(Err(Error::Closed));
        }
        let pushed = self.scanner.push(&out.filled()[before..]);
        let taken = before + (self.scanner.offset() - offset) as usize;
        match pushed {
            Ok(_) => {}
            // Stock servers find out that a path is not valid only after they said that all is well, some even after
            // the first word of the NAR: the error is where a word should be, and no word is that long.
            Err(NarError::TooLong { length: log::ERROR, .. }) => self.failing = true,
            Err(error) => return Poll::Ready(Err(error.into())),
        }
        reader.put_back(&out.filled()[taken..]);
        out.set_filled(if self.failing { before } else { taken });
        Poll::Ready(Ok(()))
    }
}

impl<C: AsMut<Connection> + Send + Unpin> AsyncRead for NarStream<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_or_break(cx, out).map_err(io::Error::other)
    }
}

impl<C: AsMut<Connection> + Send + Unpin> NarSource for NarStream<C> {
    fn poll_pass(&mut self, cx: &mut Context<'_>, to: &SocketWriter) -> Poll<io::Result<u64>> {
        let passed = ready!(self.poll_content(cx, to));
        if passed.is_err() {
            self.connection.as_mut().state = State::Broken;
        }
        Poll::Ready(passed.map_err(io::Error::other))
    }
}

impl<C> fmt::Debug for NarStream<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NarStream")
            .field("read", &self.scanner.offset())
            .field("expected", &self.expected)
            .finish_non_exhaustive()
    }
}
