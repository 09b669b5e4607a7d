//! `POST /webhooks/{forge}`: deliveries of the forge of that name in the configuration.
//!
//! A body is taken whole before anything is known of its sender, so memory and time are bounded here: of one body by
//! `webhook_bytes`, of all bodies together by [`ROOM`], and all of it by [`READ_TIME`]. Everything else is
//! [`webhook`](crate::webhook)'s.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{CONTENT_LENGTH, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::layers;
use crate::webhook::{Gate, Hooks, Receipt, Turned};

/// How long a body may take: forges give up after ten seconds themselves.
const READ_TIME: Duration = Duration::from_secs(10);
/// Bytes of a body that need no room: nearly all bodies are smaller, and these never wait.
const FREE: usize = 64 * 1024;
/// How many of the largest bodies may be in memory at once.
const ROOM: u64 = 4;
/// Room is counted in so many bytes.
const UNIT: usize = 64 * 1024;

/// What the handler knows.
#[derive(Clone)]
struct Door {
    hooks: Hooks,
    /// Bytes of one body.
    limit: usize,
    room: Arc<Semaphore>,
}

/// The address of webhooks; bodies of more than `limit` bytes are refused.
pub(crate) fn routes(hooks: Hooks, limit: u64) -> Router {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let units = limit.div_ceil(UNIT).saturating_mul(ROOM as usize);
    let door = Door {
        hooks,
        limit,
        room: Arc::new(Semaphore::new(units.min(Semaphore::MAX_PERMITS))),
    };
    let routes = Router::new().route("/webhooks/{forge}", post(receive)).with_state(door);
    layers::around_webhooks(routes)
}

/// Why a body is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BadBody {
    TooLarge,
    TooSlow,
    Broken,
}

async fn receive(State(door): State<Door>, Path(forge): Path<String>, headers: HeaderMap, body: Body) -> Response {
    let gate = match door.hooks.gate(&forge) {
        Ok(gate) => gate,
        Err(turned) => return refuse(&turned),
    };
    let read = tokio::time::timeout(READ_TIME, whole(&door, &headers, body)).await;
    // The room is kept until the body is not needed any more.
    let (body, _room) = match read.unwrap_or(Err(BadBody::TooSlow)) {
        Ok(read) => read,
        Err(bad) => return bad.answer(&gate, door.limit),
    };
    match door.hooks.take(gate, headers, body).await {
        Ok(Receipt::Queued) => (StatusCode::ACCEPTED, "taken\n").into_response(),
        Ok(Receipt::Ignored(why)) => {
            (StatusCode::ACCEPTED, format!("taken, and nothing is done: {why}\n")).into_response()
        }
        Ok(Receipt::Known) => (StatusCode::OK, "this was here before\n").into_response(),
        Err(turned) => refuse(&turned),
    }
}

/// Reads a body, with the room it takes.
async fn whole(door: &Door, headers: &HeaderMap, body: Body) -> Result<(Bytes, Option<OwnedSemaphorePermit>), BadBody> {
    let length = headers
        .get(CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if length.is_some_and(|length| length > door.limit) {
        return Err(BadBody::TooLarge);
    }
    let mut read = BytesMut::new();
    let mut room: Option<OwnedSemaphorePermit> = None;
    let mut units = 0;
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let chunk = chunk.map_err(|_| BadBody::Broken)?;
        let size = read.len() + chunk.len();
        if size > door.limit {
            return Err(BadBody::TooLarge);
        }
        // Taken as bytes come: whoever only promises them takes nothing from others.
        let needed = size.saturating_sub(FREE).div_ceil(UNIT);
        if needed > units {
            let more = u32::try_from(needed - units).map_err(|_| BadBody::TooLarge)?;
            let more = door.room.clone().acquire_many_owned(more).await;
            let more = more.map_err(|_| BadBody::Broken)?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
            units = needed;
        }
        read.extend_from_slice(&chunk);
    }
    Ok((read.freeze(), room))
}

impl BadBody {
    fn answer(self, gate: &Gate, limit: usize) -> Response {
        let (status, reason, text) = match self {
            Self::TooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                format!("the body has more than {limit} bytes, the limit `webhook_bytes` in [limits]\n"),
            ),
            Self::TooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "too-slow",
                format!(
                    "the body did not come within {} s; send it again\n",
                    READ_TIME.as_secs()
                ),
            ),
            Self::Broken => (
                StatusCode::BAD_REQUEST,
                "broken",
                "the body ended too early; send it again\n".to_owned(),
            ),
        };
        Hooks::refused(gate, reason);
        (status, text).into_response()
    }
}

fn refuse(turned: &Turned) -> Response {
    let status = match turned {
        Turned::UnknownForge(_) => StatusCode::NOT_FOUND,
        Turned::NoSecret(_) => StatusCode::FORBIDDEN,
        Turned::Signature(_) => StatusCode::UNAUTHORIZED,
        Turned::NotJson => StatusCode::UNSUPPORTED_MEDIA_TYPE,
        Turned::Malformed(_) => StatusCode::BAD_REQUEST,
        Turned::Index => StatusCode::SERVICE_UNAVAILABLE,
    };
    let mut response = (status, format!("{turned}\n")).into_response();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        response
            .headers_mut()
            .insert(RETRY_AFTER, HeaderValue::from_static("60"));
    }
    response
}
