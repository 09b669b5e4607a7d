//! `/<hash part>.narinfo`: what is known of a path, and where its NAR is.

use super::answer::{self, Refusal};
use super::{Cache, listing};
use axum::http::HeaderMap;
use axum::response::Response;

pub(super) async fn narinfo(cache: &Cache, digest: &[u8; 20], headers: &HeaderMap) -> Result<Response, Refusal> {
    let known = cache.known(digest).await?.ok_or_else(|| listing::nobody(digest))?;
    Ok(answer::whole(
        headers,
        "text/x-nix-narinfo",
        &known.etag,
        answer::FOR_A_DAY,
        known.narinfo.clone(),
    ))
}
