//! A writer that compresses what it passes on.

use std::io::{self, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncWrite, AsyncWriteExt as _};
use zstd::stream::write::Encoder;
use zstd::zstd_safe::CParameter;

/// The level from which on more work saves little.
const LEVEL: i32 = 3;
/// How far back repetitions are found, as a power of two: 16 MiB, which also is what the reader needs. Derivations repeat
/// each other over long distances.
const WINDOW_LOG: u32 = 24;
/// How much compressed data may wait.
const WAITING: usize = 64 * 1024;

/// Compresses with zstd.
pub(super) struct Compressed<W> {
    encoder: Encoder<'static, Vec<u8>>,
    /// How much of the encoder's output was passed on.
    passed: usize,
    inner: W,
}

impl<W: AsyncWrite + Unpin> Compressed<W> {
    pub(super) fn new(inner: W) -> io::Result<Self> {
        let mut encoder = Encoder::new(Vec::with_capacity(2 * WAITING), LEVEL)?;
        encoder.set_parameter(CParameter::EnableLongDistanceMatching(true))?;
        encoder.set_parameter(CParameter::WindowLog(WINDOW_LOG))?;
        Ok(Self {
            encoder,
            passed: 0,
            inner,
        })
    }

    /// Ends the stream, and returns what it went to.
    pub(super) async fn finish(mut self) -> io::Result<W> {
        let rest = self.encoder.finish()?;
        self.inner.write_all(&rest[self.passed..]).await?;
        Ok(self.inner)
    }

    fn poll_pass_on(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.passed < self.encoder.get_ref().len() {
            let taken = ready!(Pin::new(&mut self.inner).poll_write(cx, &self.encoder.get_ref()[self.passed..]))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.passed += taken;
        }
        self.encoder.get_mut().clear();
        self.passed = 0;
        Poll::Ready(Ok(()))
    }
}

impl<W: AsyncWrite + Unpin> AsyncWrite for Compressed<W> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.encoder.get_ref().len() >= WAITING {
            ready!(self.poll_pass_on(cx))?;
        }
        Poll::Ready(self.encoder.write(bytes))
    }

    /// Passes on what is compressed; what the compressor still looks at stays with it.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pass_on(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_pass_on(cx))?;
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
