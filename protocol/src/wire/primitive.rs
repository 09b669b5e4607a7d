//! The grammar of single values: one small nom parser each, streaming.

use bytes::{BufMut, BytesMut};
use nom::Parser;
use nom::bytes::streaming::take;
use nom::number::streaming::le_u64;

use super::{Limit, Parsed, WireError};

const ZEROS: [u8; 8] = [0; 8];

/// `number = 8 bytes, little-endian`
pub fn number(input: &[u8]) -> Parsed<'_, u64> {
    le_u64(input)
}

/// `bool = number that is 0 or 1`
pub fn boolean(input: &[u8]) -> Parsed<'_, bool> {
    let (rest, value) = number(input)?;
    match value {
        0 => Ok((rest, false)),
        1 => Ok((rest, true)),
        _ => Err(failure(WireError::Tag { what: "bool", value })),
    }
}

/// `count = number within the limit`
pub fn count(limit: Limit, input: &[u8]) -> Parsed<'_, u64> {
    let (rest, count) = number(input)?;
    if count > limit.max {
        return Err(failure(WireError::TooManyItems { count, limit }));
    }
    Ok((rest, count))
}

/// `string = length, bytes, zeros up to a multiple of eight`
///
/// The length is checked before the bytes are waited for.
pub fn string(limit: Limit, input: &[u8]) -> Parsed<'_, &[u8]> {
    let (rest, length) = number(input)?;
    if length > limit.max {
        return Err(failure(WireError::StringTooLong { length, limit }));
    }
    // Within a limit that fits memory, so neither the cast nor the sum loses anything.
    let (rest, body) = take(length as usize).parse(rest)?;
    let (rest, padding) = take(padding(length)).parse(rest)?;
    match padding.iter().find(|byte| **byte != 0) {
        None => Ok((rest, body)),
        Some(byte) => Err(failure(WireError::Padding { length, byte: *byte })),
    }
}

/// `text = string of UTF-8`
pub fn text(limit: Limit, input: &[u8]) -> Parsed<'_, &str> {
    let (rest, body) = string(limit, input)?;
    std::str::from_utf8(body).map(|text| (rest, text)).map_err(|_| {
        let shown = String::from_utf8_lossy(&body[..body.len().min(100)]);
        failure(WireError::Utf8(shown.into_owned()))
    })
}

/// Zeros after a string of so many bytes.
#[must_use]
pub const fn padding(length: u64) -> usize {
    (length.wrapping_neg() % 8) as usize
}

/// Writes a number.
pub fn put_number(value: u64, out: &mut BytesMut) {
    out.put_u64_le(value);
}

/// Writes a string.
pub fn put_string(body: &[u8], out: &mut BytesMut) {
    out.reserve(body.len() + 16);
    out.put_u64_le(body.len() as u64);
    out.put_slice(body);
    out.put_slice(&ZEROS[..padding(body.len() as u64)]);
}

pub(crate) fn failure(error: impl Into<WireError>) -> nom::Err<WireError> {
    nom::Err::Failure(error.into())
}
