use std::io;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use crate::io::{BUFFER, NarPart, NarScanner, Reader, Writer};
use crate::log::Incoming;
use crate::op::BodyKind;
use crate::wire::primitive::padding;
use crate::wire::{Negotiated, Wire};

/// Bytes asked for at once where the server asks.
const PULLED: u64 = 32 * 1024;

/// Both directions of a connection: buffered bytes, and where in a body those of the client are.
///
/// A handler, the body and the watch for a hang-up all look at it while a request is answered. The lock is taken
/// within a poll only.
pub(super) struct Wires {
    state: Mutex<State>,
}

pub(super) struct State {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) body: Body,
}

/// How far a body has been read.
#[derive(Debug, Default)]
pub(super) enum Body {
    /// There is nothing more.
    #[default]
    Ended,
    /// Frames.
    Framed {
        /// Bytes left in the current one.
        left: u64,
    },
    /// Chunks of a NAR that are asked for.
    Pulled { nar: NarScanner, chunk: Chunk },
    /// A bare NAR.
    Nar {
        nar: NarScanner,
        /// Whether only the content of the one file in it counts.
        of_file: bool,
    },
    /// It is not what it should be, and nobody knows where it ends.
    Broken(String),
}

#[derive(Debug)]
pub(super) enum Chunk {
    /// To be asked for.
    Wanted,
    /// Asked for; the question may not have been sent yet.
    Asked,
    /// Arriving.
    Arriving { left: u64, padding: usize },
}

impl Body {
    pub(super) fn new(kind: BodyKind) -> Self {
        let nar = NarScanner::new();
        match kind {
            BodyKind::None => Self::Ended,
            BodyKind::Framed => Self::Framed { left: 0 },
            BodyKind::Pulled => Self::Pulled {
                nar,
                chunk: Chunk::Wanted,
            },
            BodyKind::Nar => Self::Nar { nar, of_file: false },
            BodyKind::NarOfFile => Self::Nar { nar, of_file: true },
        }
    }

    /// Whether the client would still send something of it by itself.
    pub(super) fn is_owed(&self) -> bool {
        match self {
            Self::Framed { .. } | Self::Nar { .. } => true,
            Self::Pulled { chunk, .. } => !matches!(chunk, Chunk::Wanted),
            Self::Ended | Self::Broken(_) => false,
        }
    }
}

impl Wires {
    pub(super) fn new(reader: Reader, writer: Writer) -> Self {
        Self {
            state: Mutex::new(State {
                reader,
                writer,
                body: Body::Ended,
            }),
        }
    }

    /// The state, while no handler runs.
    pub(super) fn state(&mut self) -> &mut State {
        self.state.get_mut().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held; and if it did, a state in the middle would only end this connection.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is to be sent.
    pub(super) async fn flush(&self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.lock().writer.poll_flush(cx)).await
    }

    /// Sends what is to be sent if it is much.
    pub(super) async fn send_if_large(&self) -> io::Result<()> {
        if self.lock().writer.out.len() < BUFFER {
            return Ok(());
        }
        self.flush().await
    }

    /// Ready when the client has gone, unless something of a body is still to be read: then reading it says so.
    ///
    /// A handler that waits holds up nothing: answers and log messages that were kept back to go out together go out here.
    pub(super) async fn hang_up(&self) {
        std::future::poll_fn(|cx| {
            let mut state = self.lock();
            // A failure stays: the reply cannot be sent either.
            let _ = state.writer.poll_flush(cx);
            match state.body {
                Body::Ended => state.reader.poll_hang_up(cx),
                Body::Framed { .. } | Body::Pulled { .. } | Body::Nar { .. } | Body::Broken(_) => Poll::Pending,
            }
        })
        .await;
    }
}

/// What follows a request: the bytes of its frames, to the end of the last.
///
/// A body that is malformed or breaks off is an error of kind [`io::ErrorKind::InvalidData`] or
/// [`io::ErrorKind::UnexpectedEof`], and the connection ends after the request.
pub struct FramedBody<'a> {
    pub(super) wires: &'a Wires,
    pub(super) on: &'a Negotiated,
    /// Whether more may be asked for where the server asks.
    pub(super) may_ask: bool,
}

impl AsyncRead for FramedBody<'_> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut state = this.wires.lock();
        let state = &mut *state;
        if out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(poll_body(state, this, cx, out));
        if let Err(error) = &result {
            state.body = Body::Broken(error.to_string());
        }
        Poll::Ready(result)
    }
}

fn poll_body(
    state: &mut State,
    FramedBody { on, may_ask, .. }: &FramedBody<'_>,
    cx: &mut Context<'_>,
    out: &mut ReadBuf<'_>,
) -> Poll<io::Result<()>> {
    let State { reader, writer, body } = state;
    loop {
        match body {
            Body::Ended => return Poll::Ready(Ok(())),
            Body::Broken(message) => return Poll::Ready(Err(invalid(message.clone()))),
            Body::Framed { left: 0 } => {
                let length = ready!(poll_number(reader, cx))?;
                if length == 0 {
                    *body = Body::Ended;
                    continue;
                }
                let max = on.limits.max_frame;
                if length > max {
                    return Poll::Ready(Err(invalid(format!(
                        "frame of {length} bytes exceeds max_frame ({max})"
                    ))));
                }
                *body = Body::Framed { left: length };
            }
            Body::Framed { left } => {
                ready!(poll_some(reader, cx))?;
                let taken = take(reader, *left, out);
                *left -= taken as u64;
                return Poll::Ready(Ok(()));
            }
            Body::Nar { nar, of_file } => {
                if nar.is_done() {
                    *body = Body::Ended;
                    continue;
                }
                ready!(poll_some(reader, cx))?;
                let room = out.remaining().min(reader.buffered().len());
                let (taken, part) = nar
                    .advance(&reader.buffered()[..room])
                    .map_err(|e| invalid(e.to_string()))?;
                if *of_file && !nar.may_be_file() {
                    return Poll::Ready(Err(invalid("expected the NAR of a single file".to_owned())));
                }
                let counts = !*of_file || part == NarPart::Content;
                if counts {
                    out.put_slice(&reader.buffered()[..taken]);
                }
                reader.consume(taken);
                if counts && taken > 0 {
                    return Poll::Ready(Ok(()));
                }
            }
            Body::Pulled { nar, chunk } => match chunk {
                Chunk::Wanted if nar.is_done() => *body = Body::Ended,
                Chunk::Wanted if !*may_ask => return Poll::Ready(Ok(())),
                Chunk::Wanted => {
                    Incoming::Read(PULLED).encode(on, &mut writer.out);
                    *chunk = Chunk::Asked;
                }
                Chunk::Asked => {
                    ready!(writer.poll_flush(cx))?;
                    let left = ready!(poll_number(reader, cx))?;
                    if left == 0 || left > PULLED {
                        let text = format!("asked for 1 to {PULLED} bytes of a NAR, got {left}");
                        return Poll::Ready(Err(invalid(text)));
                    }
                    let padding = padding(left);
                    *chunk = Chunk::Arriving { left, padding };
                }
                Chunk::Arriving { left: 0, padding } => {
                    if *padding == 0 {
                        *chunk = Chunk::Wanted;
                        continue;
                    }
                    ready!(poll_some(reader, cx))?;
                    if reader.buffered()[0] != 0 {
                        return Poll::Ready(Err(invalid("a piece of a NAR is not padded with zeros".to_owned())));
                    }
                    reader.consume(1);
                    *padding -= 1;
                }
                Chunk::Arriving { left, .. } => {
                    ready!(poll_some(reader, cx))?;
                    // Looked at before it is handed out: a reader that fails must not have given anything.
                    let piece = piece(reader, *left, out);
                    let pushed = nar.push(piece).map_err(|e| invalid(e.to_string()))?;
                    if pushed < piece.len() {
                        return Poll::Ready(Err(invalid("bytes follow the end of a NAR".to_owned())));
                    }
                    *left -= take(reader, *left, out) as u64;
                    return Poll::Ready(Ok(()));
                }
            },
        }
    }
}

/// What is buffered, at most `left` bytes and what there is room for.
fn piece<'r>(reader: &'r Reader, left: u64, out: &ReadBuf<'_>) -> &'r [u8] {
    let available = reader.buffered().len().min(out.remaining());
    &reader.buffered()[..available.min(usize::try_from(left).unwrap_or(usize::MAX))]
}

/// Moves that, and says how much it was.
fn take(reader: &mut Reader, left: u64, out: &mut ReadBuf<'_>) -> usize {
    let piece = piece(reader, left, out);
    let taken = piece.len();
    out.put_slice(piece);
    reader.consume(taken);
    taken
}

/// Waits until something is buffered.
fn poll_some(reader: &mut Reader, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    poll_least(reader, 1, cx)
}

fn poll_number(reader: &mut Reader, cx: &mut Context<'_>) -> Poll<io::Result<u64>> {
    ready!(poll_least(reader, 8, cx))?;
    let number = reader
        .buffered()
        .first_chunk()
        .map_or(0, |bytes| u64::from_le_bytes(*bytes));
    reader.consume(8);
    Poll::Ready(Ok(number))
}

fn poll_least(reader: &mut Reader, bytes: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    while reader.buffered().len() < bytes {
        if ready!(reader.poll_fill(cx))? == 0 {
            let text = "the client hung up in the middle of what it sent";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
    }
    Poll::Ready(Ok(()))
}

fn invalid(message: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message)
}
