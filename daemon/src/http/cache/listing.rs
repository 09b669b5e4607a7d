//! `/<hash part>.ls`: what is in a NAR.

use std::io::BufReader;
use std::sync::Arc;

use axum::http::HeaderMap;
use axum::response::Response;
use bytes::Bytes;
use nixci_protocol::types::{Hash, nix32};
use nixci_store::listing::{self, ListingError};
use tokio_util::io::SyncIoBridge;

use super::Cache;
use super::answer::{self, Refusal};
use super::conditional::has_it;
use super::known::Known;
use crate::error::told;

/// Bytes of one listing. The largest in nixpkgs have some ten megabytes.
const LIMIT: usize = 32 << 20;
/// Bytes that are read of a NAR at once.
const BUFFER: usize = 128 * 1024;

pub(super) async fn listing(cache: &Cache, digest: &[u8; 20], headers: &HeaderMap) -> Result<Response, Refusal> {
    let known = cache.known(digest).await?.ok_or_else(|| nobody(digest))?;
    let etag = format!("\"{}-ls\"", Hash::from(known.info.info.nar_hash).base32());
    let text = if has_it(headers, &etag) {
        Bytes::new()
    } else {
        let making = cache
            .listings
            .try_get_with(known.info.info.nar_hash, make(cache, &known));
        making.await.map_err(|refusal: Arc<Refusal>| Refusal::clone(&refusal))?
    };
    Ok(answer::whole(
        headers,
        "application/json",
        &etag,
        answer::FOR_A_DAY,
        text,
    ))
}

/// Reads the NAR once; meanwhile others who ask for the same wait for the same.
async fn make(cache: &Cache, known: &Known) -> Result<Bytes, Refusal> {
    let _turn = cache.turn().await?;
    let path = &known.info.path;
    let nar = cache.open(path).await?;
    let (size, hash) = (known.info.info.nar_size, known.info.info.nar_hash);
    let listed = tokio::task::spawn_blocking(move || {
        let reader = BufReader::with_capacity(BUFFER, SyncIoBridge::new(nar.reader));
        listing::listing(reader, size, &hash, LIMIT)
    });
    match listed.await {
        Ok(Ok(text)) => Ok(text.into()),
        Ok(Err(error @ (ListingError::Name(_) | ListingError::TooLarge { .. }))) => {
            Err(Refusal::Missing(format!("{path} has no listing: {error}")))
        }
        Ok(Err(error @ (ListingError::Nar(_) | ListingError::Size { .. } | ListingError::Hash { .. }))) => Err(
            Refusal::Unavailable(format!("{path} could not be read: {}", told(&error))),
        ),
        Err(gone) => Err(Refusal::Failed(format!("the listing of {path} was not made: {gone}"))),
    }
}

pub(super) fn nobody(digest: &[u8; 20]) -> Refusal {
    Refusal::Missing(format!(
        "no store here has a path with the hash {}",
        nix32::encode(digest)
    ))
}
