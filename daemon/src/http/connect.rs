//! The worker protocol over HTTP: what `nixci` reaches as `https://…`.
//!
//! ```text
//! GET /connect HTTP/1.1
//! Host: ci.example.org
//! Connection: Upgrade
//! Upgrade: nix-worker-protocol
//! Authorization: Bearer TOKEN
//! ```
//!
//! is answered by `101 Switching Protocols`, and from then on both sides speak as on the socket. The client may send
//! its greeting together with the request: it is read after the answer, and no round trip is lost. What is not let in
//! gets an HTTP answer with one line of text: 401 for a token that is missing, unknown or expired, 403 for one that is good
//! for other things, 426 for what is no upgrade, 503 where there is no place or the daemon stops.
//!
//! A token that counts no more ends its connections: within a second after it was revoked, has expired or is good for other
//! things, the next request gets an error that says so, and nothing after it is read. What was asked before goes on. The
//! token of an issuer says who connects and may expire meanwhile; such a connection is good for a day, as long as the
//! configuration lets its job in.
//!
//! HTTP/1.1 only, as HTTP/2 switches protocols otherwise. A reverse proxy in front must pass the two headers on, wait as
//! long as a build prints nothing, and buffer nothing:
//!
//! ```text
//! # nginx
//! location /connect {
//!     proxy_pass http://127.0.0.1:8473;
//!     proxy_http_version 1.1;
//!     proxy_set_header Host $host;
//!     proxy_set_header Connection upgrade;
//!     proxy_set_header Upgrade $http_upgrade;
//!     proxy_read_timeout 1d;
//!     proxy_send_timeout 1d;
//! }
//!
//! # Caddy passes upgrades on by itself
//! ci.example.org {
//!     reverse_proxy 127.0.0.1:8473
//! }
//! ```

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, RETRY_AFTER, UPGRADE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Version};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::FutureExt as _;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use sha2::{Digest as _, Sha256};
use tracing::{debug, error, warn};

use super::guard::{Turned, given};
use crate::door::{Door, Guest};
use crate::listen::{Admission, Full, GRACE, Parked, Place, Places};
use crate::principal::{Credentials, Pass, Principal};
use crate::shutdown::Shutdown;

/// Where it is.
const PATH: &str = "/connect";
/// What is asked for in `Upgrade`.
const PROTOCOL: &str = "nix-worker-protocol";

/// A principal's name, cut to what can be copied.
type Key = [u8; 16];

/// What every connection meets first.
#[derive(Clone)]
struct Reception {
    door: Arc<Door>,
    credentials: Credentials,
    admission: Admission<Key>,
    stop: Shutdown,
}

/// The one route. It asks for tokens by itself, also where everybody may read.
pub(crate) fn routes(door: Arc<Door>, credentials: Credentials, stop: Shutdown) -> Router {
    let live = door.live().clone();
    let reception = Reception {
        credentials,
        admission: Admission::new(move || {
            let settings = live.now();
            Places {
                total: settings.config.limits.connections,
                per_user: settings.config.limits.connections_per_user,
            }
        }),
        door,
        stop,
    };
    Router::new().route(PATH, get(connect)).with_state(reception)
}

/// Why nobody is connected.
enum Refusal {
    Turned(Turned),
    /// It did not ask for the protocol.
    NoUpgrade(&'static str),
    NoPlace(String),
    Stopping,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, text, header): (_, _, Option<(HeaderName, &'static str)>) = match self {
            Self::Turned(turned) => return turned.into_response(),
            Self::NoUpgrade(text) => (StatusCode::UPGRADE_REQUIRED, text.to_owned(), Some((UPGRADE, PROTOCOL))),
            Self::NoPlace(text) => (StatusCode::SERVICE_UNAVAILABLE, text, Some((RETRY_AFTER, "5"))),
            Self::Stopping => (
                StatusCode::SERVICE_UNAVAILABLE,
                "the daemon is stopping; connect again when it is back".to_owned(),
                Some((RETRY_AFTER, "5")),
            ),
        };
        let mut response = (status, format!("{text}\n")).into_response();
        let headers = response.headers_mut();
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if let Some((name, value)) = header {
            headers.insert(name, HeaderValue::from_static(value));
        }
        response
    }
}

async fn connect(State(reception): State<Reception>, request: Request) -> Response {
    match reception.admit(request).await {
        Ok(()) => (
            StatusCode::SWITCHING_PROTOCOLS,
            [(CONNECTION, "upgrade"), (UPGRADE, PROTOCOL)],
        )
            .into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

impl Reception {
    /// Lets somebody in, who is served once the answer is sent.
    async fn admit(&self, mut request: Request) -> Result<(), Refusal> {
        let token = given(request.headers()).ok_or(Refusal::Turned(Turned::NoToken))?;
        // A token that is good for one use is not used up by what is no connection.
        let upgrade = asked(&mut request)?;
        if self.stop.accepting.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        let holder = self.credentials.holder(&token).await;
        let pass = holder
            .and_then(|pass| pass.who().may_connect().map(|()| pass))
            .map_err(|refused| Refusal::Turned(Turned::Refused(refused)))?;
        let who = pass.who().clone();
        let place = self.admission.admit(key(&who)).map_err(|full| {
            let text = no_place(&full, &who);
            if self.admission.may_tell(Instant::now()) {
                warn!(principal = who.name(), "refused a connection: {text}");
            }
            Refusal::NoPlace(text)
        })?;
        let reception = self.clone();
        self.stop.serving.spawn(async move {
            let connections = reception.stop.connections.clone();
            let receiving = AssertUnwindSafe(async {
                tokio::select! {
                    () = reception.receive(upgrade, who, pass, place) => {}
                    () = async {
                        connections.cancelled().await;
                        tokio::time::sleep(GRACE).await;
                    } => {}
                }
            });
            if receiving.catch_unwind().await.is_err() {
                error!("a connection ended in a panic; the others go on");
            }
        });
        Ok(())
    }

    async fn receive(&self, upgrade: OnUpgrade, who: Principal, pass: Pass, place: Place<Key>) {
        let Some(guest) = self.greet(upgrade, &who, &place).await else {
            return;
        };
        self.door.serve(guest, who, Some(pass)).await;
        drop(place);
    }

    /// Waits for the switch and the handshake, as long as the place is this client's and it does not dawdle.
    async fn greet(&self, upgrade: OnUpgrade, who: &Principal, place: &Place<Key>) -> Option<Guest> {
        let greeting = async {
            let upgraded = match upgrade.await {
                Ok(upgraded) => upgraded,
                Err(error) => {
                    debug!(principal = who.name(), "a connection ended before it began: {error}");
                    return None;
                }
            };
            let (read, write) = tokio::io::split(TokioIo::new(upgraded));
            let read = Parked::new(read, self.stop.connections.clone());
            self.door.greet(read, write, who).await
        };
        let handshake_time = self.door.settings().config.limits.handshake_time;
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(handshake_time, greeting) => greeted,
            () = place.lost() => {
                debug!(principal = who.name(), "a connection without a handshake gave way to another");
                return None;
            }
        };
        if let Ok(guest) = greeted {
            return guest.filter(|_| place.keep());
        }
        debug!(
            principal = who.name(),
            "a client did not shake hands within {} s (`handshake_time` in [limits])",
            handshake_time.as_secs()
        );
        None
    }
}

/// The switch of protocols, where the request asks for one.
fn asked(request: &mut Request) -> Result<OnUpgrade, Refusal> {
    if request.version() != Version::HTTP_11 {
        return Err(Refusal::NoUpgrade(
            "this needs HTTP/1.1, which alone can switch to the worker protocol",
        ));
    }
    let headers = request.headers();
    if !lists(headers, &CONNECTION, "upgrade") || !lists(headers, &UPGRADE, PROTOCOL) {
        return Err(Refusal::NoUpgrade(
            "this needs `Connection: Upgrade` and `Upgrade: nix-worker-protocol`; a reverse proxy in front must pass both on",
        ));
    }
    let upgrade = request.extensions_mut().remove::<OnUpgrade>();
    upgrade.ok_or(Refusal::NoUpgrade("this connection cannot be switched"))
}

/// Whether a header that is a list has this word.
fn lists(headers: &HeaderMap, name: &HeaderName, word: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values
        .flat_map(|value| value.split(','))
        .any(|item| item.trim().eq_ignore_ascii_case(word))
}

fn key(who: &Principal) -> Key {
    let digest = Sha256::digest(who.name().as_bytes());
    std::array::from_fn(|nth| digest[nth])
}

fn no_place(full: &Full<Key>, who: &Principal) -> String {
    match full {
        Full::Total { open } => format!(
            "the daemon has {open} connections open over HTTP, which is all it takes (`connections` in [limits]); try again later"
        ),
        Full::User { open, .. } => format!(
            "{who} has {open} connections open, which is all one may have (`connections_per_user` in [limits]); close some and try again"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_http_writes_them() {
        let mut headers = HeaderMap::new();
        headers.append(CONNECTION, HeaderValue::from_static("keep-alive, UPGRADE"));
        headers.append(CONNECTION, HeaderValue::from_static("x"));
        assert!(lists(&headers, &CONNECTION, "upgrade") && lists(&headers, &CONNECTION, "x"));
        assert!(!lists(&headers, &CONNECTION, "up") && !lists(&headers, &UPGRADE, "x"));
    }
}
