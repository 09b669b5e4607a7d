//! How two sides agree on version and features: one state machine for each, without a socket.
//!
//! Each is fed what arrived and appends what is to be sent; it consumes whole items and leaves the rest. After
//! [`ClientHandshake`] is done the server's log follows, as after an operation: it ends in success, or in the reason
//! why the server will not serve.

use std::collections::BTreeSet;

use bytes::BytesMut;

use crate::types::{StoreDir, Trust};
use crate::version::Version;
use crate::wire::primitive::{number, put_number, put_string, text};
use crate::wire::{Limits, Negotiated, Parsed, Wire, WireError, decode};

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
    #[error("the peer lists {count} features, which exceeds max-features ({max})")]
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

fn put_features(offer: &Offer, out: &mut BytesMut) {
    let features: BTreeSet<&String> = offer.features.iter().collect();
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

/// The client's side.
#[derive(Debug)]
pub struct ClientHandshake {
    offer: Offer,
    state: ClientState,
}

#[derive(Debug)]
enum ClientState {
    Magic,
    Version,
    FeatureCount(Version),
    Features(Version, PeerFeatures),
    VersionText(Negotiated),
    Trust(Negotiated, Option<String>),
    Done,
}

impl ClientHandshake {
    /// Begins; `out` gets magic and version in one write.
    #[must_use]
    pub fn start(offer: Offer, out: &mut BytesMut) -> Self {
        put_number(CLIENT_MAGIC, out);
        put_number(offer.version.to_word(), out);
        Self {
            offer,
            state: ClientState::Magic,
        }
    }

    /// Takes what arrived.
    pub fn receive(&mut self, input: &[u8], out: &mut BytesMut) -> Result<Progress<Agreed>, HandshakeError> {
        let mut rest = input;
        let mut done = None;
        while done.is_none() {
            match self.step(&mut rest, out)? {
                Step::Waits => break,
                Step::Went => {}
                Step::Arrived(agreed) => done = Some(agreed),
            }
        }
        Ok(Progress {
            consumed: input.len() - rest.len(),
            done,
        })
    }

    fn step(&mut self, rest: &mut &[u8], out: &mut BytesMut) -> Result<Step<Agreed>, HandshakeError> {
        let state = std::mem::replace(&mut self.state, ClientState::Done);
        self.state = match state {
            ClientState::Magic => match item(rest, number)? {
                None => return Ok(self.wait(ClientState::Magic)),
                Some(found) => {
                    magic(SERVER_MAGIC, found)?;
                    ClientState::Version
                }
            },
            ClientState::Version => match item(rest, number)? {
                None => return Ok(self.wait(ClientState::Version)),
                Some(word) => {
                    let theirs = Version::from_word(word);
                    if theirs.major != 1 {
                        return Err(HandshakeError::Version(theirs));
                    }
                    let version = common_version(self.offer.version, theirs)?;
                    let with_features = version >= Version::FEATURES;
                    if with_features {
                        put_features(&self.offer, out);
                    }
                    // No CPU affinity, no reserved space: both obsolete, both read by every server.
                    put_number(0, out);
                    put_number(0, out);
                    if with_features {
                        ClientState::FeatureCount(version)
                    } else {
                        ClientState::VersionText(self.negotiated(version, BTreeSet::new()))
                    }
                }
            },
            ClientState::FeatureCount(version) => match item(rest, number)? {
                None => return Ok(self.wait(ClientState::FeatureCount(version))),
                Some(count) => ClientState::Features(version, PeerFeatures::begin(count, &self.offer.limits)?),
            },
            ClientState::Features(version, mut features) => {
                if !features.take(&self.offer, rest)? {
                    return Ok(self.wait(ClientState::Features(version, features)));
                }
                ClientState::VersionText(self.negotiated(version, features.common))
            }
            ClientState::VersionText(negotiated) if negotiated.version < Version::VERSION_TEXT => {
                ClientState::Trust(negotiated, None)
            }
            ClientState::VersionText(negotiated) => {
                match item(rest, |rest| text(negotiated.limits.string(), rest).map(own))? {
                    None => return Ok(self.wait(ClientState::VersionText(negotiated))),
                    Some(version) => ClientState::Trust(negotiated, Some(version)),
                }
            }
            ClientState::Trust(negotiated, daemon_version) => {
                let trust = if negotiated.version < Version::TRUST {
                    Trust::Unknown
                } else {
                    match decode(&negotiated, rest) {
                        Ok((trust, after)) => {
                            *rest = &rest[rest.len() - after.len()..];
                            trust
                        }
                        Err(WireError::Incomplete) => {
                            return Ok(self.wait(ClientState::Trust(negotiated, daemon_version)));
                        }
                        Err(error) => return Err(error.into()),
                    }
                };
                return Ok(Step::Arrived(Agreed {
                    negotiated,
                    daemon_version,
                    trust,
                }));
            }
            ClientState::Done => return Ok(Step::Waits),
        };
        Ok(Step::Went)
    }

    fn wait(&mut self, state: ClientState) -> Step<Agreed> {
        self.state = state;
        Step::Waits
    }

    fn negotiated(&self, version: Version, features: BTreeSet<String>) -> Negotiated {
        negotiated(&self.offer, version, features)
    }
}

fn own<'i>((rest, text): (&'i [u8], &str)) -> (&'i [u8], String) {
    (rest, text.to_owned())
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

/// The server's side.
#[derive(Debug)]
pub struct ServerHandshake {
    offer: Offer,
    version_text: String,
    trust: Trust,
    state: ServerState,
}

#[derive(Debug)]
enum ServerState {
    Magic,
    Version,
    FeatureCount(Version),
    Features(Version, PeerFeatures),
    Affinity(Negotiated),
    Cpu(Negotiated),
    Reserve(Negotiated),
    Done,
}

impl ServerHandshake {
    /// Waits for a client. `version_text` and `trust` are what it will be told.
    #[must_use]
    pub fn new(offer: Offer, version_text: String, trust: Trust) -> Self {
        Self {
            offer,
            version_text,
            trust,
            state: ServerState::Magic,
        }
    }

    /// Takes what arrived. `out` must be sent whenever it is not empty: old clients wait for the answer to the magic
    /// before they say anything more. When this is done, the end of the log is still to be sent.
    pub fn receive(&mut self, input: &[u8], out: &mut BytesMut) -> Result<Progress<Negotiated>, HandshakeError> {
        let mut rest = input;
        let mut done = None;
        while done.is_none() {
            match self.step(&mut rest, out)? {
                Step::Waits => break,
                Step::Went => {}
                Step::Arrived(negotiated) => done = Some(negotiated),
            }
        }
        Ok(Progress {
            consumed: input.len() - rest.len(),
            done,
        })
    }

    fn step(&mut self, rest: &mut &[u8], out: &mut BytesMut) -> Result<Step<Negotiated>, HandshakeError> {
        if let ServerState::Features(version, features) = &mut self.state {
            if !features.take(&self.offer, rest)? {
                return Ok(Step::Waits);
            }
            put_features(&self.offer, out);
            let common = std::mem::take(&mut features.common);
            self.state = ServerState::Affinity(negotiated(&self.offer, *version, common));
        }
        if let ServerState::Done = self.state {
            return Ok(Step::Waits);
        }
        let Some(word) = item(rest, number)? else {
            return Ok(Step::Waits);
        };
        self.state = match std::mem::replace(&mut self.state, ServerState::Done) {
            ServerState::Magic => {
                magic(CLIENT_MAGIC, word)?;
                put_number(SERVER_MAGIC, out);
                put_number(self.offer.version.to_word(), out);
                ServerState::Version
            }
            ServerState::Version => {
                let version = common_version(self.offer.version, Version::from_word(word))?;
                if version >= Version::FEATURES {
                    ServerState::FeatureCount(version)
                } else {
                    ServerState::Affinity(negotiated(&self.offer, version, BTreeSet::new()))
                }
            }
            ServerState::FeatureCount(version) => {
                ServerState::Features(version, PeerFeatures::begin(word, &self.offer.limits)?)
            }
            ServerState::Affinity(negotiated) if word == 0 => ServerState::Reserve(negotiated),
            ServerState::Affinity(negotiated) => ServerState::Cpu(negotiated),
            ServerState::Cpu(negotiated) => ServerState::Reserve(negotiated),
            ServerState::Reserve(negotiated) => {
                if negotiated.version >= Version::VERSION_TEXT {
                    put_string(self.version_text.as_bytes(), out);
                }
                if negotiated.version >= Version::TRUST {
                    self.trust.encode(&negotiated, out);
                }
                return Ok(Step::Arrived(negotiated));
            }
            ServerState::Features(..) | ServerState::Done => ServerState::Done,
        };
        Ok(Step::Went)
    }
}

#[cfg(test)]
mod tests;
