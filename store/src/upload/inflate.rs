//! What somebody uploads: a zstd stream, decompressed as it is read, within limits on both sides.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};
use zstd::stream::raw::{Decoder, InBuffer, Operation, OutBuffer};

/// Compressed bytes read at once.
const BUFFER: usize = 128 * 1024;
/// The largest window a sender may ask for, as a power of two: 16 MiB of memory, which is what `nixci` uses.
const WINDOW_LOG: u32 = 24;

/// A limit on one side of a stream.
#[derive(Debug, Clone, Copy)]
pub struct Bound {
    /// Bytes at most.
    pub most: u64,
    /// What an error says after the number: how the limit is called, and what to do.
    pub advice: &'static str,
}

/// The limits of one stream.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// Of what comes in.
    pub compressed: Bound,
    /// Of what comes out.
    pub unpacked: Bound,
}

/// Reads the content of one or more zstd frames.
pub struct Inflate<R> {
    inner: R,
    decoder: Decoder<'static>,
    buffer: Box<[u8]>,
    /// What of the buffer is filled and not yet decompressed.
    start: usize,
    end: usize,
    /// The frame being read is not complete.
    inside: bool,
    /// The decoder had more to give than there was room for.
    full: bool,
    bounds: Bounds,
    compressed: u64,
    unpacked: u64,
}

impl<R: AsyncRead + Unpin> Inflate<R> {
    /// Begins to read. A sender may ask for a window of 16 MiB at most, which is the memory this takes.
    ///
    /// What exceeds a limit, ends in the middle or is no zstd is an error of the reader, and its text is for people.
    pub fn new(inner: R, bounds: Bounds) -> io::Result<Self> {
        let mut decoder = Decoder::new()?;
        decoder.set_parameter(zstd::zstd_safe::DParameter::WindowLogMax(WINDOW_LOG))?;
        Ok(Self {
            inner,
            decoder,
            buffer: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            inside: false,
            full: false,
            bounds,
            compressed: 0,
            unpacked: 0,
        })
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut buffer = ReadBuf::new(&mut self.buffer);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut buffer))?;
        let filled = buffer.filled().len();
        self.compressed += filled as u64;
        let Bound { most, advice } = self.bounds.compressed;
        if self.compressed > most {
            return Poll::Ready(Err(io::Error::other(format!(
                "the closure has more than {most} compressed bytes {advice}"
            ))));
        }
        (self.start, self.end) = (0, filled);
        Poll::Ready(Ok(filled))
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Inflate<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        loop {
            if this.start == this.end && !this.full && ready!(this.poll_fill(cx))? == 0 {
                if !this.inside {
                    return Poll::Ready(Ok(()));
                }
                return Poll::Ready(Err(io::Error::new(
                    io::ErrorKind::UnexpectedEof,
                    "the compressed closure ends in the middle",
                )));
            }
            let mut input = InBuffer::around(&this.buffer[this.start..this.end]);
            let space = out.initialize_unfilled();
            let output_space = space.len();
            let mut output = OutBuffer::around(space);
            let hint = this.decoder.run(&mut input, &mut output).map_err(|error| {
                let window = 1_u32 << (WINDOW_LOG - 20);
                let said = format!("the closure is not zstd with a window of at most {window} MiB: {error}");
                io::Error::new(io::ErrorKind::InvalidData, said)
            })?;
            this.start += input.pos();
            let written = output.pos();
            this.inside = hint != 0;
            this.full = written == output_space;
            if written > 0 {
                this.unpacked += written as u64;
                let Bound { most, advice } = this.bounds.unpacked;
                if this.unpacked > most {
                    return Poll::Ready(Err(io::Error::other(format!(
                        "the closure has more than {most} bytes {advice}"
                    ))));
                }
                out.advance(written);
                return Poll::Ready(Ok(()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    const WIDE: Bounds = Bounds {
        compressed: most(1 << 30),
        unpacked: most(1 << 30),
    };

    const fn most(most: u64) -> Bound {
        Bound { most, advice: "here" }
    }

    async fn inflate(bytes: &[u8], bounds: Bounds) -> io::Result<Vec<u8>> {
        let mut content = Vec::new();
        Inflate::new(bytes, bounds)?.read_to_end(&mut content).await?;
        Ok(content)
    }

    #[tokio::test]
    async fn content_comes_back_and_limits_hold() {
        let content: Vec<u8> = (0..2_000_000_u32).flat_map(|n| (n / 7).to_le_bytes()).collect();
        let packed = zstd::encode_all(&content[..], 3).unwrap();
        assert!(inflate(&packed, WIDE).await.unwrap() == content);
        let two = [packed.clone(), packed.clone()].concat();
        assert_eq!(inflate(&two, WIDE).await.unwrap().len(), content.len() * 2);
        for (bounds, key) in [
            (
                Bounds {
                    compressed: most(1_000),
                    ..WIDE
                },
                "than 1000 compressed bytes here",
            ),
            (
                Bounds {
                    unpacked: most(1_000_000),
                    ..WIDE
                },
                "than 1000000 bytes here",
            ),
        ] {
            let error = inflate(&packed, bounds).await.unwrap_err().to_string();
            assert!(error.contains(key), "{error}");
        }
    }

    #[tokio::test]
    async fn a_cut_or_wrong_stream_is_an_error() {
        let packed = zstd::encode_all(&vec![7_u8; 1 << 20][..], 3).unwrap();
        let error = inflate(&packed[..packed.len() - 1], WIDE).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        let error = inflate(b"this is not zstd at all", WIDE).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
