//! What every answer of the cache has in common: how long it holds, and what is said where there is nothing to give.

use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use nixci_protocol::types::{NarHash, StorePathError, nix32};
use tracing::{error, warn};

use super::conditional::has_it;
use crate::error::told;
use crate::objects::ObjectError;

/// What never changes at its address.
pub(super) const FOR_EVER: &str = "max-age=31536000, immutable";
/// What holds for its path, but may yet get a signature more.
pub(super) const FOR_A_DAY: &str = "max-age=86400";
/// What may be otherwise soon: that something is not there, and logs.
pub(super) const FOR_A_MINUTE: &str = "max-age=60";

/// Why there is nothing to give.
#[derive(Debug, Clone)]
pub(super) enum Refusal {
    /// Nobody has it. Clients remember that for long, so that it is said only where every store was asked.
    Missing(String),
    /// The address means nothing.
    Nonsense(String),
    /// As much as can be is being done.
    Busy,
    /// Whoever has it, or would know, does not answer.
    Unavailable(String),
    /// Something here is broken.
    Failed(String),
}

impl From<ObjectError> for Refusal {
    fn from(error: ObjectError) -> Self {
        match &error {
            ObjectError::Unreachable(_) | ObjectError::Store { .. } => Self::Unavailable(told(&error)),
            ObjectError::Gone { .. } => Self::Missing(told(&error)),
            ObjectError::Spool(_) | ObjectError::Index(_) | ObjectError::Log(_) => Self::Failed(told(&error)),
        }
    }
}

impl From<StorePathError> for Refusal {
    fn from(error: StorePathError) -> Self {
        Self::Nonsense(told(&error))
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        const LATER: Duration = Duration::from_secs(10);
        let (status, text) = match self {
            Self::Missing(text) => (StatusCode::NOT_FOUND, text),
            Self::Nonsense(text) => (StatusCode::BAD_REQUEST, text),
            Self::Busy => {
                let text = "too many NARs are being fetched from the stores; try again later";
                (StatusCode::SERVICE_UNAVAILABLE, text.to_owned())
            }
            Self::Unavailable(text) => {
                warn!("the binary cache cannot answer: {text}");
                (StatusCode::SERVICE_UNAVAILABLE, text)
            }
            Self::Failed(text) => {
                error!("the binary cache cannot answer: {text}");
                let text = "the cache failed; the daemon's log says why";
                (StatusCode::INTERNAL_SERVER_ERROR, text.to_owned())
            }
        };
        let mut response = (status, text + "\n").into_response();
        let headers = response.headers_mut();
        if status.is_client_error() {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static(FOR_A_MINUTE));
        } else {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            headers.insert(RETRY_AFTER, LATER.as_secs().into());
        }
        response
    }
}

/// A whole body that is at hand, or word that the client has it already.
pub(super) fn whole(
    asked: &HeaderMap,
    kind: &'static str,
    etag: &str,
    holds: &'static str,
    body: impl Into<Body>,
) -> Response {
    let common = [(ETAG, etag), (CACHE_CONTROL, holds)];
    if has_it(asked, etag) {
        return (StatusCode::NOT_MODIFIED, common).into_response();
    }
    let kind: [(HeaderName, &str); 1] = [(CONTENT_TYPE, kind)];
    (common, kind, body.into()).into_response()
}

/// The tag of a text: it changes with every change of the text.
pub(super) fn etag(text: &str) -> String {
    format!("\"{}\"", nix32::encode(&NarHash::of(text.as_bytes()).0[..20]))
}
