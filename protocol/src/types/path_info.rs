use std::collections::BTreeSet;

use super::{ContentAddress, NarHash, Signature, StorePath};

/// What a store knows about a valid path, without the path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnkeyedPathInfo {
    /// The derivation that built it, where known.
    pub deriver: Option<StorePath>,
    /// The SHA-256 of its NAR.
    pub nar_hash: NarHash,
    /// Paths its content names, itself included when it does.
    pub references: BTreeSet<StorePath>,
    /// Seconds since the epoch; 0 is unknown.
    pub registration_time: u64,
    /// Bytes of its NAR.
    pub nar_size: u64,
    /// Whether this very store built it. Never forwarded as true.
    pub ultimate: bool,
    /// Signatures over path, hash, size and references.
    pub signatures: BTreeSet<Signature>,
    /// What the path was made from, where it is content-addressed.
    pub ca: Option<ContentAddress>,
}

/// What a store knows about a valid path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathInfo {
    /// The path.
    pub path: StorePath,
    /// The rest.
    pub info: UnkeyedPathInfo,
}

/// What a substituter says about a path it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubstitutablePathInfo {
    /// The derivation that built it, where known.
    pub deriver: Option<StorePath>,
    /// Paths its content names.
    pub references: BTreeSet<StorePath>,
    /// Bytes to download; 0 is unknown.
    pub download_size: u64,
    /// Bytes of its NAR; 0 is unknown.
    pub nar_size: u64,
}
