//! Who a GitHub App is: its number and its private key, with which it signs short tokens (JWT).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;

use crate::config::SecretFile;
use crate::forge::http::Answer;
use crate::forge::{OpenError, SendError};
use crate::tls;

/// Seconds before now from which a token counts, as GitHub advises: its clock may be behind ours.
const BACK: i64 = 60;
/// Seconds from now until which it counts. GitHub takes at most 600; the rest is for a clock that is behind ours.
const AHEAD: i64 = 480;
/// Seconds between two clocks that are not worth a word: `Date` tells whole ones, and it has travelled.
const SAME: i64 = 5;

/// An App. `Debug` does not print its key.
#[derive(Debug)]
pub(super) struct App {
    pub(super) id: u64,
    key: EncodingKey,
    /// Seconds that the forge's clock is ahead of ours, as far as we had to find out.
    ahead: AtomicI64,
}

#[derive(Serialize)]
struct Claims {
    /// A number: old Enterprise Servers take no text.
    iss: u64,
    iat: i64,
    exp: i64,
}

impl App {
    /// Reads the private key, and signs with it once to see that it can. Blocks.
    pub(super) fn open(forge: &str, id: u64, file: &SecretFile) -> Result<Self, OpenError> {
        tls::install_provider();
        let pem = file.read().map_err(|source| OpenError::Secret {
            forge: forge.to_owned(),
            what: "private key",
            path: file.path.clone(),
            source,
        })?;
        let unfit = || OpenError::Other {
            forge: forge.to_owned(),
            why: format!(
                "private key {}: {}; make one in the App's settings under \"Private keys\"",
                file.path.display(),
                what_is_wrong(pem.expose_secret())
            ),
        };
        let key = EncodingKey::from_rsa_pem(pem.expose_secret().as_bytes()).map_err(|_| unfit())?;
        let app = Self {
            id,
            key,
            ahead: AtomicI64::new(0),
        };
        app.token().map_err(|_| unfit())?;
        Ok(app)
    }

    /// A new token, by which GitHub knows the App for some minutes.
    pub(super) fn token(&self) -> Result<SecretString, SendError> {
        let now = our_time() + self.ahead.load(Ordering::Relaxed);
        let claims = Claims {
            iss: self.id,
            iat: now - BACK,
            exp: now + AHEAD,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::RS256), &claims, &self.key)
            .map(SecretString::from)
            .map_err(|error| SendError::Failed {
                why: format!("failed to sign with the private key of the App {}: {error}", self.id),
            })
    }

    /// Takes over the clock of an answer that refused a token. Whether it differs, so that a new token may be taken.
    pub(super) fn learn_time(&self, answer: &Answer) -> bool {
        let Some(theirs) = answer.date() else {
            return false;
        };
        let ahead = theirs - our_time();
        let before = self.ahead.swap(ahead, Ordering::Relaxed);
        let is_off = (ahead - before).abs() > SAME;
        if is_off {
            tracing::warn!(
                app = self.id,
                seconds = ahead,
                "the clock of this machine is off: tokens of the App are signed by that of the forge"
            );
        }
        is_off
    }
}

/// Seconds since the Unix epoch.
pub(super) fn our_time() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| i64::try_from(time.as_secs()).unwrap_or(i64::MAX))
}

/// Why a text is not the private key of an App, by the label that PEM begins with. Nothing of the text itself is told.
fn what_is_wrong(text: &str) -> &'static str {
    let has = |label: &str| text.contains(label);
    if has("ENCRYPTED") {
        "it is locked with a passphrase, which nobody could type here"
    } else if has("BEGIN EC PRIVATE KEY") || has("BEGIN OPENSSH PRIVATE KEY") {
        "it is not an RSA key, which is all that Apps have"
    } else if has("BEGIN PUBLIC KEY") || has("BEGIN RSA PUBLIC KEY") || has("BEGIN CERTIFICATE") {
        "it is a public key"
    } else if has("BEGIN PRIVATE KEY") || has("BEGIN RSA PRIVATE KEY") {
        "it is not an RSA key, which is all that Apps have, or it is damaged"
    } else {
        "it is no key in PEM, which begins with `-----BEGIN RSA PRIVATE KEY-----` or `-----BEGIN PRIVATE KEY-----`"
    }
}
