//! Plain webhooks: the verdict as JSON, posted to any address.
//!
//! The body is the JSON of the verdict, which stands in `content.text` of a status with the role
//! [`Verdict`](StatusRole::Verdict). Headers:
//!
//! | Header | |
//! |---|---|
//! | `Content-Type` | `application/json` |
//! | `X-Nixci-Event` | `verdict` |
//! | `X-Nixci-Delivery` | `ID-DIGEST`: the same for a repeat of the same content, and only then |
//! | `X-Nixci-Timestamp` | when this request was made, in seconds since 1970 |
//! | `X-Nixci-Signature-256` | `sha256=HEX`: the HMAC-SHA-256 of the body, as GitHub signs its own |
//! | `X-Nixci-Signature-V2` | `sha256=HEX`: the HMAC-SHA-256 of `DELIVERY.TIMESTAMP.BODY` |
//!
//! The signatures are there where the forge has a `webhook_secret_file`, whose text is the key. The first is the one that
//! most receivers can check without a line of code; it proves who wrote the body, not when. The second covers the time and
//! the number too: a receiver that refuses what is older than five minutes, and drops numbers it has seen, cannot be told
//! an old verdict again. By hand:
//!
//! ```sh
//! printf '%s.%s.' "$delivery" "$timestamp" | cat - body | openssl dgst -sha256 -hmac "$secret"
//! ```
//!
//! A delivery is repeated until it is answered with 2xx, and it may come twice: when the answer was lost, nobody can be
//! asked whether it arrived. Receivers drop a number they have seen. What is sent again after a 4xx (other than 408, 425
//! and 429) is only what has changed since; 410 asks for silence until the daemon is started again. Redirects are not
//! followed. An answer has 30 seconds.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, Mac as _};
use nixci_protocol::nixci::report::StatusRole;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use reqwest::{Method, StatusCode};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::{Digest as _, Sha256};

use super::{Found, Http, OpenError, Outgoing, Scope, SendError, Sent, token};
use crate::config;

/// A client of one receiver.
pub struct Webhook {
    http: Http,
    secret: Option<SecretString>,
}

/// Without the address, which may hold a secret.
impl fmt::Debug for Webhook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Webhook")
            .field("forge", &self.http.forge())
            .field("is_signed", &self.secret.is_some())
            .finish_non_exhaustive()
    }
}

impl Webhook {
    /// Reads its secret. Blocks.
    pub fn open(forge: &config::Forge) -> Result<Self, OpenError> {
        let secret = forge.webhook_secret.as_ref();
        Ok(Self {
            http: Http::new(&forge.name, &forge.api)?,
            secret: secret
                .map(|file| token::read(forge, "the secret of its webhooks", file))
                .transpose()?,
        })
    }

    /// Posts a verdict. Nothing else is told to a webhook.
    pub async fn send(&self, status: &Outgoing) -> Result<Sent, SendError> {
        let forge = self.http.forge();
        let body = match status.role {
            StatusRole::Verdict => status.content.text.clone().into_bytes(),
            StatusRole::Summary | StatusRole::Evaluation | StatusRole::Job => {
                return Err(SendError::Refused {
                    scope: Scope::Status,
                    why: format!("`{forge}` is a plain webhook, which is told verdicts only"),
                });
            }
        };
        let delivery = delivery(&status.external_id, &body);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let timestamp = now.as_secs().to_string();
        let mut request = self
            .http
            .request(Method::POST, "")
            .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header("x-nixci-event", "verdict")
            .header("x-nixci-delivery", &delivery)
            .header("x-nixci-timestamp", &timestamp);
        if let Some(secret) = &self.secret {
            let dated = [delivery.as_bytes(), b".", timestamp.as_bytes(), b".", &body];
            request = request
                .header("x-nixci-signature-256", self.signature(secret, &[&body])?)
                .header("x-nixci-signature-v2", self.signature(secret, &dated)?);
        }
        let answer = self.http.ask(request.body(body)).await?;
        if answer.status.is_success() {
            return Ok(Sent {
                remote_id: None,
                quota: answer.quota(),
            });
        }
        let refused = answer.refused(forge, "the verdict");
        Err(match (refused, answer.status) {
            (SendError::Refused { why, .. }, StatusCode::GONE) => SendError::Refused {
                scope: Scope::Forge,
                why: format!("{why}; it wants no more, so leave it out of the configuration"),
            },
            (SendError::Refused { why, .. }, status) if status.is_redirection() => SendError::Refused {
                scope: Scope::Forge,
                why: format!("{why}; redirects are not followed, so set `url` to where it is now"),
            },
            // One address for all, so what is wrong with one verdict need not be wrong with the next.
            (SendError::Refused { why, .. }, _) => SendError::Refused {
                scope: Scope::Status,
                why,
            },
            (other, _) => other,
        })
    }

    /// Nobody can be asked what arrived: it is sent again, and receivers drop what they have seen.
    #[expect(clippy::unused_async, reason = "the same call as of the other forges")]
    pub async fn look_up(&self, _: &Outgoing) -> Result<Option<Found>, SendError> {
        Ok(None)
    }

    /// Whether it answers at all. Nothing is posted, as that would be taken for a verdict.
    pub async fn check(&self) -> Result<String, SendError> {
        let answer = self.http.ask(self.http.request(Method::HEAD, "")).await?;
        if answer.status.is_server_error() {
            return Err(answer.refused(self.http.forge(), "a question whether it is there"));
        }
        let signed = if self.secret.is_some() { "signed" } else { "not signed" };
        Ok(format!(
            "it answers ({}); verdicts are {signed}",
            answer.status.as_u16()
        ))
    }

    fn signature(&self, secret: &SecretString, parts: &[&[u8]]) -> Result<String, SendError> {
        let mut mac =
            Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).map_err(|_| SendError::Refused {
                scope: Scope::Forge,
                why: format!("the secret of `{}` cannot be a key", self.http.forge()),
            })?;
        for part in parts {
            mac.update(part);
        }
        let hex = data_encoding::HEXLOWER.encode(&mac.finalize().into_bytes());
        Ok(format!("sha256={hex}"))
    }
}

/// The number of a delivery: the same for the same content of the same status.
fn delivery(external_id: &str, body: &[u8]) -> String {
    let id = external_id.chars().map(|c| if c.is_ascii_graphic() { c } else { '_' });
    let digest = Sha256::digest(body);
    format!(
        "{}-{}",
        id.collect::<String>(),
        data_encoding::HEXLOWER.encode(&digest[..8])
    )
}
