//! The keys of one issuer: fetched when they are needed, and remembered.
//!
//! They are fetched through the issuer's discovery document, whose `issuer` must be exactly the configured one (`OpenID`
//! Connect Discovery 1.0, 4.3). What is fetched is bounded in size and time, and no redirect is followed. A token that
//! names an unknown key makes them be fetched again, but not more often than every [`AGAIN`]; while the issuer does not
//! answer, old keys count for [`STALE`].

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::{BoxFuture, FutureExt as _, Shared};
use jsonwebtoken::jwk::Jwk;
use nixci_protocol::nixci::control::Millis;
use reqwest::Client;
use reqwest::redirect::Policy;
use serde::Deserialize;
use serde_json::Value;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::is_safe_address;
use crate::error::told;

/// How long keys count before they are looked for again.
const FRESH: Duration = Duration::from_hours(1);
/// How long they count while the issuer does not answer.
const STALE: Duration = Duration::from_hours(24);
/// How long after one look the next may follow: tokens that name unknown keys cannot make us ask more often.
const AGAIN: Duration = Duration::from_secs(10);
/// How long one request to an issuer may take.
const REQUEST_TIME: Duration = Duration::from_secs(10);
/// Bytes of a discovery document or a key set.
const ANSWER_BYTES: usize = 256 * 1024;
/// Keys of an issuer that are remembered.
const KEYS: usize = 64;

type Fetched = Result<Arc<[Jwk]>, Arc<str>>;
type Fetching = Shared<BoxFuture<'static, Fetched>>;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct Keys {
    issuer: Arc<str>,
    client: Client,
    // Held for a look, never across an await.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    known: Option<(Arc<[Jwk]>, Instant)>,
    /// The last look, also one in vain.
    looked: Option<Instant>,
    why: Option<Arc<str>>,
    fetching: Option<Fetching>,
}

/// What is known of a key.
#[derive(Debug)]
pub(super) enum Found {
    /// The keys that may have signed: the one of this name, or all where the token names none.
    Keys(Vec<Jwk>),
    /// The issuer has no such key.
    None,
    /// The issuer cannot be asked; in words.
    Unreachable(Arc<str>),
}

/// What is known of the keys of an issuer.
#[derive(Debug)]
pub(super) struct Standing {
    /// How many there are; none before they could be had.
    pub(super) keys: Option<usize>,
    /// When they were fetched.
    pub(super) fetched: Option<Millis>,
    /// Until when they count if they cannot be fetched again.
    pub(super) good_until: Option<Millis>,
    /// Why they could not be had last.
    pub(super) why: Option<Arc<str>>,
}

impl Keys {
    pub(super) fn new(issuer: &str, client: Client) -> Self {
        Self {
            issuer: issuer.into(),
            client,
            state: Mutex::default(),
        }
    }

    /// What all of them are asked through.
    pub(super) fn client() -> reqwest::Result<Client> {
        crate::tls::install_provider();
        Client::builder()
            .user_agent(concat!("nixci/", env!("CARGO_PKG_VERSION")))
            .redirect(Policy::none())
            .timeout(REQUEST_TIME)
            .build()
    }

    /// The keys of this name. Cancelling it leaves what others wait for alone.
    pub(super) async fn find(&self, name: Option<&str>) -> Found {
        let now = Instant::now();
        let fresh = {
            let state = self.state();
            state
                .known
                .as_ref()
                .filter(|(_, at)| now.duration_since(*at) < FRESH)
                .map(|(keys, _)| keys.clone())
        };
        if let Some(found) = fresh.as_deref().and_then(|keys| pick(keys, name)) {
            return found;
        }
        let fetched = self.fetch(now).await;
        let state = self.state();
        match (&state.known, fetched) {
            (Some((keys, at)), _) if at.elapsed() < STALE => pick(keys, name).unwrap_or(Found::None),
            (_, Some(Err(why))) => Found::Unreachable(why),
            (_, _) => Found::Unreachable(state.why.clone().unwrap_or_else(|| "it was not asked yet".into())),
        }
    }

    /// Asks the issuer, unless that was done just now.
    pub(super) async fn fetch(&self, now: Instant) -> Option<Fetched> {
        let fetching = {
            let mut state = self.state();
            match &state.fetching {
                Some(fetching) => fetching.clone(),
                None if state.looked.is_some_and(|looked| now.duration_since(looked) < AGAIN) => return None,
                None => {
                    let fetching = fetch(self.client.clone(), self.issuer.clone()).boxed().shared();
                    state.looked = Some(now);
                    state.fetching = Some(fetching.clone());
                    fetching
                }
            }
        };
        let fetched = fetching.clone().await;
        let mut state = self.state();
        if state.fetching.as_ref().is_some_and(|running| running.ptr_eq(&fetching)) {
            // The first who hears of it.
            state.fetching = None;
            match &fetched {
                Ok(keys) => {
                    info!(issuer = %self.issuer, keys = keys.len(), "{} has {} keys", self.issuer, keys.len());
                    state.known = Some((keys.clone(), Instant::now()));
                    state.why = None;
                }
                Err(why) => {
                    warn!(issuer = %self.issuer, "the keys of {} cannot be had: {why}", self.issuer);
                    state.why = Some(why.clone());
                }
            }
        }
        Some(fetched)
    }

    /// What is known of them, for people.
    pub(super) fn standing(&self) -> Standing {
        let state = self.state();
        let millis = |time: Duration| Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX);
        let fetched = state
            .known
            .as_ref()
            .map(|(_, at)| crate::core::now().saturating_sub(millis(at.elapsed())));
        Standing {
            keys: state.known.as_ref().map(|(keys, _)| keys.len()),
            fetched,
            good_until: fetched.map(|at| at.saturating_add(millis(STALE))),
            why: state.why.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The keys of this name, where there is one.
fn pick(keys: &[Jwk], name: Option<&str>) -> Option<Found> {
    let fits = |key: &&Jwk| name.is_none() || key.common.key_id.as_deref() == name;
    let found: Vec<Jwk> = keys.iter().filter(fits).cloned().collect();
    (!found.is_empty()).then_some(Found::Keys(found))
}

async fn fetch(client: Client, issuer: Arc<str>) -> Fetched {
    #[derive(Deserialize)]
    struct Discovery {
        issuer: String,
        jwks_uri: String,
    }
    #[derive(Deserialize)]
    struct Set {
        keys: Vec<Value>,
    }
    let address = format!("{}/.well-known/openid-configuration", issuer.trim_end_matches('/'));
    let about: Discovery = json(&client, &address).await?;
    if about.issuer != *issuer {
        let text = format!("{address} is of another issuer, `{}`", plain(&about.issuer));
        return Err(text.into());
    }
    if !is_safe_address(&about.jwks_uri) {
        return Err(format!(
            "{address} names keys at `{}`, which is not https",
            plain(&about.jwks_uri)
        )
        .into());
    }
    let set: Set = json(&client, &about.jwks_uri).await?;
    if set.keys.len() > KEYS {
        return Err(format!("{} has more than {KEYS} keys", about.jwks_uri).into());
    }
    // Kinds of keys that are not known are no reason to leave out the others.
    let keys = set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok());
    Ok(keys.collect())
}

async fn json<T: serde::de::DeserializeOwned>(client: &Client, address: &str) -> Result<T, Arc<str>> {
    let failed = |error: reqwest::Error| -> Arc<str> { told(&error).into() };
    let mut answer = client.get(address).send().await.map_err(failed)?;
    if !answer.status().is_success() {
        return Err(format!("{address} answers {}", answer.status()).into());
    }
    let mut body = Vec::new();
    while let Some(piece) = answer.chunk().await.map_err(failed)? {
        if body.len() + piece.len() > ANSWER_BYTES {
            return Err(format!("{address} answers more than {ANSWER_BYTES} bytes").into());
        }
        body.extend_from_slice(&piece);
    }
    serde_json::from_slice(&body).map_err(|_| format!("{address} answers something else than was expected").into())
}

/// What somebody else wrote, on one line.
fn plain(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nobody listens there.
    const NOBODY: &str = "http://127.0.0.1:1";

    fn keys(names: &[&str]) -> Arc<[Jwk]> {
        let key = |name: &&str| {
            let key = serde_json::json!({ "kty": "RSA", "kid": name, "n": "AQAB", "e": "AQAB" });
            serde_json::from_value(key).unwrap()
        };
        names.iter().map(key).collect()
    }

    fn name_of(found: &Found) -> String {
        match found {
            Found::Keys(keys) => keys.iter().filter_map(|key| key.common.key_id.clone()).collect(),
            Found::None => "none".to_owned(),
            Found::Unreachable(_) => "unreachable".to_owned(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn old_keys_count_for_a_day_while_the_issuer_is_down() {
        let of = Keys::new(NOBODY, Keys::client().unwrap());
        assert_eq!(name_of(&of.find(Some("a")).await), "unreachable");
        of.state().known = Some((keys(&["a", "b"]), Instant::now()));
        assert_eq!(name_of(&of.find(Some("a")).await), "a");
        assert_eq!(name_of(&of.find(None).await), "ab");
        assert_eq!(name_of(&of.find(Some("c")).await), "none");
        tokio::time::advance(FRESH + Duration::from_secs(1)).await;
        assert_eq!(name_of(&of.find(Some("b")).await), "b");
        tokio::time::advance(STALE).await;
        assert_eq!(name_of(&of.find(Some("b")).await), "unreachable");
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_keys_do_not_make_us_ask_again_and_again() {
        let of = Keys::new(NOBODY, Keys::client().unwrap());
        of.state().known = Some((keys(&["a"]), Instant::now()));
        let looked = |of: &Keys| of.state().looked;
        assert_eq!(name_of(&of.find(Some("x")).await), "none");
        let first = looked(&of);
        assert!(first.is_some());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(name_of(&of.find(Some("y")).await), "none");
        assert_eq!(looked(&of), first);
        tokio::time::advance(AGAIN).await;
        assert_eq!(name_of(&of.find(Some("y")).await), "none");
        assert!(looked(&of) > first);
    }
}
