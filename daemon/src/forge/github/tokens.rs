//! Tokens of installations: what an App writes to repositories with. They are kept in memory only.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::future::Cache;
use secrecy::SecretString;

use crate::forge::SendError;

/// A token is renewed so long before GitHub takes it no more.
const MARGIN: Duration = Duration::from_mins(5);
/// The longest a token is used, whatever its answer says: GitHub's live one hour.
const LONGEST: Duration = Duration::from_hours(1);
/// How long it is believed which installation a repository belongs to. One that is gone is noticed before.
const INSTALLATION: Duration = Duration::from_hours(1);
/// Repositories, and installations, that are remembered.
const MANY: u64 = 10_000;

/// A token of one installation. `Debug` does not print it.
#[derive(Debug)]
pub(super) struct Token {
    pub(super) text: SecretString,
    /// How long it is used.
    lives: Duration,
}

impl Token {
    /// A token that GitHub takes for this long.
    pub(super) fn new(text: SecretString, valid: Duration) -> Self {
        Self {
            text,
            lives: valid.min(LONGEST).saturating_sub(MARGIN),
        }
    }
}

/// Why there is no token.
#[derive(Debug, Clone)]
pub(super) enum NoToken {
    /// The installation is not there: it was removed, and perhaps made anew.
    Gone,
    /// Anything else.
    Other(SendError),
}

/// Installations of repositories, and their tokens. For each at most one question is under way; who else needs its answer
/// waits for it, and asks in its place where it was cancelled.
pub(super) struct Tokens {
    installations: Cache<String, u64>,
    tokens: Cache<u64, Arc<Token>>,
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens").finish_non_exhaustive()
    }
}

/// A token is forgotten when it is no longer used.
struct Lives;

impl Expiry<u64, Arc<Token>> for Lives {
    fn expire_after_create(&self, _: &u64, token: &Arc<Token>, _: Instant) -> Option<Duration> {
        Some(token.lives)
    }
}

impl Tokens {
    pub(super) fn new() -> Self {
        Self {
            installations: Cache::builder().max_capacity(MANY).time_to_live(INSTALLATION).build(),
            tokens: Cache::builder().max_capacity(MANY).expire_after(Lives).build(),
        }
    }

    /// The installation of a repository; `ask` where it is not known.
    pub(super) async fn installation(
        &self,
        repository: &str,
        ask: impl Future<Output = Result<u64, SendError>>,
    ) -> Result<u64, SendError> {
        let found = self.installations.try_get_with_by_ref(repository, ask).await;
        found.map_err(|error| (*error).clone())
    }

    /// The token of an installation; `make` where there is none, or its time is over.
    pub(super) async fn token(
        &self,
        installation: u64,
        make: impl Future<Output = Result<Arc<Token>, NoToken>>,
    ) -> Result<Arc<Token>, NoToken> {
        let found = self.tokens.try_get_with(installation, make).await;
        found.map_err(|error| (*error).clone())
    }

    /// The next asks for the installation of this repository again.
    pub(super) async fn forget_installation(&self, repository: &str) {
        self.installations.invalidate(repository).await;
    }

    /// This token is not used any more. One that was made since stays.
    pub(super) async fn forget_token(&self, installation: u64, token: &Arc<Token>) {
        if let Some(kept) = self.tokens.get(&installation).await
            && Arc::ptr_eq(&kept, token)
        {
            self.tokens.invalidate(&installation).await;
        }
    }
}
