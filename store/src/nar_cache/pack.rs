//! Packing a NAR while it streams, and checking that it is the NAR that was promised.

use std::collections::VecDeque;
use std::fmt;
use std::io;

use bytes::{Bytes, BytesMut};
use nixci_protocol::op::Nar;
use nixci_protocol::types::NarHash;
use sha2::{Digest, Sha256};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::task::JoinHandle;

/// Bytes of a NAR in one frame. Small enough that many streams fit in memory, large enough to compress well.
pub const BLOCK: usize = 1 << 20;
/// Blocks up to this size are packed where they are; a thread costs more.
const SMALL: usize = 32 * 1024;
/// Blocks of one NAR that are packed at once, where there are as many cores.
const AHEAD: usize = 4;

/// Why a NAR could not be packed to its end.
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    /// Whoever has it could not go on.
    #[error("failed to read the NAR after {at} bytes")]
    Source {
        /// Bytes read before.
        at: u64,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// It ended too early.
    #[error("the NAR ended after {at} of {size} bytes")]
    Short {
        /// Bytes there were.
        at: u64,
        /// Bytes that were promised.
        size: u64,
    },
    /// It is another NAR than was promised.
    #[error("the NAR has the hash {found}, but {expected} was promised")]
    Hash {
        /// The hash of what came.
        found: NarHash,
        /// The promise.
        expected: NarHash,
    },
    /// The compressor failed.
    #[error("failed to compress")]
    Compress(#[source] io::Error),
}

/// Packs a NAR into zstd frames of [`BLOCK`] bytes each. The last frame is given out only when the hash of the whole was
/// found to be the promised one, so that nobody takes a wrong NAR for a whole one.
///
/// The same NAR packed at the same level is the same bytes, however it came in.
pub struct Packer {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    level: i32,
    size: u64,
    left: u64,
    expected: NarHash,
    block: BytesMut,
    ahead: usize,
    hashing: Hashing,
    frames: VecDeque<Frame>,
}

enum Hashing {
    Here(Sha256),
    There(JoinHandle<Sha256>),
    Over,
}

enum Frame {
    Ready(Bytes),
    Coming(JoinHandle<io::Result<Bytes>>),
}

impl Packer {
    /// Packs this NAR, which must have this hash. Levels are those of zstd.
    #[must_use]
    pub fn new(nar: Nar, expected: NarHash, level: i32) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self {
            reader: nar.reader,
            level,
            size: nar.size,
            left: nar.size,
            expected,
            block: BytesMut::new(),
            ahead: cores.clamp(1, AHEAD),
            hashing: Hashing::Here(Sha256::new()),
            frames: VecDeque::new(),
        }
    }

    /// The next frame; none after the last one. After an error nothing more may be asked.
    pub async fn next(&mut self) -> Result<Option<Bytes>, PackError> {
        while self.left > 0 && self.frames.len() < self.ahead {
            let block = self.read().await?;
            self.begin(block).await?;
        }
        let Some(frame) = self.frames.pop_front() else {
            return Ok(None);
        };
        let frame = match frame {
            Frame::Ready(frame) => frame,
            Frame::Coming(frame) => frame
                .await
                .map_err(io::Error::other)
                .flatten()
                .map_err(PackError::Compress)?,
        };
        if self.left == 0 && self.frames.is_empty() {
            let found = NarHash(self.hasher().await?.finalize().into());
            if found != self.expected {
                let expected = self.expected;
                return Err(PackError::Hash { found, expected });
            }
        }
        Ok(Some(frame))
    }

    async fn read(&mut self) -> Result<Bytes, PackError> {
        let want = usize::try_from(self.left).map_or(BLOCK, |left| left.min(BLOCK));
        self.block.reserve(want.saturating_sub(self.block.len()));
        while self.block.len() < want {
            let at = self.size - self.left + self.block.len() as u64;
            let mut rest = (&mut self.reader).take((want - self.block.len()) as u64);
            match rest.read_buf(&mut self.block).await {
                Ok(0) => return Err(PackError::Short { at, size: self.size }),
                Ok(_) => {}
                Err(source) => return Err(PackError::Source { at, source }),
            }
        }
        self.left -= want as u64;
        Ok(self.block.split().freeze())
    }

    /// Hashes and compresses a block, each on its own thread where it is worth one.
    async fn begin(&mut self, block: Bytes) -> Result<(), PackError> {
        let mut hasher = self.hasher().await?;
        let level = self.level;
        if block.len() <= SMALL {
            hasher.update(&block);
            self.hashing = Hashing::Here(hasher);
            let frame = compress(&block, level).map_err(PackError::Compress)?;
            self.frames.push_back(Frame::Ready(frame));
        } else {
            let same = block.clone();
            self.hashing = Hashing::There(tokio::task::spawn_blocking(move || {
                hasher.update(&same);
                hasher
            }));
            let frame = tokio::task::spawn_blocking(move || compress(&block, level));
            self.frames.push_back(Frame::Coming(frame));
        }
        Ok(())
    }

    async fn hasher(&mut self) -> Result<Sha256, PackError> {
        match std::mem::replace(&mut self.hashing, Hashing::Over) {
            Hashing::Here(hasher) => Ok(hasher),
            Hashing::There(hasher) => hasher.await.map_err(|gone| PackError::Compress(io::Error::other(gone))),
            Hashing::Over => Err(PackError::Compress(io::Error::other("the NAR was packed before"))),
        }
    }
}

/// One frame, with a checksum of its own.
fn compress(block: &[u8], level: i32) -> io::Result<Bytes> {
    let mut compressor = zstd::bulk::Compressor::new(level)?;
    compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
    compressor.compress(block).map(Bytes::from)
}

impl fmt::Debug for Packer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packer")
            .field("size", &self.size)
            .field("left", &self.left)
            .finish_non_exhaustive()
    }
}
