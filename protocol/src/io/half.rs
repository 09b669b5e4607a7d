//! What bytes come from and go to: a socket of which more can be asked, or anything else.

use std::any::Any;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{SocketReader, SocketWriter};

/// What bytes come from.
pub(crate) enum ReadHalf {
    Socket(SocketReader),
    Other(Box<dyn AsyncRead + Send + Unpin>),
}

/// Where bytes go.
pub(crate) enum WriteHalf {
    Socket(SocketWriter),
    Other(Box<dyn AsyncWrite + Send + Unpin>),
}

/// Takes the value if it is a `K`.
fn known<T: 'static, K: 'static>(value: &mut Option<T>) -> Option<K> {
    (value as &mut dyn Any).downcast_mut::<Option<K>>()?.take()
}

impl ReadHalf {
    pub(crate) fn new(read: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let mut read = Some(read);
        match (known(&mut read), read) {
            (Some(socket), _) => Self::Socket(socket),
            (None, Some(other)) => Self::Other(Box::new(other)),
            // It is there unless it was a socket.
            (None, None) => Self::Other(Box::new(tokio::io::empty())),
        }
    }

    /// Takes what is there, without waiting and without being woken for what comes; pending when nothing is there.
    pub(super) fn take_now(&mut self, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Socket(socket) => socket.take_now(out).map_or(Poll::Pending, Poll::Ready),
            Self::Other(read) => Pin::new(read).poll_read(&mut Context::from_waker(Waker::noop()), out),
        }
    }
}

impl AsyncRead for ReadHalf {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(socket) => Pin::new(socket).poll_read(cx, out),
            Self::Other(read) => Pin::new(read).poll_read(cx, out),
        }
    }
}

impl WriteHalf {
    pub(crate) fn new(write: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        let mut write = Some(write);
        match (known(&mut write), write) {
            (Some(socket), _) => Self::Socket(socket),
            (None, Some(other)) => Self::Other(Box::new(other)),
            // It is there unless it was a socket.
            (None, None) => Self::Other(Box::new(tokio::io::sink())),
        }
    }
}

impl AsyncWrite for WriteHalf {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Socket(socket) => Pin::new(socket).poll_write(cx, bytes),
            Self::Other(write) => Pin::new(write).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(socket) => Pin::new(socket).poll_flush(cx),
            Self::Other(write) => Pin::new(write).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Socket(socket) => Pin::new(socket).poll_shutdown(cx),
            Self::Other(write) => Pin::new(write).poll_shutdown(cx),
        }
    }
}
