//! The reading half of a connection, which ends when the daemon stops.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

/// Reads until the token is cancelled; then the stream is at its end, as if the client had hung up. An
/// upload is parked this way: what arrived whole is kept, and the client negotiates only the rest.
pub(crate) struct Parked<R> {
    inner: R,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<R> Parked<R> {
    pub(crate) fn new(inner: R, token: CancellationToken) -> Self {
        Self {
            inner,
            stopped: Box::pin(token.cancelled_owned()),
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Parked<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(cx, out)
    }
}
