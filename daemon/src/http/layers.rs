//! What is around every handler: limits, headers, traces, and the face of errors.

use std::time::Instant;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{DefaultBodyLimit, MatchedPath, Request};
use axum::http::header::{self, HeaderName, HeaderValue};
use axum::http::{Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::limit::RequestBodyLimitLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use tower_http::trace::TraceLayer;

use super::Site;
use super::pages::error_page;

/// Bytes that a request's body may have: nothing here reads one.
const BODY_BYTES: usize = 64 * 1024;
/// Bytes of an error's text that are given a face.
const ERROR_BYTES: usize = 64 * 1024;

/// Scripts, styles and images come from here only, and nobody may frame a page.
const POLICY: &str = "default-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'";

const HEADERS: [(HeaderName, &str); 4] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "same-origin"),
    (header::X_FRAME_OPTIONS, "DENY"),
];

/// `cache` is the binary cache: what it sends is for programs and compressed already, so that it gets neither a face nor
/// what browsers need.
pub(super) fn around(flowing: Router<Site>, whole: Router<Site>, cache: Option<Router>) -> Router<Site> {
    let mut router = whole
        .layer(CompressionLayer::new())
        .merge(flowing)
        .fallback(async |uri: Uri| (StatusCode::NOT_FOUND, format!("there is no page {}", uri.path())))
        .layer(DefaultBodyLimit::disable())
        .layer(RequestBodyLimitLayer::new(BODY_BYTES))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(give_face))
        .layer(middleware::from_fn(count));
    for (name, value) in HEADERS {
        router = router.layer(SetResponseHeaderLayer::overriding(
            name,
            HeaderValue::from_static(value),
        ));
    }
    if let Some(cache) = cache {
        let cache = cache
            .layer(RequestBodyLimitLayer::new(0))
            .layer(CatchPanicLayer::custom(panicked))
            .layer(middleware::from_fn(count));
        router = router.merge(cache.with_state(()));
    }
    router.layer(TraceLayer::new_for_http())
}

/// What forges tell: for programs, and with limits of its own.
pub(super) fn around_webhooks(hooks: Router) -> Router {
    hooks
        .layer(DefaultBodyLimit::disable())
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(count))
        .layer(TraceLayer::new_for_http())
}

fn panicked(_: Box<dyn std::any::Any + Send>) -> Response {
    tracing::error!("a handler panicked");
    let text = "this page failed; the daemon goes on, and its log says more";
    (StatusCode::INTERNAL_SERVER_ERROR, text).into_response()
}

/// Makes JSON of a plain error below `/api/`, and a page of any other.
async fn give_face(request: Request, next: Next) -> Response {
    let path = request.uri().path().to_owned();
    let bare = ["/healthz", "/metrics", "/assets/"]
        .iter()
        .any(|prefix| path.starts_with(prefix));
    let response = next.run(request).await;
    let status = response.status();
    let is_plain = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_none_or(|kind| kind.as_bytes().starts_with(b"text/plain"));
    if bare || !is_plain || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let (mut parts, body) = response.into_parts();
    let text = to_bytes(body, ERROR_BYTES).await.unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let message = match (text.trim(), status.canonical_reason()) {
        ("", reason) => reason.unwrap_or("error").to_lowercase(),
        (text, _) => text.to_owned(),
    };
    parts.headers.remove(header::CONTENT_TYPE);
    parts.headers.remove(header::CONTENT_LENGTH);
    let faced = if path.starts_with("/api/") {
        axum::Json(serde_json::json!({ "error": message })).into_response()
    } else {
        match error_page(status, &message) {
            Ok(page) => Html(page).into_response(),
            Err(_) => message.into_response(),
        }
    };
    let (faced, body) = faced.into_parts();
    parts.headers.extend(faced.headers);
    Response::from_parts(parts, Body::new(body))
}

async fn count(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("none", |path| path.as_str())
        .to_owned();
    let method = if request.method() == Method::GET {
        "GET"
    } else {
        "other"
    };
    let started = Instant::now();
    let response = next.run(request).await;
    let millis = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    super::metrics::request(&route, method, response.status().as_u16(), millis);
    response
}
