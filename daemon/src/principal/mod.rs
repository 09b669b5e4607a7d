//! Who is asking, and what they may: trust is decided here and nowhere else.
//!
//! Four kinds of peers have names: users of this system by the credentials of their socket, holders of
//! ssh keys by the forced command that names them ([`Lowered`]), holders of tokens, and jobs of CI systems by
//! what their issuer vouches for. A peer can lower itself, and only that.

mod credentials;
mod job;
mod pass;
mod rules;
mod scope;
mod system;
mod tokens;

use std::fmt;

pub(crate) use credentials::{Credentials, Refused, TOKEN_BYTES};
pub(crate) use job::{Cause, Confirmation, Job};
pub(crate) use pass::Pass;
pub(crate) use rules::{Peer, Rules};
pub(crate) use scope::{Work, admit_submission};
pub(crate) use tokens::Tokens;
pub use tokens::{TokenError, TokenHash, new_token};

use crate::config::{Projects, Right};
use scope::Scope;

/// The longest name of a key or token.
const NAME_BYTES: usize = 64;

/// A peer whose identity is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    name: String,
    trusted: bool,
    place: Place,
    scope: Scope,
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
            scope: Scope::Open,
        }
    }

    /// The process the daemon runs in.
    #[must_use]
    pub fn embedded() -> Self {
        Self {
            name: "embedded".to_owned(),
            trusted: true,
            place: Place::Here,
            scope: Scope::Open,
        }
    }

    /// Somebody at the HTTP door without a token, who can change nothing that needs trust.
    #[must_use]
    pub fn http() -> Self {
        Self {
            name: "http".to_owned(),
            trusted: false,
            place: Place::Elsewhere,
            scope: Scope::Open,
        }
    }

    /// The holder of a token. No token makes trusted.
    pub(crate) fn token(name: &str, rights: Vec<Right>, projects: Projects) -> Self {
        Self {
            name: format!("token:{name}"),
            trusted: false,
            place: Place::Elsewhere,
            scope: Scope::Token { rights, projects },
        }
    }

    /// The holder of an ssh key, for whom a bridge speaks that is `self`.
    fn lowered(&self, to: &Lowered) -> Self {
        Self {
            name: format!("key:{}", to.principal),
            trusted: self.trusted && to.trusted,
            place: Place::Elsewhere,
            scope: Scope::Open,
        }
    }

    /// Its name in records: `uid:0`, `key:alice`, `token:cache`, `oidc:gitlab.com:group/name#42`.
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
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
