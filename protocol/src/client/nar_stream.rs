use std::fmt;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::call::{both, flush, put_request, read_log};
use super::connection::State;
use super::{Connection, Error, LogSink};
use crate::io::{NarError, NarScanner};
use crate::log::{self, RemoteError};
use crate::op::NarFromPath;
use crate::types::StorePath;
use crate::wire::{WireError, decode};

/// The NAR of a valid path as it arrives, straight out of the connection.
///
/// At its end the connection can be used again; when it is dropped before, it cannot. A NAR of another size, bytes
/// that are none, and an error that the server says in the middle are errors of reading; they break the connection.
pub struct NarStream<C> {
    connection: C,
    scanner: NarScanner,
    expected: u64,
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
        let connection = self.connection.as_mut();
        if self.scanner.is_done() || out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let reader = &mut connection.reader;
        loop {
            if self.failing {
                match decode::<RemoteError>(&connection.agreed.negotiated, reader.buffered()) {
                    Ok((error, _)) => return Poll::Ready(Err(Error::Remote(error))),
                    Err(WireError::Incomplete) => {}
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            if (self.failing || reader.buffered().is_empty()) && ready!(reader.poll_fill(cx)).map_err(Error::Io)? == 0 {
                return Poll::Ready(Err(Error::Closed));
            }
            if !self.failing {
                let room = out.remaining().min(reader.buffered().len());
                let before = self.scanner.offset();
                match self.scanner.push(&reader.buffered()[..room]) {
                    Ok(taken) => {
                        out.put_slice(&reader.buffered()[..taken]);
                        reader.consume(taken);
                        break;
                    }
                    Err(NarError::TooLong { length: log::ERROR, .. }) => {
                        reader.consume((self.scanner.offset() - before) as usize);
                        self.failing = true;
                    }
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
        }
        let (found, expected) = (self.scanner.offset(), self.expected);
        if found > expected || (self.scanner.is_done() && found < expected) {
            return Poll::Ready(Err(Error::NarSize { expected, found }));
        }
        if self.scanner.is_done() {
            return Poll::Ready(connection.settle(Ok(())));
        }
        Poll::Ready(Ok(()))
    }
}

impl<C: AsMut<Connection> + Send + Unpin> AsyncRead for NarStream<C> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_or_break(cx, out).map_err(io::Error::other)
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
