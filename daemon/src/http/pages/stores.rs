//! `/stores`: where builds run, and how what they built is fetched.

use askama::Template;
use axum::extract::State;
use axum::response::Html;
use nixci_protocol::nixci::control::StoreStatus;

use crate::http::Site;
use crate::http::error::HttpError;

#[derive(Template)]
#[template(path = "stores.html")]
struct Stores {
    stores: Vec<StoreStatus>,
    substituter: Option<Substituter>,
}

/// What a client's `nix.conf` needs.
struct Substituter {
    url: String,
    /// Public keys, separated by spaces; empty where nothing is signed.
    keys: String,
}

pub(in crate::http) async fn stores(State(site): State<Site>) -> Result<Html<String>, HttpError> {
    let stores = site.reader.stores().await?;
    let url = site.reader.pages().map(|pages| pages.to_string());
    let substituter = site.cache.as_ref().zip(url).map(|(cache, url)| Substituter {
        url,
        keys: cache.keys().join(" "),
    });
    Ok(Html(Stores { stores, substituter }.render()?))
}
