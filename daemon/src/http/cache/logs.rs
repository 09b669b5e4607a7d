//! `/log/<name>`: what a build printed, where it was built through here.

use std::io;

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::stream;
use nixci_protocol::types::StorePath;

use super::Cache;
use super::answer::{self, Refusal};
use crate::http::api::plain;

/// The log of a derivation, named with or without its `.drv`, or of one that makes this output.
pub(super) async fn log(State(cache): State<Cache>, Path(name): Path<String>) -> Result<Response, Refusal> {
    let path: StorePath = name.parse()?;
    let mut log = cache.core.objects.log(&path).await?;
    if log.is_none() && !path.is_derivation() {
        // Without the ending too long a name may become none.
        if let Ok(drv) = format!("{path}.drv").parse() {
            log = cache.core.objects.log(&drv).await?;
        }
    }
    let log = log.ok_or_else(|| Refusal::Missing(format!("no build of {path} was seen here, so it has no log")))?;
    let pieces = stream::try_unfold(log, async |mut log| match log.next().await {
        Ok(None) => Ok(None),
        Ok(Some(entry)) => Ok(Some((Bytes::from(plain(entry)), log))),
        Err(error) => Err(io::Error::other(error)),
    });
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (CACHE_CONTROL, answer::FOR_A_MINUTE),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}
