//! Unix sockets that know when their peer is likely to talk.
//!
//! A socket sleeps in the runtime's poller, as any other. One whose peer asks again as soon as it was answered leaves
//! the poller and is looked at directly: otherwise each question wakes a thread of the poller, which then wakes the
//! task's. It returns to the poller before it sleeps.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream as Direct;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use rustix::net::sockopt::set_socket_send_buffer_size;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::UnixStream;

use super::eager::{Advice, Company, Patience, WAIT};

/// Bytes that are looked for at once; a message that has more is left to the poller, as more will come.
const MESSAGE: usize = 4 * 1024;

/// The reading half of a socket.
#[derive(Debug)]
pub struct SocketReader(pub(super) Arc<Socket>);

/// The writing half of a socket. The socket is closed when both halves are dropped; dropping this one says the end.
#[derive(Debug)]
pub struct SocketWriter(pub(super) Arc<Socket>);

/// Looks at a socket that nobody reads from.
#[derive(Debug, Clone)]
pub struct SocketWatch(Arc<Socket>);

#[derive(Debug)]
pub(super) struct Socket {
    /// Locked within a poll only.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    place: Place,
    /// The peer has the word: something was written since something was read.
    awaited: bool,
    /// A write waits for the poller, which therefore must not be left.
    writing: bool,
    patience: Patience,
}

#[derive(Debug)]
enum Place {
    /// In the runtime's poller.
    Poller(UnixStream),
    /// In our own hands: whoever cannot go on returns it to the poller.
    Hands(Direct),
    /// Lost on the way between them, because the system refused.
    Lost,
}

/// Splits a socket. It must be called within a runtime that polls sockets, and so must its halves.
pub fn socket(stream: UnixStream, company: &Company) -> (SocketReader, SocketWriter) {
    let socket = Arc::new(Socket {
        state: Mutex::new(State {
            place: Place::Poller(stream),
            awaited: false,
            writing: false,
            patience: Patience::new(company.clone()),
        }),
    });
    (SocketReader(socket.clone()), SocketWriter(socket))
}

impl Socket {
    /// Does something with the socket as soon as it can be done.
    pub(super) fn poll_with<T>(
        &self,
        cx: &mut Context<'_>,
        interest: Interest,
        act: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        self.lock().poll_with(cx, interest, act)
    }

    /// Does something with the socket, now.
    pub(super) fn with<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>) -> io::Result<T> {
        self.lock().with(act)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn lost() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the socket was lost")
}

fn would_block<T>(result: io::Result<T>) -> Option<io::Result<T>> {
    match result {
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        other => Some(other),
    }
}

impl State {
    /// Hands the socket to the poller.
    fn sleep(&mut self) -> io::Result<&mut UnixStream> {
        if let Place::Hands(_) = self.place
            && let Place::Hands(direct) = std::mem::replace(&mut self.place, Place::Lost)
        {
            self.place = Place::Poller(UnixStream::from_std(direct)?);
        }
        match &mut self.place {
            Place::Poller(stream) => Ok(stream),
            Place::Hands(_) | Place::Lost => Err(lost()),
        }
    }

    /// Takes the socket out of the poller.
    fn wake(&mut self) -> io::Result<()> {
        if let Place::Poller(_) = self.place
            && let Place::Poller(stream) = std::mem::replace(&mut self.place, Place::Lost)
        {
            self.place = Place::Hands(stream.into_std()?);
        }
        Ok(())
    }

    /// Takes what is there; none when nothing is.
    fn take(&self, out: &mut ReadBuf<'_>) -> Option<io::Result<usize>> {
        let room = out.remaining().min(MESSAGE);
        let into = out.initialize_unfilled_to(room);
        let taken = match &self.place {
            Place::Poller(stream) => rustix::io::read(stream, into).map_err(io::Error::from),
            Place::Hands(direct) => (&mut &*direct).read(into),
            Place::Lost => Err(lost()),
        };
        would_block(taken).map(|taken| taken.inspect(|bytes| out.advance(*bytes)))
    }

    /// Looks for bytes until they come or it has lasted too long.
    fn look(&self, out: &mut ReadBuf<'_>) -> Option<io::Result<usize>> {
        let began = Instant::now();
        loop {
            if let Some(taken) = self.take(out) {
                return Some(taken);
            }
            if self.patience.is_disturbed() || began.elapsed() > WAIT {
                return None;
            }
            std::hint::spin_loop();
        }
    }

    fn poll_read(&mut self, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        if let Place::Hands(_) = self.place
            && let Some(taken) = self.take(out)
        {
            return Poll::Ready(self.took(taken));
        }
        if self.awaited && !self.writing {
            match self.patience.advice() {
                Advice::Sleep => {}
                Advice::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Advice::Look => {
                    if let Some(taken) = self.look(out) {
                        self.patience.paid();
                        if let Err(error) = self.wake() {
                            return Poll::Ready(Err(error));
                        }
                        return Poll::Ready(self.took(taken));
                    }
                    self.patience.in_vain();
                }
            }
            // Said once: whoever is polled again for another reason finds it asleep.
            self.awaited = false;
        }
        let read = match self.sleep() {
            Ok(stream) => Pin::new(stream).poll_read(cx, out),
            Err(error) => Poll::Ready(Err(error)),
        };
        if let Poll::Ready(Ok(())) = read {
            let _ = self.took(Ok(out.filled().len() - before));
        }
        read
    }

    /// Notes that the peer has talked.
    fn took(&mut self, taken: io::Result<usize>) -> io::Result<()> {
        if taken? == MESSAGE {
            // More is coming, which the poller is better at.
            self.sleep()?;
        }
        self.awaited = false;
        self.patience.came();
        Ok(())
    }

    /// Does something with the socket, wherever it is.
    fn with<T>(&self, act: impl FnOnce(BorrowedFd<'_>) -> rustix::io::Result<T>) -> io::Result<T> {
        match &self.place {
            Place::Poller(stream) => act(stream.as_fd()),
            Place::Hands(direct) => act(direct.as_fd()),
            Place::Lost => return Err(lost()),
        }
        .map_err(io::Error::from)
    }

    /// Does something with the socket as soon as it can be done.
    fn poll_with<T>(
        &mut self,
        cx: &mut Context<'_>,
        interest: Interest,
        mut act: impl FnMut(BorrowedFd<'_>) -> rustix::io::Result<T>,
    ) -> Poll<io::Result<T>> {
        let stream = &*self.sleep()?;
        loop {
            let done = stream.try_io(interest, || act(stream.as_fd()).map_err(io::Error::from));
            if let Some(done) = would_block(done) {
                return Poll::Ready(done);
            }
            if interest.is_readable() {
                ready!(stream.poll_read_ready(cx))?;
            } else {
                ready!(stream.poll_write_ready(cx))?;
            }
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if let Place::Hands(direct) = &self.place
            && let Some(sent) = would_block((&mut &*direct).write(bytes))
        {
            self.awaited = true;
            return Poll::Ready(sent);
        }
        let sent = match self.sleep() {
            Ok(stream) => Pin::new(stream).poll_write(cx, bytes),
            Err(error) => Poll::Ready(Err(error)),
        };
        self.writing = sent.is_pending();
        self.awaited = sent.is_ready();
        sent
    }
}

impl SocketReader {
    /// Something to look at the socket with, while nobody reads.
    #[must_use]
    pub fn watch(&self) -> SocketWatch {
        SocketWatch(self.0.clone())
    }

    /// Takes what is there, without waiting; none when nothing is.
    pub(super) fn take_now(&mut self, out: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        let mut state = self.0.lock();
        let taken = state.take(out)?;
        Some(state.took(taken))
    }
}

impl SocketWatch {
    /// Whether the peer is there and silent. Does not wait.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let looked = self.0.with(|socket| recv(socket, &mut [0], flags).map(drop));
        would_block(looked).is_none()
    }
}

impl AsyncRead for SocketReader {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.0.lock().poll_read(cx, out)
    }
}

impl SocketWriter {
    /// Lets the system hold so many bytes that the peer has not read yet, or as many as it is ready to.
    pub(super) fn widen(&self, bytes: usize) {
        // More is only faster.
        let _ = self.0.with(|socket| set_socket_send_buffer_size(socket, bytes));
    }
}

impl AsyncWrite for SocketWriter {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(self.0.lock().shutdown())
    }
}

impl State {
    fn shutdown(&mut self) -> io::Result<()> {
        match self.with(|socket| shutdown(socket, Shutdown::Write)) {
            // The peer was faster.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            other => other,
        }
    }
}

impl Drop for SocketWriter {
    fn drop(&mut self) {
        // The reader may live on; the peer is told that nothing more comes.
        let _ = self.0.lock().shutdown();
    }
}
