//! The style, the script and the icon, compiled in; nothing comes from elsewhere.

use axum::Router;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::routing::get;

use super::Site;

// The version is in the address, so that a browser may keep a file for as long as it likes.
pub(crate) const STYLE: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/style.css");
pub(crate) const SCRIPT: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/live.js");
pub(crate) const ICON: &str = concat!("/assets/", env!("CARGO_PKG_VERSION"), "/icon.svg");

pub(super) fn routes() -> Router<Site> {
    Router::new()
        .route(
            STYLE,
            get(async || asset("text/css; charset=utf-8", include_str!("../../assets/style.css"))),
        )
        .route(
            SCRIPT,
            get(async || asset("text/javascript; charset=utf-8", include_str!("../../assets/live.js"))),
        )
        .route(
            ICON,
            get(async || asset("image/svg+xml", include_str!("../../assets/icon.svg"))),
        )
}

fn asset(kind: &'static str, content: &'static str) -> impl axum::response::IntoResponse {
    ([(CONTENT_TYPE, kind), (CACHE_CONTROL, "public, max-age=3600")], content)
}
