//! One hash of whichever algorithm a content address names.

use md5::Md5;
use nixci_protocol::types::{Hash, HashAlgo};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};

/// A hash that is being computed.
#[derive(Debug)]
pub(super) enum Hasher {
    Md5(Md5),
    Sha1(Sha1),
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub(super) fn new(algo: HashAlgo) -> Self {
        match algo {
            HashAlgo::Md5 => Self::Md5(Md5::new()),
            HashAlgo::Sha1 => Self::Sha1(Sha1::new()),
            HashAlgo::Sha256 => Self::Sha256(Sha256::new()),
            HashAlgo::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Md5(hash) => hash.update(bytes),
            Self::Sha1(hash) => hash.update(bytes),
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The hash; never none, as each algorithm gives the number of bytes it is known for.
    pub(super) fn finish(self) -> Option<Hash> {
        match self {
            Self::Md5(hash) => Hash::from_bytes(HashAlgo::Md5, &hash.finalize()),
            Self::Sha1(hash) => Hash::from_bytes(HashAlgo::Sha1, &hash.finalize()),
            Self::Sha256(hash) => Hash::from_bytes(HashAlgo::Sha256, &hash.finalize()),
            Self::Sha512(hash) => Hash::from_bytes(HashAlgo::Sha512, &hash.finalize()),
        }
    }
}
