//! Streams of many paths: what follows `AddMultipleToStore`, and what is compressed in `AddClosure`.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use super::BUFFER;
use crate::types::{PathInfo, StoreDir, StorePath};
use crate::version::Version;
use crate::wire::primitive::{count, number, put_number};
use crate::wire::{Limits, Negotiated, Parsed, Source, Wire, WireError, read};

/// How a stream says that there is another path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamKind {
    /// The number of paths in front: `AddMultipleToStore`.
    Counted,
    /// 1 before each, 0 at the end: `AddClosure`.
    Tagged,
}

/// Why a stream of paths broke off.
#[derive(Debug, thiserror::Error)]
pub enum PathStreamError {
    /// Not what it should be.
    #[error("malformed stream of paths: {0}")]
    Wire(#[from] WireError),
    /// It ended too early.
    #[error("the stream of paths ends after {paths} paths, in the middle of another or before its end")]
    Ended {
        /// Paths whose infos were whole.
        paths: u64,
    },
    /// There is more than it says.
    #[error("bytes follow the end of the stream of {paths} paths")]
    Followed {
        /// Paths there were.
        paths: u64,
    },
    /// The place it comes from or goes to failed.
    #[error("failed to transfer a stream of paths")]
    Io(#[source] io::Error),
    /// A NAR has not the size its info says.
    #[error("the NAR of {path} has {found} bytes, its info says {expected}")]
    Size {
        /// The path.
        path: StorePath,
        /// What the info says.
        expected: u64,
        /// Bytes there were, counted to one more than expected.
        found: u64,
    },
}

/// Whatever the connection negotiated, path infos in streams have the layout of 1.16.
fn layout(store_dir: StoreDir, limits: Limits) -> Negotiated {
    let mut on = Negotiated::plain(Version::PATH_INFO_SIGNATURES, store_dir);
    on.limits = limits;
    on
}

/// Writes a stream of paths.
#[derive(Debug)]
pub struct PathStreamWriter<W> {
    inner: W,
    on: Negotiated,
    kind: StreamKind,
    out: BytesMut,
}

impl<W: AsyncWrite + Send + Unpin> PathStreamWriter<W> {
    /// Begins a stream of exactly `paths` paths.
    pub fn new(kind: StreamKind, paths: u64, store_dir: StoreDir, inner: W) -> Self {
        let mut out = BytesMut::new();
        if kind == StreamKind::Counted {
            put_number(paths, &mut out);
        }
        let on = layout(store_dir, Limits::default());
        Self { inner, on, kind, out }
    }

    /// Adds a path and its NAR, which must have the size the info says. After an error the stream is useless.
    pub async fn add(&mut self, info: &PathInfo, nar: impl AsyncRead + Send) -> Result<(), PathStreamError> {
        if self.kind == StreamKind::Tagged {
            put_number(1, &mut self.out);
        }
        info.encode(&self.on, &mut self.out);
        let expected = info.info.nar_size;
        // One byte more, so that a longer one is noticed.
        let mut nar = pin!(nar.take(expected.saturating_add(1)));
        let mut found = 0;
        loop {
            self.out.reserve(BUFFER / 2);
            let taken = nar.read_buf(&mut self.out).await.map_err(PathStreamError::Io)?;
            found += taken as u64;
            if taken == 0 || found > expected {
                break;
            }
            if self.out.len() >= BUFFER {
                self.send().await?;
            }
        }
        if found == expected {
            return Ok(());
        }
        Err(PathStreamError::Size {
            path: info.path.clone(),
            expected,
            found,
        })
    }

    /// Ends the stream, and returns what it was written to, flushed.
    pub async fn finish(mut self) -> Result<W, PathStreamError> {
        if self.kind == StreamKind::Tagged {
            put_number(0, &mut self.out);
        }
        self.send().await?;
        self.inner.flush().await.map_err(PathStreamError::Io)?;
        Ok(self.inner)
    }

    async fn send(&mut self) -> Result<(), PathStreamError> {
        let sent = self.inner.write_all(&self.out).await.map_err(PathStreamError::Io);
        self.out.clear();
        sent
    }
}

/// Reads a stream of paths.
#[derive(Debug)]
pub struct PathStreamReader<R> {
    inner: R,
    on: Negotiated,
    kind: StreamKind,
    buffer: BytesMut,
    /// Bytes the info being read may still have.
    info_left: u64,
    /// Bytes of the current NAR that nobody took.
    nar_left: u64,
    /// Paths whose infos were read.
    paths: u64,
    /// How many there are, once that is known.
    count: Option<u64>,
    ended: bool,
}

impl<R: AsyncRead + Send + Unpin> PathStreamReader<R> {
    /// Begins to read; `inner` must end where the stream does, or later.
    pub fn new(kind: StreamKind, store_dir: StoreDir, limits: Limits, inner: R) -> Self {
        Self {
            inner,
            on: layout(store_dir, limits),
            kind,
            buffer: BytesMut::new(),
            info_left: 0,
            nar_left: 0,
            paths: 0,
            count: None,
            ended: false,
        }
    }

    /// The next path; none after the last. What nobody took of the NAR before is skipped, by the size its info said.
    pub async fn next(&mut self) -> Result<Option<PathInfo>, PathStreamError> {
        self.skip_nar().await?;
        if self.ended || !self.has_next().await? {
            self.ended = true;
            return Ok(None);
        }
        self.info_left = self.on.limits.max_message;
        let limit = self.on.limits.paths();
        if self.paths == limit.max {
            let count = self.paths + 1;
            return Err(WireError::TooManyItems { count, limit }.into());
        }
        let info: PathInfo = read(self).await?;
        self.paths += 1;
        self.nar_left = info.info.nar_size;
        Ok(Some(info))
    }

    /// The NAR of the path returned last: exactly as many bytes as its info says, or an error of kind
    /// [`io::ErrorKind::UnexpectedEof`].
    pub fn nar(&mut self) -> impl AsyncRead + Send + Unpin + '_ {
        NarOfPath(self)
    }

    /// To be called after the last path: fails where something follows the end of a tagged stream. What follows a
    /// counted one is left alone, as stock stores do.
    pub async fn end(&mut self) -> Result<(), PathStreamError> {
        if self.kind == StreamKind::Counted {
            return Ok(());
        }
        if self.buffer.is_empty() {
            self.buffer.reserve(1);
            let taken = self.inner.read_buf(&mut self.buffer).await;
            taken.map_err(PathStreamError::Io)?;
        }
        if self.buffer.is_empty() {
            return Ok(());
        }
        Err(PathStreamError::Followed { paths: self.paths })
    }

    /// What the stream was read from. Bytes that were read ahead are lost.
    pub fn into_inner(self) -> R {
        self.inner
    }

    async fn has_next(&mut self) -> Result<bool, PathStreamError> {
        self.info_left = self.on.limits.max_message;
        match (self.kind, self.count) {
            (StreamKind::Tagged, _) => match self.parse(|_, input| number(input)).await? {
                0 => Ok(false),
                1 => Ok(true),
                value => Err(WireError::Tag {
                    what: "tag of a path",
                    value,
                }
                .into()),
            },
            (StreamKind::Counted, Some(count)) => Ok(self.paths < count),
            (StreamKind::Counted, None) => {
                let paths = self.parse(|on, input| count(on.limits.paths(), input)).await?;
                self.count = Some(paths);
                Ok(paths > 0)
            }
        }
    }

    async fn skip_nar(&mut self) -> Result<(), PathStreamError> {
        while self.nar_left > 0 {
            if self.buffer.is_empty() {
                self.fill().await?;
            }
            let taken = self.nar_left.min(self.buffer.len() as u64);
            self.buffer.advance(taken as usize);
            self.nar_left -= taken;
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<(), PathStreamError> {
        self.buffer.reserve(BUFFER);
        match self.inner.read_buf(&mut self.buffer).await {
            Ok(0) => Err(PathStreamError::Ended { paths: self.paths }),
            Ok(_) => Ok(()),
            Err(error) => Err(PathStreamError::Io(error)),
        }
    }
}

impl<R: AsyncRead + Send + Unpin> Source for PathStreamReader<R> {
    type Error = PathStreamError;

    fn on(&self) -> &Negotiated {
        &self.on
    }

    async fn parse<T, P>(&mut self, parser: P) -> Result<T, PathStreamError>
    where
        T: Send,
        P: for<'i> Fn(&Negotiated, &'i [u8]) -> Parsed<'i, T> + Send,
    {
        loop {
            match parser(&self.on, &self.buffer) {
                Ok((rest, value)) => {
                    let consumed = self.buffer.len() - rest.len();
                    let limit = self.on.limits.message();
                    self.info_left = self
                        .info_left
                        .checked_sub(consumed as u64)
                        .ok_or(WireError::MessageTooLong { limit })?;
                    self.buffer.advance(consumed);
                    return Ok(value);
                }
                Err(nom::Err::Incomplete(_)) => self.fill().await?,
                Err(nom::Err::Error(error) | nom::Err::Failure(error)) => return Err(error.into()),
            }
        }
    }
}

struct NarOfPath<'a, R>(&'a mut PathStreamReader<R>);

impl<R: AsyncRead + Send + Unpin> AsyncRead for NarOfPath<'_, R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let stream = &mut *self.0;
        if stream.nar_left == 0 || out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        if stream.buffer.is_empty() {
            stream.buffer.reserve(BUFFER);
            let taken = ready!(pin!(stream.inner.read_buf(&mut stream.buffer)).poll(cx))?;
            if taken == 0 {
                let text = format!(
                    "the stream of paths ends {} bytes before the end of a NAR",
                    stream.nar_left
                );
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
            }
        }
        let taken = stream
            .buffer
            .len()
            .min(out.remaining())
            .min(usize::try_from(stream.nar_left).unwrap_or(usize::MAX));
        out.put_slice(&stream.buffer[..taken]);
        stream.buffer.advance(taken);
        stream.nar_left -= taken as u64;
        Poll::Ready(Ok(()))
    }
}
