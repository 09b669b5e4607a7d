//! The pages: what the reader knows, put into words and templates.

pub(super) mod build;
pub(super) mod evaluation;
pub(super) mod forges;
pub(super) mod home;
pub(super) mod lists;
pub(super) mod project;
pub(super) mod stores;

use askama::Template;
use axum::http::StatusCode;

use crate::http::show;

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage<'a> {
    title: &'a str,
    message: &'a str,
}

/// The page of an error.
pub(super) fn error_page(status: StatusCode, message: &str) -> askama::Result<String> {
    let title = match status {
        StatusCode::NOT_FOUND => "Not here",
        StatusCode::BAD_REQUEST => "That is not an address",
        StatusCode::SERVICE_UNAVAILABLE => "Not now",
        _ => status.canonical_reason().unwrap_or("Error"),
    };
    ErrorPage { title, message }.render()
}

/// The page of a derivation, by its full path.
fn build_url(drv_path: &str) -> String {
    format!("/b/{}", show::segment(show::base_name(drv_path)))
}

/// What an evaluation is called: its commit, or its number.
fn evaluation_name(commit: Option<&str>, id: i64) -> String {
    commit.map_or_else(|| format!("evaluation {id}"), |commit| show::commit(commit).to_owned())
}
