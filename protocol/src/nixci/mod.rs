#![doc = include_str!("extension.md")]

pub mod attr_path;
pub mod control;
pub mod issuer;
pub mod markdown;
mod messages;
pub mod outcome;
pub mod report;
mod roots;
pub mod verdict;

pub use messages::{AddClosure, Bitmap, CONTROL_LINES, CONTROL_VALUE, Control, QueryValidBatch};
pub use roots::{NotARootsDigest, RootsDigest};

/// The feature under which [`OP_QUERY_VALID_BATCH`] and [`OP_ADD_CLOSURE`] exist, and sets of roots can be asked for
/// ([`RootsDigest`]).
pub const FEATURE_CLOSURE: &str = "nixci-closure-1";
/// The feature under which [`OP_CONTROL`] exists.
pub const FEATURE_CONTROL: &str = "nixci-control-1";

/// The first operation number of ours: far from Nix's own, and within the 32 bits that stock peers read.
pub const OP_BASE: u32 = 0x6e63_6900;
/// Many 20-byte path digests in one byte string, answered by a bitmap (bit *i* is bit `i % 8` of byte `i / 8`).
pub const OP_QUERY_VALID_BATCH: u32 = OP_BASE + 1;
/// A framed stream holding one zstd stream of path infos and NARs, references first.
pub const OP_ADD_CLOSURE: u32 = OP_BASE + 2;
/// One JSON [`control::Request`], answered by one JSON reply or a framed sequence of JSON lines.
pub const OP_CONTROL: u32 = OP_BASE + 3;
