use std::collections::BTreeSet;

use bytes::BytesMut;

use super::{
    Agreed, CLIENT_MAGIC, HandshakeError, Offer, PeerFeatures, Progress, SERVER_MAGIC, Step, common_version, item,
    magic, negotiated, put_features,
};
use crate::types::Trust;
use crate::version::Version;
use crate::wire::primitive::{number, put_number, text};
use crate::wire::{Negotiated, WireError, decode};

/// The client's side.
#[derive(Debug)]
pub struct ClientHandshake {
    offer: Offer,
    /// Features and what follows them were said already.
    said_all: bool,
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
            said_all: false,
            state: ClientState::Magic,
        }
    }

    /// Begins with everything the client will ever say, so that the whole handshake takes one turn.
    ///
    /// Only for a server that is known to speak protocol 1.38 or later, as nixci behind its HTTP door is: an older one
    /// would take the features for something else. Where it does speak less, [`Self::receive`] fails. Where we offer
    /// less ourselves, this is [`Self::start`].
    #[must_use]
    pub fn start_at_once(offer: Offer, out: &mut BytesMut) -> Self {
        let mut this = Self::start(offer, out);
        if this.offer.version >= Version::FEATURES {
            this.say_rest(true, out);
            this.said_all = true;
        }
        this
    }

    /// What follows the version.
    fn say_rest(&self, with_features: bool, out: &mut BytesMut) {
        if with_features {
            put_features(&self.offer.features.iter().cloned().collect(), out);
        }
        // No CPU affinity, no reserved space: both obsolete, both read by every server.
        put_number(0, out);
        put_number(0, out);
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
                    if !self.said_all {
                        self.say_rest(with_features, out);
                    } else if !with_features {
                        return Err(HandshakeError::Version(theirs));
                    }
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
