//! `/metrics`: what happened since the start as counters, what is now as gauges set when they are asked for.
//!
//! There are no histograms: the recorder collects their samples until somebody asks, and nobody may ever do.

use std::collections::BTreeSet;
use std::sync::{Mutex, OnceLock, PoisonError};

use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use nixci_protocol::nixci::control::Collected;
use nixci_protocol::nixci::outcome::FailureClass;
use nixci_store::index::attempts::AttemptResult;
use nixci_store::index::statuses::Counts;

use super::Site;
use super::error::HttpError;
use crate::core::now;
use crate::webhook;

const BUILD_INFO: &str = "nixci_build_info";
const BUILDS: &str = "nixci_builds_total";
const ATTEMPTS: &str = "nixci_attempts_total";
const REQUESTS: &str = "nixci_http_requests_total";
const REQUEST_MILLIS: &str = "nixci_http_request_milliseconds_total";
const QUEUE: &str = "nixci_queue_builds";
const RUNNING: &str = "nixci_running_builds";
const SLOTS: &str = "nixci_store_slots";
const UP: &str = "nixci_store_up";
const SPOOL: &str = "nixci_spool_objects";
const LEASES: &str = "nixci_spool_leases";
const COLLECTIONS: &str = "nixci_collections_total";
const COLLECTION_MILLIS: &str = "nixci_collection_milliseconds_total";
const COLLECTED: &str = "nixci_collected_objects_total";
const COLLECTED_BYTES: &str = "nixci_collected_bytes_total";
const EVALUATIONS: &str = "nixci_open_evaluations";
const NARS: &str = "nixci_cache_nars_total";
const NAR_CACHE: &str = "nixci_nar_cache_bytes";
const STATUS_WRITES: &str = "nixci_status_writes_total";
const STATUS_UNSENT: &str = "nixci_unsent_statuses";
const STATUS_REFUSED: &str = "nixci_refused_statuses";
const STATUS_BEHIND: &str = "nixci_statuses_behind_seconds";

/// The recorder of this process: several daemons in one process, as in tests, share it.
pub(super) fn recorder() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE
        .get_or_init(|| {
            let recorder = PrometheusBuilder::new().build_recorder();
            let handle = recorder.handle();
            if metrics::set_global_recorder(recorder).is_err() {
                tracing::warn!("another metrics recorder is installed; /metrics will be empty");
            }
            describe();
            handle
        })
        .clone()
}

fn describe() {
    describe_gauge!(BUILD_INFO, "1; the labels say which nixci this is");
    describe_counter!(BUILDS, "Builds that came to an end, by result");
    describe_counter!(ATTEMPTS, "Attempts that ended, by store, result and class of failure");
    describe_counter!(REQUESTS, "HTTP requests, by route, method and status");
    describe_counter!(
        REQUEST_MILLIS,
        Unit::Milliseconds,
        "Time until HTTP responses began, by route"
    );
    describe_gauge!(QUEUE, "Builds that could run and wait for a slot, by store");
    describe_gauge!(RUNNING, "Builds that run, by store");
    describe_gauge!(SLOTS, "Builds that may run at once, by store");
    describe_gauge!(UP, "0 while a store is left alone because it did not answer, else 1");
    describe_gauge!(SPOOL, "Store objects in the spool");
    describe_gauge!(
        LEASES,
        "Connections and submissions that keep objects of the spool from being collected"
    );
    describe_counter!(COLLECTIONS, "Collections of the spool that came to their end");
    describe_counter!(COLLECTION_MILLIS, Unit::Milliseconds, "Time that collections took");
    describe_counter!(COLLECTED, "Objects of the spool that were collected");
    describe_counter!(
        COLLECTED_BYTES,
        Unit::Bytes,
        "Disk that collections freed, logs included"
    );
    describe_gauge!(EVALUATIONS, "Evaluations that are not settled");
    describe_counter!(
        NARS,
        "NARs that the binary cache began to send, by where they came from"
    );
    describe_gauge!(NAR_CACHE, Unit::Bytes, "Compressed NARs kept on disk");
    describe_counter!(STATUS_WRITES, "Requests to forges, by forge and result");
    describe_gauge!(STATUS_UNSENT, "Statuses a forge has not got yet, by forge");
    describe_gauge!(
        STATUS_REFUSED,
        "Statuses that are not tried again before something changes, by forge"
    );
    describe_gauge!(
        STATUS_BEHIND,
        Unit::Seconds,
        "How long the oldest status a forge has not got has waited, by forge"
    );
    webhook::metrics::describe();
}

fn result_words(result: AttemptResult) -> (&'static str, &'static str) {
    match result {
        AttemptResult::Succeeded(_) => ("succeeded", ""),
        AttemptResult::Cancelled => ("cancelled", ""),
        AttemptResult::Failed(class) => (
            "failed",
            match class {
                FailureClass::Build => "build",
                FailureClass::HashMismatch => "hash-mismatch",
                FailureClass::Timeout => "timeout",
                FailureClass::LogLimit => "log-limit",
                FailureClass::Unsupported => "unsupported",
                FailureClass::Store => "store",
            },
        ),
    }
}

/// Counts an attempt that has ended, and the build with it where nothing more will be tried by itself.
pub(crate) fn attempt_ended(store: &str, result: AttemptResult) {
    let (word, class) = result_words(result);
    counter!(ATTEMPTS, "store" => store.to_owned(), "result" => word, "class" => class).increment(1);
    if result != AttemptResult::Failed(FailureClass::Store) {
        counter!(BUILDS, "result" => word, "class" => class).increment(1);
    }
}

/// Counts a collection.
pub(crate) fn collected(what: &Collected) {
    counter!(COLLECTIONS).increment(1);
    counter!(COLLECTION_MILLIS).increment(what.duration_ms);
    counter!(COLLECTED).increment(what.objects);
    counter!(COLLECTED_BYTES).increment(what.disk_bytes.saturating_add(what.log_bytes));
}

/// How a request to a forge ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StatusWrite {
    /// It was taken.
    Sent,
    /// Its answer was lost.
    Lost,
    /// It did not happen.
    Failed,
    /// The forge takes nothing for now.
    Limited,
    /// The forge does not take it.
    Refused,
}

/// Counts a request to a forge.
pub(crate) fn status_written(forge: &str, how: StatusWrite) {
    let how = match how {
        StatusWrite::Sent => "sent",
        StatusWrite::Lost => "lost",
        StatusWrite::Failed => "failed",
        StatusWrite::Limited => "limited",
        StatusWrite::Refused => "refused",
    };
    counter!(STATUS_WRITES, "forge" => forge.to_owned(), "result" => how).increment(1);
}

pub(super) fn request(route: &str, method: &'static str, status: u16, millis: u64) {
    let route = route.to_owned();
    counter!(REQUEST_MILLIS, "route" => route.clone()).increment(millis);
    counter!(REQUESTS, "route" => route, "method" => method, "status" => status.to_string()).increment(1);
}

/// Where the binary cache takes a NAR from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum NarFrom {
    /// A file that is whole.
    Disk,
    /// A file that is being written.
    Fill,
    /// A store, past the disk.
    Store,
}

pub(super) fn nar_sent(from: NarFrom) {
    let from = match from {
        NarFrom::Disk => "disk",
        NarFrom::Fill => "fill",
        NarFrom::Store => "store",
    };
    counter!(NARS, "from" => from).increment(1);
}

/// Sets the gauges of forges, those that have everything by now to 0.
fn show_unsent(counts: &[Counts]) {
    /// Forges that were shown before.
    static SHOWN: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    shown.extend(counts.iter().map(|counts| counts.forge.clone()));
    for forge in &*shown {
        let counts = counts.iter().find(|counts| counts.forge == *forge);
        let oldest = counts.and_then(|counts| counts.oldest);
        let behind = oldest.map_or(0, |oldest| now().saturating_sub(oldest).max(0));
        gauge!(STATUS_UNSENT, "forge" => forge.clone()).set(counts.map_or(0, |counts| counts.unsent) as f64);
        gauge!(STATUS_REFUSED, "forge" => forge.clone()).set(counts.map_or(0, |counts| counts.refused) as f64);
        gauge!(STATUS_BEHIND, "forge" => forge.clone()).set(behind as f64 / 1_000.0);
    }
}

/// What is known of the build beside the number: commit and day.
fn build() -> &'static str {
    let (_, build) = crate::VERSION.split_once(" (").unwrap_or_default();
    build.trim_end_matches(')')
}

pub(super) async fn metrics(State(site): State<Site>) -> Result<impl IntoResponse, HttpError> {
    let load = site.reader.load_of_stores().await?;
    for (store, load) in load {
        let name = store.name;
        gauge!(QUEUE, "store" => name.clone()).set(load.ready as f64);
        gauge!(RUNNING, "store" => name.clone()).set(f64::from(load.running));
        gauge!(SLOTS, "store" => name.clone()).set(f64::from(load.slots));
        gauge!(UP, "store" => name).set(if load.down.is_none() { 1.0 } else { 0.0 });
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION"), "build" => build()).set(1.0);
    if let Some(cache) = &site.cache {
        gauge!(NAR_CACHE).set(cache.bytes() as f64);
    }
    gauge!(SPOOL).set(site.reader.spooled() as f64);
    gauge!(LEASES).set(site.reader.leases() as f64);
    gauge!(EVALUATIONS).set(site.reader.open_evaluations().await? as f64);
    show_unsent(&site.reader.unsent_statuses().await?);
    webhook::metrics::waiting(site.reader.webhooks_waiting().await?);
    Ok((
        [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
        site.prometheus.render(),
    ))
}
