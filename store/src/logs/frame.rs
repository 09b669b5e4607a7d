//! The file: pairs of a skippable frame that says how long the next one is, and a zstd frame with whole entries.
//!
//! ```text
//! u32 magic of a skippable frame   u32 12   u32 packed bytes   u32 entry bytes   u32 lines   zstd frame (checksummed)
//! ```
//!
//! All numbers are little-endian. The lengths make it possible to find the end of a log without unpacking it, and to
//! tell a file that was cut off from one that has ended.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use super::{FRAME_BYTES, LINE_BYTES};

const MAGIC: u32 = 0x184D_2A5C;
const HEADER: usize = 20;
const LEVEL: i32 = 3;
/// No frame of ours unpacks to more: what collects before it is written, the line that filled it, and markers.
const CONTENT_LIMIT: u32 = (FRAME_BYTES + LINE_BYTES + 4096) as u32;

/// Where a frame is, and what it promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    at: u64,
    packed: u32,
    content: u32,
    /// Lines of the builder in it.
    pub(super) lines: u32,
}

/// What is at a place in a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// A frame.
    Frame(Place),
    /// The file ends here.
    End,
    /// It is cut off or damaged from here on.
    Broken,
}

impl Place {
    /// Where the next frame begins.
    pub(super) fn end(&self) -> u64 {
        self.at + HEADER as u64 + u64::from(self.packed)
    }
}

/// Packs entries.
pub(super) fn pack(content: &[u8], lines: u32) -> io::Result<Vec<u8>> {
    let mut compressor = zstd::bulk::Compressor::new(LEVEL)?;
    compressor.set_parameter(zstd::zstd_safe::CParameter::ChecksumFlag(true))?;
    let packed = compressor.compress(content)?;
    let mut frame = Vec::with_capacity(HEADER + packed.len());
    for number in [MAGIC, 12, packed.len() as u32, content.len() as u32, lines] {
        frame.extend_from_slice(&number.to_le_bytes());
    }
    frame.extend_from_slice(&packed);
    Ok(frame)
}

/// Looks at the frame that begins at `at`.
pub(super) fn find(file: &File, at: u64) -> io::Result<Found> {
    let length = file.metadata()?.len();
    if at >= length {
        return Ok(Found::End);
    }
    let mut header = [0; HEADER];
    match file.read_exact_at(&mut header, at) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(Found::Broken),
        Err(error) => return Err(error),
    }
    let number = |i: usize| u32::from_le_bytes([header[i], header[i + 1], header[i + 2], header[i + 3]]);
    let place = Place {
        at,
        packed: number(8),
        content: number(12),
        lines: number(16),
    };
    let sound = number(0) == MAGIC && number(4) == 12 && place.content <= CONTENT_LIMIT && place.end() <= length;
    Ok(if sound { Found::Frame(place) } else { Found::Broken })
}

/// Unpacks a frame; none if it is damaged.
pub(super) fn unpack(file: &File, place: Place) -> io::Result<Option<Vec<u8>>> {
    let mut packed = vec![0; place.packed as usize];
    match file.read_exact_at(&mut packed, place.at + HEADER as u64) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let content = zstd::bulk::decompress(&packed, place.content as usize).ok();
    Ok(content.filter(|content| content.len() == place.content as usize))
}
