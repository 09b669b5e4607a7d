use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{SocketWriter, WriteHalf};

/// What a buffer may have and stay while a peer is silent.
const KEPT: usize = 512;

/// Bytes for a peer, buffered until they are flushed.
pub(crate) struct Writer {
    inner: WriteHalf,
    pub(crate) out: BytesMut,
}

impl Writer {
    pub(crate) fn new(inner: impl AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            inner: WriteHalf::new(inner),
            out: BytesMut::new(),
        }
    }

    /// Nothing is to be said soon: an empty buffer is given back.
    pub(crate) fn rest(&mut self) {
        if self.out.is_empty() && self.out.capacity() > KEPT {
            self.out = BytesMut::new();
        }
    }

    /// Sends what is buffered. When it is cancelled, the part that was not sent stays buffered.
    pub(crate) async fn flush(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_flush(cx)).await
    }

    /// Sends what is buffered if it is much.
    pub(crate) async fn send_if_large(&mut self) -> io::Result<()> {
        if self.out.len() >= super::BUFFER {
            std::future::poll_fn(|cx| self.poll_send(cx)).await?;
        }
        Ok(())
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.out.is_empty() {
            let sent = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.out))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.advance(sent);
        }
        if self.out.capacity() > 16 * super::BUFFER {
            self.out = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }

    /// The socket that bytes go to, if it is one and nothing waits to be sent.
    pub(crate) fn socket(&self) -> Option<&SocketWriter> {
        match &self.inner {
            WriteHalf::Socket(socket) if self.out.is_empty() => Some(socket),
            WriteHalf::Socket(_) | WriteHalf::Other(_) => None,
        }
    }

    pub(crate) async fn shutdown(&mut self) -> io::Result<()> {
        self.flush().await?;
        self.inner.shutdown().await
    }
}
