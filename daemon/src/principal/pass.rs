//! What lets an open connection go on: that the token it began with still counts.

use std::time::Duration;

use tokio::time::Instant;

use super::{Credentials, Principal, Refused, TokenHash};
use crate::oidc::Vouched;

/// How long a token that counted is not looked at again: a busy connection asks the index once in this time, an idle one
/// never.
const RECHECK: Duration = Duration::from_secs(1);

/// By what a connection was let in.
#[derive(Debug)]
pub(super) enum By {
    /// One of our tokens.
    Token(TokenHash),
    /// One of an issuer's, which says who connects; it need not be good for as long as the connection.
    Job(Vouched),
}

/// Lets a connection go on, or not.
#[derive(Debug)]
pub(crate) struct Pass {
    credentials: Credentials,
    who: Principal,
    by: By,
    checked: Instant,
}

impl Pass {
    /// Of a token that counts now.
    pub(super) fn new(credentials: Credentials, who: Principal, by: By) -> Self {
        Self {
            credentials,
            who,
            by,
            checked: Instant::now(),
        }
    }

    /// Who has it.
    pub(crate) fn who(&self) -> &Principal {
        &self.who
    }

    /// Whether the token still counts, and for the same; an error says what became of it. It may be late by [`RECHECK`].
    pub(crate) async fn check(&mut self) -> Result<(), String> {
        if self.checked.elapsed() < RECHECK {
            return Ok(());
        }
        let now_is = match &self.by {
            By::Token(hash) => self.credentials.of_hash(*hash).await,
            By::Job(vouched) => self.credentials.vouched(vouched),
        };
        let why = match now_is {
            Ok(who) if who == self.who => {
                self.checked = Instant::now();
                return Ok(());
            }
            Ok(_) => "what its token is good for has changed; connect again".to_owned(),
            Err(Refused::Unknown) => "its token was revoked; connect with another".to_owned(),
            Err(refused) => refused.to_string(),
        };
        Err(format!("this connection is ended: {why}"))
    }
}
