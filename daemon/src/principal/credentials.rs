//! Whose a token is that came with a request over HTTP.

use std::fmt;

use nixci_protocol::nixci::control::Millis;
use nixci_store::index::Index;
use nixci_store::index::tokens::{self, TokenRow};
use tracing::{error, warn};

use super::pass::By;
use super::{Pass, Principal, TokenHash};
use crate::config::{HttpRead, Projects, Right};
use crate::core::now;
use crate::error::told;
use crate::oidc::{Issuers, Vouched};
use crate::settings::Live;

/// The longest token that is looked at, in bytes. Those of OIDC issuers have about two thousand.
pub(crate) const TOKEN_BYTES: usize = 16 * 1024;
/// How exactly it is recorded when a token was used last: not every request shall cost a write.
const USED_EVERY: Millis = 3_600_000;

/// Everything by which somebody is known over HTTP. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Credentials {
    live: Live,
    index: Index,
}

/// Why a token does not help. Never holds the token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nobody has it.
    Unknown,
    /// It was good until some time ago.
    Expired,
    /// It has more than [`TOKEN_BYTES`].
    TooLong,
    /// An issuer's token that does not count; in words.
    Invalid(String),
    /// It is good for other things; this right is missing.
    NotEnough(Right),
    /// It is for some projects only, and this shows all.
    SomeProjects,
    /// No rule lets its job in; in words.
    NotLetIn(String),
    /// It cannot be said now; in words.
    Unavailable(String),
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unknown => f.write_str("this token is not known here"),
            Self::Expired => f.write_str("this token has expired; ask for a new one"),
            Self::TooLong => write!(f, "this token has more than {TOKEN_BYTES} bytes, and none has"),
            Self::Invalid(text) | Self::NotLetIn(text) | Self::Unavailable(text) => f.write_str(text),
            Self::NotEnough(right) => write!(f, "this token lacks the right `{}`", right.word()),
            Self::SomeProjects => f.write_str(
                "this token is for some projects only, and pages show all; ask for one with the right `read` for all projects",
            ),
        }
    }
}

impl Credentials {
    pub(crate) fn new(live: Live, index: Index) -> Self {
        Self { live, index }
    }

    /// Whether pages are shown to everybody.
    pub(crate) fn reading(&self) -> HttpRead {
        self.live.now().config.listen.http_read
    }

    /// Who has this token: one of ours, or one of an issuer's, which may be used up by that.
    pub(crate) async fn holder(&self, token: &[u8]) -> Result<Pass, Refused> {
        if token.len() > TOKEN_BYTES {
            return Err(Refused::TooLong);
        }
        let (who, by) = match std::str::from_utf8(token) {
            Ok(text) if Issuers::is_meant(text) => {
                let (who, vouched) = self.live.now().issuers.holder(text).await?;
                (who, By::Job(vouched))
            }
            Ok(_) | Err(_) => {
                let hash = TokenHash::of_any(token);
                (self.of_hash(hash).await?, By::Token(hash))
            }
        };
        Ok(Pass::new(self.clone(), who, by))
    }

    /// Who may see pages by this token: only tokens of ours, for all projects.
    pub(crate) async fn reader(&self, token: &[u8]) -> Result<Principal, Refused> {
        let holder = self.of_hash(TokenHash::of_any(token)).await?;
        if !holder.has(Right::Read) {
            return Err(Refused::NotEnough(Right::Read));
        }
        if holder.is_scoped() {
            return Err(Refused::SomeProjects);
        }
        Ok(holder)
    }

    /// Who has one of our own tokens: the configuration's first, then those that were made since.
    pub(super) async fn of_hash(&self, hash: TokenHash) -> Result<Principal, Refused> {
        let at = now();
        match self.live.now().tokens.of_hash(hash, at) {
            Err(Refused::Unknown) => {}
            known => return known,
        }
        let found = self.index.read(move |conn| tokens::by_hash(conn, hash.bytes())).await;
        let found = found.map_err(|error| {
            error!("failed to look up a token: {}", told(&error));
            Refused::Unavailable("the daemon cannot read its index; its log says why".to_owned())
        })?;
        let row = found.ok_or(Refused::Unknown)?;
        if row.expires.is_some_and(|expires| expires <= at) {
            return Err(Refused::Expired);
        }
        if row.used.is_none_or(|used| at.saturating_sub(used) >= USED_EVERY) {
            let id = row.id;
            if let Err(error) = self.index.write(move |tx| tokens::used(tx, id, at)).await {
                warn!("failed to record that a token was used: {}", told(&error));
            }
        }
        Ok(principal(row))
    }
}

impl Credentials {
    /// What a job may now that an issuer has vouched for.
    pub(super) fn vouched(&self, vouched: &Vouched) -> Result<Principal, Refused> {
        self.live.now().issuers.vouched(vouched)
    }
}

fn principal(row: TokenRow) -> Principal {
    // A word that a newer daemon wrote gives no right here.
    let rights = row.rights.iter().filter_map(|word| Right::read(word).ok()).collect();
    let projects = row.projects.map_or(Projects::All, Projects::Fitting);
    Principal::token(&row.name, rights, projects)
}
