use nom::error::{ErrorKind, ParseError};

use super::Limit;
use crate::types::{
    ContentAddressError, DerivedPathError, DrvOutputError, HashError, NotADerivation, RealisationError, SignatureError,
    StoreDirError, StorePathError,
};

/// Why bytes are not the value they should be. After it, nothing more can be understood of the stream.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Longer than allowed.
    #[error("string of {length} bytes exceeds {} ({})", .limit.name, .limit.max)]
    StringTooLong {
        /// Its length.
        length: u64,
        /// The limit.
        limit: Limit,
    },
    /// More items than allowed.
    #[error("list of {count} items exceeds {} ({})", .limit.name, .limit.max)]
    TooManyItems {
        /// Their number.
        count: u64,
        /// The limit.
        limit: Limit,
    },
    /// All fields together are longer than allowed.
    #[error("message of over {} bytes exceeds {}", .limit.max, .limit.name)]
    MessageTooLong {
        /// The limit.
        limit: Limit,
    },
    /// A frame is longer than allowed.
    #[error("frame of {length} bytes exceeds {} ({})", .limit.name, .limit.max)]
    FrameTooLong {
        /// Its length.
        length: u64,
        /// The limit.
        limit: Limit,
    },
    /// A byte after a string is not zero.
    #[error("string of {length} bytes is padded with {byte:#04x}, not with zeros")]
    Padding {
        /// The string's length.
        length: u64,
        /// The byte.
        byte: u8,
    },
    /// A number that stands for nothing there.
    #[error("{value} is not a valid {what}")]
    Tag {
        /// What it should be.
        what: &'static str,
        /// The number.
        value: u64,
    },
    /// A string that must be UTF-8 is not.
    #[error("a string is not UTF-8: {0:?}")]
    Utf8(String),
    /// A string that must be a certain word is another.
    #[error("expected the word {expected:?}, found {found:?}")]
    Word {
        /// The word.
        expected: &'static str,
        /// What there is.
        found: String,
    },
    /// The digests of `QueryValidBatch` are not a multiple of twenty bytes.
    #[error("{0} bytes of digests are not a multiple of 20")]
    Digests(usize),
    /// Not a store path.
    #[error(transparent)]
    StorePath(#[from] StoreDirError),
    /// Not the base name of a store path, or not a name.
    #[error(transparent)]
    Name(#[from] StorePathError),
    /// Not a hash.
    #[error(transparent)]
    Hash(#[from] HashError),
    /// Not a content address.
    #[error(transparent)]
    ContentAddress(#[from] ContentAddressError),
    /// Not a signature.
    #[error(transparent)]
    Signature(#[from] SignatureError),
    /// Not a derived path.
    #[error(transparent)]
    DerivedPath(#[from] DerivedPathError),
    /// Not the path of a derivation.
    #[error(transparent)]
    Derivation(#[from] NotADerivation),
    /// Not a derivation output.
    #[error(transparent)]
    DrvOutput(#[from] DrvOutputError),
    /// Not a realisation.
    #[error(transparent)]
    Realisation(#[from] RealisationError),
    /// An operation that does not exist, or not on this connection.
    #[error("invalid operation {0}")]
    Operation(u64),
    /// A message on the log channel that does not exist, or not here.
    #[error("unexpected message {0:#x} on the log channel")]
    LogMessage(u64),
    /// The bytes end in the middle of a value.
    #[error("the bytes end in the middle of a value")]
    Incomplete,
    /// There are bytes after the value.
    #[error("{0} bytes follow the value")]
    Surplus(usize),
    /// A combinator of nom refused; none of ours lets it.
    #[error("malformed value ({0:?})")]
    Malformed(ErrorKind),
}

impl ParseError<&[u8]> for WireError {
    fn from_error_kind(_: &[u8], kind: ErrorKind) -> Self {
        Self::Malformed(kind)
    }

    fn append(_: &[u8], _: ErrorKind, other: Self) -> Self {
        other
    }
}
