//! How two sides agree on version and features: one state machine for each, without a socket.
//!
//! Each is fed what arrived and appends what is to be sent; it consumes whole items and leaves the rest. After
//! [`ClientHandshake`] is done the server's log follows, as after an operation: it ends in success, or in the reason
//! why the server will not serve.

mod client;
mod server;

use std::collections::BTreeSet;

use bytes::BytesMut;

use crate::nixci::RootsDigest;
use crate::types::{StoreDir, Trust};
use crate::version::Version;
pub use client::ClientHandshake;
pub use server::ServerHandshake;

use crate::wire::primitive::{put_number, put_string, text};
use crate::wire::{Limits, Negotiated, Parsed, WireError};

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const SERVER_MAGIC: u64 = 0x6478_696f;

/// Why there is no agreement.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The first word is another.
    #[error("the peer does not speak the Nix worker protocol: it began with {found:#x} instead of {expected:#x}")]
    Magic {
        /// What it begins with.
        expected: u64,
        /// What there was.
        found: u64,
    },
    /// No version both know.
    #[error("the peer speaks protocol {0}, we need 1.18 or a later 1.x")]
    Version(Version),
    /// More features than allowed.
    #[error("the peer lists {count} features, which exceeds max_features ({max})")]
    Features {
        /// How many.
        count: u64,
        /// The limit.
        max: u64,
    },
    /// An item is malformed.
    #[error("the peer's handshake is malformed: {0}")]
    Wire(#[from] WireError),
}

/// What one side brings along.
#[derive(Debug, Clone)]
pub struct Offer {
    /// The highest version it speaks.
    pub version: Version,
    /// The features it knows.
    pub features: Vec<String>,
    /// The directory of all paths; not part of the handshake.
    pub store_dir: StoreDir,
    /// What it takes into memory; not part of the handshake.
    pub limits: Limits,
}

impl Default for Offer {
    fn default() -> Self {
        Self {
            version: Version::MAX,
            features: Vec::new(),
            store_dir: StoreDir::default(),
            limits: Limits::default(),
        }
    }
}

/// What a client has agreed on, and what the server said of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Agreed {
    /// Version and features.
    pub negotiated: Negotiated,
    /// The server's version text. Since 1.33.
    pub daemon_version: Option<String>,
    /// Whether it trusts the client. Since 1.35.
    pub trust: Trust,
}

/// How far a handshake has come.
#[derive(Debug)]
pub struct Progress<T> {
    /// Bytes of the input that are done with.
    pub consumed: usize,
    /// The agreement, when it is complete.
    pub done: Option<T>,
}

/// Features as they arrive; of those we do not know only the number is kept.
#[derive(Debug)]
struct PeerFeatures {
    left: u64,
    common: BTreeSet<String>,
    /// The first set of roots among them.
    roots: Option<RootsDigest>,
}

/// The negotiated version of both sides.
fn common_version(ours: Version, theirs: Version) -> Result<Version, HandshakeError> {
    let common = ours.min(theirs);
    // A stock server takes a client of any major; the minimum is what counts.
    if common < Version::MIN || common.major != 1 {
        return Err(HandshakeError::Version(theirs));
    }
    Ok(common)
}

fn put_features(features: &BTreeSet<String>, out: &mut BytesMut) {
    put_number(features.len() as u64, out);
    for feature in features {
        put_string(feature.as_bytes(), out);
    }
}

/// Takes one item off the front of the input: none while it is incomplete.
fn item<'i, T>(
    input: &mut &'i [u8],
    parser: impl FnOnce(&'i [u8]) -> Parsed<'i, T>,
) -> Result<Option<T>, HandshakeError> {
    match parser(input) {
        Ok((rest, value)) => {
            *input = rest;
            Ok(Some(value))
        }
        Err(nom::Err::Incomplete(_)) => Ok(None),
        Err(nom::Err::Error(error) | nom::Err::Failure(error)) => Err(error.into()),
    }
}

impl PeerFeatures {
    fn begin(count: u64, limits: &Limits) -> Result<Self, HandshakeError> {
        let max = limits.max_features;
        if count > max {
            return Err(HandshakeError::Features { count, max });
        }
        Ok(Self {
            left: count,
            common: BTreeSet::new(),
            roots: None,
        })
    }

    /// Whether all have arrived.
    fn take(&mut self, offer: &Offer, input: &mut &[u8]) -> Result<bool, HandshakeError> {
        while self.left > 0 {
            let Some(feature) = item(input, |rest| text(offer.limits.string(), rest))? else {
                return Ok(false);
            };
            self.left -= 1;
            if offer.features.iter().any(|known| known == feature) {
                self.common.insert(feature.to_owned());
            } else if self.roots.is_none() {
                self.roots = RootsDigest::from_feature(feature);
            }
        }
        Ok(true)
    }
}

fn magic(expected: u64, found: u64) -> Result<(), HandshakeError> {
    if found == expected {
        Ok(())
    } else {
        Err(HandshakeError::Magic { expected, found })
    }
}

fn negotiated(offer: &Offer, version: Version, features: BTreeSet<String>) -> Negotiated {
    Negotiated {
        version,
        features,
        store_dir: offer.store_dir.clone(),
        limits: offer.limits.clone(),
    }
}

enum Step<T> {
    Waits,
    Went,
    Arrived(T),
}

#[cfg(test)]
mod tests;
