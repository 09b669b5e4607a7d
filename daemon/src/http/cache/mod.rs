//! The binary cache over HTTP: what stock Nix reads with `substituters = http://…`.
//!
//! It serves what the stores behind and the spool have, as [`crate::objects`] finds it, to whoever reaches the port: who may
//! is for a layer in front of [`routes`] to say, not for anything here.
//!
//! A NAR that is asked for the first time is packed while it is sent. From the second time on it is packed into the cache
//! on disk, and everybody reads along; after that it comes from there. Both ways send the same bytes, so that a download
//! that broke off goes on either way. A range of what is not on disk yet has to wait until it is: only then is the length
//! known that the answer must tell.
//!
//! What nobody has is 404 for a minute. When a store that might have it does not answer, that is 503, which clients try
//! again, and not 404, which they remember.

mod answer;
mod body;
mod conditional;
mod known;
mod listing;
mod logs;
mod nar;
mod narinfo;
mod realisations;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use nixci_protocol::binary_cache::{About, NoHashPart};
use nixci_protocol::op::Nar;
use nixci_protocol::types::{NarHash, StorePath};
use nixci_store::nar_cache::NarCache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::answer::Refusal;
use self::known::Known;
use crate::core::Core;
use crate::objects::ObjectError;

/// NARs that are read from stores at once for clients of the cache, besides those that are written into it: each holds a
/// connection to a store, and other doors ask over the same ones.
const FROM_STORES: usize = 8;
/// How long a client waits for its turn among those.
const TURN: Duration = Duration::from_secs(20);
/// Bytes of narinfos kept in memory.
const NARINFO_BYTES: u64 = 24 << 20;
/// Bytes of listings kept in memory.
const LISTING_BYTES: u64 = 16 << 20;

/// The cache; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Cache {
    core: Arc<Core>,
    nars: NarCache,
    /// What was asked for, by hash part. An entry counts only together with what the stores say now.
    known: moka::sync::Cache<[u8; 20], Arc<Known>>,
    listings: moka::future::Cache<NarHash, Bytes>,
    from_stores: Arc<Semaphore>,
    info: Bytes,
    /// Public keys of those that sign.
    keys: Arc<[String]>,
}

impl Cache {
    pub(crate) fn new(core: Arc<Core>, nars: NarCache, keys: Vec<String>) -> Self {
        let weight = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
        let info = format!(
            "StoreDir: {}\nWantMassQuery: 1\nPriority: {}\n",
            core.config.store_dir, core.config.cache.priority
        );
        Self {
            core,
            nars,
            known: moka::sync::Cache::builder()
                .max_capacity(NARINFO_BYTES)
                .weigher(move |_, known: &Arc<Known>| weight(known.weight()))
                .build(),
            listings: moka::future::Cache::builder()
                .max_capacity(LISTING_BYTES)
                .weigher(move |_, listing: &Bytes| weight(listing.len() + 100))
                .build(),
            from_stores: Arc::new(Semaphore::new(FROM_STORES)),
            info: info.into(),
            keys: keys.into(),
        }
    }

    /// Bytes of the NARs kept on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.nars.bytes()
    }

    /// What clients have to trust to take what is signed here.
    pub(crate) fn keys(&self) -> &[String] {
        &self.keys
    }

    /// A turn among those who read from stores.
    async fn turn(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        let turn = tokio::time::timeout(TURN, self.from_stores.clone().acquire_owned()).await;
        turn.ok().and_then(Result::ok).ok_or(Refusal::Busy)
    }

    /// The NAR of a path, as whoever has it sends it.
    async fn open(&self, path: &StorePath) -> Result<Nar, Refusal> {
        let nar = self.core.objects.nar(path).await?;
        nar.ok_or_else(|| Refusal::Missing(format!("{path} is not here any more")))
    }
}

/// The addresses of the cache.
pub(crate) fn routes(cache: Cache) -> Router {
    Router::new()
        .route("/nix-cache-info", get(cache_info))
        .route("/{name}", get(top))
        .route("/nar/{name}", get(nar::nar))
        .route("/log/{name}", get(logs::log))
        .route("/realisations/{name}", get(realisations::by_hash))
        .route("/build-trace-v2/{drv}/{output}", get(realisations::by_path))
        .with_state(cache)
}

async fn cache_info(State(cache): State<Cache>, headers: HeaderMap) -> Response {
    // The store directory and the priority are all of it.
    let etag = format!("\"{}\"", NarHash::of(&cache.info).to_string().split_at(16).0);
    answer::whole(
        &headers,
        "text/x-nix-cache-info",
        &etag,
        answer::FOR_A_DAY,
        cache.info.clone(),
    )
}

/// What is named after the hash part of a path.
async fn top(
    State(cache): State<Cache>,
    Path(name): Path<String>,
    headers: HeaderMap,
    uri: Uri,
) -> Result<Response, Refusal> {
    match About::parse(&name) {
        Some(Ok(About::Narinfo(digest))) => narinfo::narinfo(&cache, &digest, &headers).await,
        Some(Ok(About::Listing(digest))) => listing::listing(&cache, &digest, &headers).await,
        Some(Err(NoHashPart)) => {
            let text = "expected the 32 base 32 characters of a store path's hash in front of the dot";
            Err(Refusal::Nonsense(text.to_owned()))
        }
        None => Ok((StatusCode::NOT_FOUND, format!("there is no page {}", uri.path())).into_response()),
    }
}

/// Whether a store did not answer, so that what is at hand may be given without it.
fn is_unavailable(error: &ObjectError) -> bool {
    matches!(error, ObjectError::Unreachable(_) | ObjectError::Store { .. })
}
