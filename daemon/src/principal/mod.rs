//! Who is asking, and what they may: trust is decided here and nowhere else.
//!
//! Three kinds of peers have names: users of this system by the credentials of their socket, holders of
//! ssh keys by the forced command that names them ([`Lowered`]), and holders of tokens. A peer can lower
//! itself, and only that.

mod credentials;
mod rules;
mod system;
mod tokens;

use std::fmt;

pub(crate) use credentials::{Credentials, Refused, TOKEN_BYTES};
pub(crate) use rules::{Peer, Rules};
pub(crate) use tokens::Tokens;
pub use tokens::{TokenError, TokenHash, new_token};

use crate::config::{Projects, Right};

/// The longest name of a key or token.
const NAME_BYTES: usize = 64;

/// A peer whose identity is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    name: String,
    trusted: bool,
    place: Place,
    rights: Vec<Right>,
    projects: Projects,
}

/// Where a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// On this host, with its file system.
    Here,
    /// Behind ssh or HTTP.
    Elsewhere,
}

/// What a bridge such as `nixci-daemon stdio` says of whom it speaks for. It never makes anybody more
/// than the bridge itself is.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lowered {
    principal: String,
    trusted: bool,
}

impl Lowered {
    /// Speaks for `principal`, who keeps the trust of the bridge only when `trusted`. None when the name
    /// is not one: letters, digits and `._+@-`, at most 64 of them.
    #[must_use]
    pub fn new(principal: &str, trusted: bool) -> Option<Self> {
        let lowered = Self {
            principal: principal.to_owned(),
            trusted,
        };
        lowered.is_valid().then_some(lowered)
    }

    pub(crate) fn is_valid(&self) -> bool {
        is_name(&self.principal)
    }
}

/// Whether a key or token may be called so. Colons are left to us, so that nobody is called `uid:0`.
pub(crate) fn is_name(name: &str) -> bool {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '+' | '@' | '-');
    !name.is_empty() && name.len() <= NAME_BYTES && name.chars().all(fine)
}

impl Principal {
    /// A process on the same host, by its user.
    #[must_use]
    pub fn local(uid: u32, trusted: bool) -> Self {
        Self {
            name: format!("uid:{uid}"),
            trusted,
            place: Place::Here,
            rights: Vec::new(),
            projects: Projects::All,
        }
    }

    /// The process the daemon runs in.
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            name: "embedded".to_owned(),
            trusted: true,
            place: Place::Here,
            rights: Vec::new(),
            projects: Projects::All,
        }
    }

    /// Somebody at the HTTP door without a token, who can change nothing that needs trust.
    #[must_use]
    pub fn http() -> Self {
        Self {
            name: "http".to_owned(),
            trusted: false,
            place: Place::Elsewhere,
            rights: Vec::new(),
            projects: Projects::All,
        }
    }

    /// The holder of a token. No token makes trusted.
    pub(crate) fn token(name: &str, rights: Vec<Right>, projects: Projects) -> Self {
        Self {
            name: format!("token:{name}"),
            trusted: false,
            place: Place::Elsewhere,
            rights,
            projects,
        }
    }

    /// The holder of an ssh key, for whom a bridge speaks that is `self`.
    fn lowered(&self, to: &Lowered) -> Self {
        Self {
            name: format!("key:{}", to.principal),
            trusted: self.trusted && to.trusted,
            place: Place::Elsewhere,
            rights: Vec::new(),
            projects: Projects::All,
        }
    }

    /// Its name in records: `uid:0`, `key:alice`, `token:cache`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it may add what carries no proof of its content, and look after the store as its admin.
    #[must_use]
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Whether it shares this host's file system, so that a path it names is the one we see.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self.place {
            Place::Here => true,
            Place::Elsewhere => false,
        }
    }

    /// Whether it may speak the worker protocol over HTTP at all.
    pub(crate) fn may_connect(&self) -> Result<(), Refused> {
        if self.has(Right::Submit) {
            return Ok(());
        }
        Err(Refused::NotEnough(Right::Submit))
    }

    /// Whether a token gives this right.
    #[must_use]
    pub fn has(&self, right: Right) -> bool {
        self.rights.contains(&right)
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
