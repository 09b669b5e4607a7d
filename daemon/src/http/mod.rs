//! HTTP: pages for people, JSON for programs, metrics for Prometheus, a binary cache for Nix, and the door for runners.
//!
//! Everything here but [`connect`] and [`webhooks`] reads; nothing can be changed through it. Who may read, [`guard`]
//! decides. Pages are rendered whole and work without scripts; a small script keeps an open page as new as the daemon. Addresses of
//! evaluations, builds, attempts and log lines stay what they are for ever.

mod api;
pub(crate) mod assets;
pub(crate) mod cache;
pub(crate) mod connect;
mod error;
mod events;
mod guard;
mod layers;
mod metrics;
mod pages;
mod select;
mod serve;
mod show;
mod tls;
pub(crate) mod webhooks;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::cache::Cache;
pub(crate) use self::guard::Guard;
pub(crate) use self::metrics::{StatusWrite, attempt_ended, collected, status_written};
pub(crate) use self::serve::{places, serve};
pub(crate) use self::show::segment;
pub(crate) use self::tls::Certificate;
pub use self::tls::TlsError;
use crate::read::Reader;

/// Event streams and followed logs that may be open at once; each one holds a connection and a little memory.
const STREAMS: usize = 256;

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct Site {
    reader: Reader,
    /// The binary cache, where it is served.
    cache: Option<Cache>,
    streams: Arc<Semaphore>,
    prometheus: metrics_exporter_prometheus::PrometheusHandle,
}

impl Site {
    /// A place among the answers that do not end by themselves; none is waited for.
    fn stream_slot(&self) -> Result<OwnedSemaphorePermit, error::HttpError> {
        let slot = self.streams.clone().try_acquire_owned();
        slot.map_err(|_| error::HttpError::busy())
    }
}

/// All that is served over HTTP.
pub(crate) fn router(reader: Reader, cache: Option<Cache>) -> Router {
    let site = Site {
        reader,
        cache: cache.clone(),
        streams: Arc::new(Semaphore::new(STREAMS)),
        prometheus: metrics::recorder(),
    };
    // What flows as it happens must not wait in a compressor.
    let flowing = Router::new()
        .route("/e/{id}/events", get(events::evaluation))
        .route("/attempts/{id}/events", get(events::log))
        .route("/api/v1/attempts/{id}/log", get(api::log));
    let whole = Router::new()
        .route("/", get(pages::home::home))
        .route("/stores", get(pages::stores::stores))
        .route("/forges", get(pages::forges::forges))
        .route("/p/{*rest}", get(pages::project::project))
        .route("/e/{id}", get(pages::evaluation::evaluation))
        .route("/b/{name}", get(pages::build::build))
        .nest("/api/v1", api::routes())
        .route(
            "/healthz",
            get(async || concat!("nixci ", env!("CARGO_PKG_VERSION"), " is up\n")),
        )
        .route("/metrics", get(metrics::metrics))
        .merge(assets::routes());
    layers::around(flowing, whole, cache.map(cache::routes)).with_state(site)
}

/// The address of a project's page, below that of all pages.
pub(crate) fn project_path(project: &str) -> String {
    format!("/p/{}", show::segments(project))
}

#[cfg(test)]
pub(crate) fn now_for_tests() -> nixci_protocol::nixci::control::Millis {
    show::time::now()
}
