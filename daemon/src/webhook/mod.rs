//! What forges tell us: webhooks in.
//!
//! A delivery is read whole, its [`signature`] is checked over the bytes as they came, then it is read, and what it
//! [asks](ask) for is on disk before the forge is answered. One [`worker`] then does it, however often the daemon stops in
//! between. A delivery that was here before changes nothing: it is known by its number and, as numbers are mostly not
//! signed, by its body too, for [`worker::REMEMBERED`].

mod ask;
mod delivery;
mod github;
mod gitlab;
mod handle;
pub(crate) mod metrics;
mod signature;
mod worker;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use axum::http::HeaderMap;
use bytes::Bytes;
use nixci_protocol::nixci::control::Millis;
use nixci_store::index::deliveries::{self, NewDelivery, Outcome, Taken};
use nixci_store::index::{self, Index};
use sha2::{Digest as _, Sha256};
use tokio::sync::Notify;
use tracing::{debug, error, warn};

use self::ask::{Ask, Reading};
use self::signature::Verifier;
use crate::config::{self, ForgeAuth, ForgeKind};
use crate::core::now;
use crate::error::told;
use crate::forge::OpenError;
use crate::settings::Live;

pub(crate) use self::worker::run;

/// Bodies of more bytes are checked and read on a thread that may be busy; smaller ones take well under a millisecond.
const SMALL: usize = 128 * 1024;
/// The log has at most one line in so many milliseconds about deliveries that were refused; metrics count all.
const REFUSALS_TOLD: Millis = 60_000;

/// Takes deliveries. Clones share one queue.
#[derive(Debug, Clone)]
pub(crate) struct Hooks {
    live: Live,
    index: Index,
    /// Somebody put something into the queue.
    queued: Arc<Notify>,
    /// When the log last told of a refusal.
    refusal_told: Arc<AtomicI64>,
}

/// The forges, and which deliveries are theirs.
#[derive(Debug, Default)]
pub(crate) struct Gates(BTreeMap<String, Arc<Gate>>);

/// One forge.
#[derive(Debug)]
pub(crate) struct Gate {
    name: String,
    kind: ForgeKind,
    /// The number of our App.
    app: Option<u64>,
    /// None where webhooks are not configured.
    verifier: Option<Verifier>,
}

/// What is done with a delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Receipt {
    /// It is on disk, and will be handled.
    Queued,
    /// It is fine, and nothing is to be done; the text says why.
    Ignored(String),
    /// It was here before.
    Known,
}

/// Why a delivery is not taken.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Turned {
    /// The address names no forge.
    #[error("there is no [[forge]] named `{0}` that has webhooks")]
    UnknownForge(String),
    /// The forge has no secret.
    #[error("forge `{0}` takes no webhooks: give its [[forge]] a `webhook_secret_file`")]
    NoSecret(String),
    /// The signature is missing or wrong.
    #[error("{0}")]
    Signature(String),
    /// The body is not JSON by its own words.
    #[error("the body is not `application/json`; set the content type of this webhook to that")]
    NotJson,
    /// It cannot be understood.
    #[error("{0}")]
    Malformed(String),
    /// The index failed; the log says how.
    #[error("the delivery could not be kept; send it again later")]
    Index,
}

impl Gates {
    /// Reads the secrets of all forges that have one for webhooks. Blocks. All that cannot be used are told.
    pub(crate) fn open(forges: &[config::Forge]) -> Result<Self, Vec<OpenError>> {
        let mut gates = BTreeMap::new();
        let mut errors = Vec::new();
        for forge in forges.iter().filter(|forge| forge.kind != ForgeKind::Webhook) {
            match verifier(forge) {
                Ok(verifier) => {
                    let gate = Gate {
                        name: forge.name.clone(),
                        kind: forge.kind,
                        app: match forge.auth {
                            Some(ForgeAuth::App { id, .. }) => Some(id),
                            Some(ForgeAuth::Token(_)) | None => None,
                        },
                        verifier,
                    };
                    gates.insert(forge.name.clone(), Arc::new(gate));
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self(gates))
        } else {
            Err(errors)
        }
    }
}

fn verifier(forge: &config::Forge) -> Result<Option<Verifier>, OpenError> {
    let Some(file) = &forge.webhook_secret else {
        return Ok(None);
    };
    let secret = file.read().map_err(|source| OpenError::Secret {
        forge: forge.name.clone(),
        what: "the secret of its webhooks",
        path: file.path.clone(),
        source,
    })?;
    let verifier = Verifier::new(forge.kind, &secret).map_err(|why| OpenError::Other {
        forge: forge.name.clone(),
        why: format!("the secret of its webhooks {}: {why}", file.path.display()),
    })?;
    Ok(Some(verifier))
}

impl Hooks {
    pub(crate) fn new(live: Live, index: Index) -> Self {
        Self {
            live,
            index,
            queued: Arc::default(),
            refusal_told: Arc::new(AtomicI64::new(Millis::MIN)),
        }
    }

    /// The forge of this name, if its deliveries are taken: nothing is read of a body before that is clear.
    pub(crate) fn gate(&self, forge: &str) -> Result<Arc<Gate>, Turned> {
        let Some(gate) = self.live.now().gates.0.get(forge).cloned() else {
            metrics::refused("", "unknown-forge");
            return Err(Turned::UnknownForge(forge.to_owned()));
        };
        if gate.verifier.is_none() {
            metrics::refused(forge, "no-secret");
            return Err(Turned::NoSecret(forge.to_owned()));
        }
        Ok(gate)
    }

    /// Counts a delivery that was refused before anything was known of it.
    pub(crate) fn refused(gate: &Gate, reason: &'static str) {
        metrics::refused(&gate.name, reason);
    }

    /// Takes a delivery: returns once it is on disk. Whoever goes away while it waits leaves open whether it was taken; the
    /// forge sends it again under the same number.
    pub(crate) async fn take(&self, gate: Arc<Gate>, headers: HeaderMap, body: Bytes) -> Result<Receipt, Turned> {
        let forge = gate.name.clone();
        let opened = if body.len() > SMALL {
            let opening = tokio::task::spawn_blocking(move || open(&gate, &headers, &body));
            // It panicked, or the runtime is going down.
            opening.await.unwrap_or(Err(Turned::Index))
        } else {
            open(&gate, &headers, &body)
        };
        let new = opened.inspect_err(|turned| self.turned_away(&forge, turned))?;
        metrics::received(&forge);
        let ignored = new.content.as_ref().err().cloned();
        let taken = self
            .index
            .write_durable(move |tx| deliveries::take(tx, &new, now()))
            .await;
        match taken.map_err(|error| failed(&forge, &error))? {
            Taken::Queued(id) => {
                debug!(
                    forge,
                    delivery = id.0,
                    "a delivery of `{forge}` waits as number {}",
                    id.0
                );
                self.queued.notify_one();
                Ok(Receipt::Queued)
            }
            Taken::Ignored => {
                metrics::done(&forge, Outcome::Ignored);
                Ok(Receipt::Ignored(ignored.unwrap_or_default()))
            }
            Taken::Known => {
                metrics::known(&forge);
                Ok(Receipt::Known)
            }
        }
    }

    /// Counts a delivery that is not taken, and tells the operator now and then: a forge shows only to its own users that
    /// a webhook has the wrong secret.
    fn turned_away(&self, forge: &str, turned: &Turned) {
        let reason = match turned {
            Turned::Signature(_) => "signature",
            Turned::NotJson => "content-type",
            Turned::Malformed(_) => "malformed",
            Turned::Index => "index",
            Turned::UnknownForge(_) => "unknown-forge",
            Turned::NoSecret(_) => "no-secret",
        };
        metrics::refused(forge, reason);
        let (at, last) = (now(), self.refusal_told.load(Ordering::Relaxed));
        let is_time = at.saturating_sub(last) >= REFUSALS_TOLD;
        let is_first = is_time
            && self
                .refusal_told
                .compare_exchange(last, at, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if is_first {
            warn!(forge, reason, "refused a webhook delivery of `{forge}`: {turned}");
        }
    }
}

fn failed(forge: &str, error: &index::Error) -> Turned {
    error!(forge, "failed to keep a webhook delivery of `{forge}`: {}", told(error));
    metrics::refused(forge, "index");
    Turned::Index
}

/// Checks the signature, and then reads what is asked for.
fn open(gate: &Gate, headers: &HeaderMap, body: &[u8]) -> Result<NewDelivery, Turned> {
    let Some(verifier) = &gate.verifier else {
        return Err(Turned::NoSecret(gate.name.clone()));
    };
    verifier
        .check(headers, body, now() / 1_000)
        .map_err(|bad| Turned::Signature(bad.to_string()))?;
    if !delivery::is_json(headers) {
        return Err(Turned::NotJson);
    }
    let malformed = |error: ask::Malformed| Turned::Malformed(error.0);
    let digest: [u8; 32] = Sha256::digest(body).into();
    let label = delivery::label(gate.kind, headers, &digest).map_err(malformed)?;
    let reading = delivery::read(gate.kind, gate.app, &label.event, body).map_err(malformed)?;
    // The same push comes twice where a branch goes forth and back and forth; everything else tells its time.
    let is_push = matches!(reading, Reading::Ask(Ask::Push(_)));
    let content = match reading {
        Reading::Ask(ask) => {
            let json = serde_json::to_string(&ask).map_err(|error| Turned::Malformed(error.to_string()))?;
            Ok(json)
        }
        Reading::Nothing(why) => Err(why),
    };
    Ok(NewDelivery {
        forge: gate.name.clone(),
        number: label.number,
        digest,
        event: label.event,
        content,
        is_unique: !is_push && !verifier.signs_number(),
    })
}
