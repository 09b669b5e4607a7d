//! `/stores`: where builds run.

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
}

pub(in crate::http) async fn stores(State(site): State<Site>) -> Result<Html<String>, HttpError> {
    let stores = site.reader.stores().await?;
    Ok(Html(Stores { stores }.render()?))
}
