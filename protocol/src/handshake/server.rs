use std::collections::BTreeSet;

use bytes::BytesMut;

use super::{
    CLIENT_MAGIC, HandshakeError, Offer, PeerFeatures, Progress, SERVER_MAGIC, Step, common_version, item, magic,
    negotiated, put_features,
};
use crate::nixci::{FEATURE_CLOSURE, RootsDigest};
use crate::types::Trust;
use crate::version::Version;
use crate::wire::primitive::{number, put_number, put_string};
use crate::wire::{Negotiated, Wire};

/// The server's side.
#[derive(Debug)]
pub struct ServerHandshake {
    offer: Offer,
    version_text: String,
    trust: Trust,
    roots: Option<RootsDigest>,
    state: ServerState,
}

#[derive(Debug)]
enum ServerState {
    Magic,
    Version,
    FeatureCount(Version),
    Features(Version, PeerFeatures),
    /// Somebody has to say whether the roots are known.
    Asked(Version, BTreeSet<String>, RootsDigest),
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
            roots: None,
            state: ServerState::Magic,
        }
    }

    /// Takes what arrived. `out` must be sent whenever it is not empty: old clients wait for the answer to the magic
    /// before they say anything more. When this is done, the end of the log is still to be sent.
    ///
    /// While [`Self::asks`] has a question, nothing more is taken.
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

    /// The set of roots that the client asks for, while it is to be [answered](Self::answer).
    #[must_use]
    pub fn asks(&self) -> Option<RootsDigest> {
        match &self.state {
            ServerState::Asked(_, _, roots) => Some(*roots),
            ServerState::Magic
            | ServerState::Version
            | ServerState::FeatureCount(_)
            | ServerState::Features(..)
            | ServerState::Affinity(_)
            | ServerState::Cpu(_)
            | ServerState::Reserve(_)
            | ServerState::Done => None,
        }
    }

    /// Says whether the set is known and all of it is valid; without a question it does nothing.
    pub fn answer(&mut self, is_known: bool, out: &mut BytesMut) {
        match std::mem::replace(&mut self.state, ServerState::Done) {
            ServerState::Asked(version, mut common, roots) => {
                if is_known {
                    common.insert(roots.feature());
                }
                self.state = self.agree(version, common, out);
            }
            other => self.state = other,
        }
    }

    /// The set of roots that the client asked for, if it did.
    #[must_use]
    pub fn roots(&self) -> Option<RootsDigest> {
        self.roots
    }

    fn agree(&self, version: Version, common: BTreeSet<String>, out: &mut BytesMut) -> ServerState {
        put_features(&common, out);
        ServerState::Affinity(negotiated(&self.offer, version, common))
    }

    fn step(&mut self, rest: &mut &[u8], out: &mut BytesMut) -> Result<Step<Negotiated>, HandshakeError> {
        if let ServerState::Features(version, features) = &mut self.state {
            if !features.take(&self.offer, rest)? {
                return Ok(Step::Waits);
            }
            // Only what the client listed itself: what is ours alone is not shown to who does not know it, and the
            // features in common are the same either way.
            let (version, common) = (*version, std::mem::take(&mut features.common));
            self.roots = features.roots.filter(|_| common.contains(FEATURE_CLOSURE));
            self.state = match self.roots {
                Some(roots) => ServerState::Asked(version, common, roots),
                None => self.agree(version, common, out),
            };
        }
        if let ServerState::Asked(..) | ServerState::Done = self.state {
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
            ServerState::Features(..) | ServerState::Asked(..) | ServerState::Done => ServerState::Done,
        };
        Ok(Step::Went)
    }
}
