//! `/nar/…`: NARs, out of the cache on disk or as they come from a store.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::header::{ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use nixci_protocol::binary_cache::{Form, NarAddress};
use nixci_protocol::op::Nar;
use nixci_protocol::types::{Hash, NarHash, PathInfo};
use nixci_store::nar_cache::{BLOCK, CachedNar, Claim, Fault, Follower, PackError, Packer};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncReadExt as _;
use tracing::debug;

use super::answer::{FOR_EVER, Refusal};
use super::body::{self, NobodyReads, Sink};
use super::conditional::{Part, Wanted, has_it, wanted};
use super::{Cache, is_unavailable};
use crate::error::told;
use crate::http::metrics::{NarFrom, nar_sent};

/// Bytes of a NAR that are sent as they come at once.
const PIECE: usize = 256 * 1024;

pub(super) async fn nar(
    State(cache): State<Cache>,
    Path(name): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let address = NarAddress::parse(&name).ok_or_else(|| {
        let text = "expected <hash part of a path>-<hash of its NAR>.nar.zst, as narinfos say it";
        Refusal::Nonsense(text.to_owned())
    })?;
    let hash = Hash::from(address.nar_hash).base32();
    let etag = match address.form {
        Form::Plain => format!("\"{hash}\""),
        // Another level makes other bytes.
        Form::Packed => format!("\"{hash}-zst-{}\"", cache.nars.level()),
    };
    let asked = Asked {
        is_head: method == Method::HEAD,
        // Only a GET has ranges.
        part: Part::of(&headers, &etag).filter(|_| method == Method::GET),
        etag,
    };
    let known = match cache.known(&address.path).await {
        Ok(known) => known.filter(|known| known.info.info.nar_hash == address.nar_hash),
        Err(error) if is_unavailable(&error) && address.form == Form::Packed => {
            // The hash in the address says what must come, and the file has it.
            if let Some(file) = cache.nars.get(&address.nar_hash).await {
                return Ok(asked.of_file(&file));
            }
            return Err(error.into());
        }
        Err(error) => return Err(error.into()),
    };
    let known = known.ok_or_else(|| Refusal::Missing("no store here has that NAR".to_owned()))?;
    if has_it(&headers, &asked.etag) {
        let common = [(ETAG, asked.etag.as_str()), (CACHE_CONTROL, FOR_EVER)];
        return Ok((StatusCode::NOT_MODIFIED, common).into_response());
    }
    match address.form {
        Form::Plain => asked.plain(&cache, &known.info).await,
        Form::Packed => asked.packed(&cache, &known.info).await,
    }
}

/// What is asked of a NAR.
struct Asked {
    etag: String,
    is_head: bool,
    part: Option<Part>,
}

impl Asked {
    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-nix-nar"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static(FOR_EVER));
        headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        if let Ok(etag) = HeaderValue::from_str(&self.etag) {
            headers.insert(ETAG, etag);
        }
        headers
    }

    /// An answer of which the length is known; `write` makes the body of the bytes that are wanted.
    fn known_length(&self, length: u64, write: impl FnOnce(u64, u64) -> Body) -> Response {
        let mut headers = self.headers();
        let (status, from, to) = match wanted(self.part, length) {
            Wanted::Whole => (StatusCode::OK, 0, length),
            Wanted::Part(range) => {
                let told = format!("bytes {}-{}/{length}", range.start, range.end - 1);
                headers.extend(HeaderValue::from_str(&told).map(|told| (CONTENT_RANGE, told)));
                (StatusCode::PARTIAL_CONTENT, range.start, range.end)
            }
            Wanted::Beyond => {
                let told = [(CONTENT_RANGE, format!("bytes */{length}"))];
                return (StatusCode::RANGE_NOT_SATISFIABLE, told).into_response();
            }
        };
        headers.insert(CONTENT_LENGTH, (to - from).into());
        let body = if self.is_head { body::unsaid() } else { write(from, to) };
        (status, headers, body).into_response()
    }

    /// An answer that is as long as it gets.
    fn unknown_length(&self, body: Body) -> Response {
        (StatusCode::OK, self.headers(), body).into_response()
    }

    async fn plain(&self, cache: &Cache, info: &PathInfo) -> Result<Response, Refusal> {
        let size = info.info.nar_size;
        if self.is_head || wanted(self.part, size) == Wanted::Beyond {
            return Ok(self.known_length(size, |_, _| body::unsaid()));
        }
        let turn = cache.turn().await?;
        let nar = cache.open(&info.path).await?;
        nar_sent(NarFrom::Store);
        let (path, hash) = (info.path.clone(), info.info.nar_hash);
        Ok(self.known_length(size, |from, to| {
            let (sink, body) = body::channel();
            tokio::spawn(async move {
                if let Err(error) = pass(nar, hash, from, to, &sink).await {
                    debug!(%path, "a NAR was not sent to its end: {error}");
                } else {
                    sink.end().await;
                }
                drop(turn);
            });
            body
        }))
    }

    async fn packed(&self, cache: &Cache, info: &PathInfo) -> Result<Response, Refusal> {
        let hash = &info.info.nar_hash;
        let was_asked = !self.is_head && cache.nars.asked(hash);
        // Twice at most: a file that is evicted as soon as it is whole is not waited for again.
        for _ in 0..2 {
            if let Some(file) = cache.nars.get(hash).await {
                return Ok(self.of_file(&file));
            }
            if self.is_head {
                return Ok(self.unknown_length(body::unsaid()));
            }
            let is_large = info.info.nar_size > BLOCK as u64;
            if !was_asked && (self.part.is_none() || !is_large) {
                break;
            }
            let mut follower = match cache.nars.claim(hash) {
                Claim::There => continue,
                Claim::Busy => break,
                Claim::Follow(follower) => follower,
                Claim::Fill(ticket) => ticket.fill(cache.open(&info.path).await?),
            };
            if self.part.is_none() && is_large {
                nar_sent(NarFrom::Fill);
                return Ok(self.along(cache, info, follower));
            }
            match follower.whole().await {
                Ok(()) => {}
                Err(Fault::Nar(error)) => return Err(unreadable(info, &error)),
                Err(Fault::File(_)) => break,
            }
        }
        self.on_the_fly(cache, info).await
    }

    fn of_file(&self, file: &CachedNar) -> Response {
        nar_sent(NarFrom::Disk);
        self.known_length(file.packed().file_size, |from, to| {
            let mut pieces = file.read(from, to);
            let (sink, body) = body::channel();
            tokio::spawn(async move {
                loop {
                    match pieces.next().await {
                        Ok(Some(piece)) => {
                            if sink.send(piece).await.is_err() {
                                return;
                            }
                        }
                        Ok(None) => return sink.end().await,
                        Err(error) => {
                            tracing::warn!(%error, "a cached NAR could not be read: {error}");
                            return;
                        }
                    }
                }
            });
            body
        })
    }

    /// Reads a file while it is written; where the file fails, goes on from the store.
    fn along(&self, cache: &Cache, info: &PathInfo, mut follower: Follower) -> Response {
        let (sink, body) = body::channel();
        let (cache, info) = (cache.clone(), info.clone());
        tokio::spawn(async move {
            loop {
                match follower.next().await {
                    Ok(Some(bytes)) => {
                        if sink.send(bytes).await.is_err() {
                            return;
                        }
                    }
                    Ok(None) => return sink.end().await,
                    Err(Fault::Nar(error)) => {
                        debug!(path = %info.path, "a NAR was not sent to its end: {}", told(&*error));
                        return;
                    }
                    Err(Fault::File(error)) => {
                        debug!(path = %info.path, "a NAR is sent without its file: {error}");
                        break;
                    }
                }
            }
            let Ok(turn) = cache.turn().await else { return };
            match cache.open(&info.path).await {
                Ok(nar) => {
                    let packer = Packer::new(nar, info.info.nar_hash, cache.nars.level());
                    send_packed(packer, follower.at(), sink, &info).await;
                }
                Err(refusal) => debug!(path = %info.path, ?refusal, "a NAR was not sent to its end"),
            }
            drop(turn);
        });
        self.unknown_length(body)
    }

    /// Packs a NAR as it comes, for nobody else.
    async fn on_the_fly(&self, cache: &Cache, info: &PathInfo) -> Result<Response, Refusal> {
        let turn = cache.turn().await?;
        let nar = cache.open(&info.path).await?;
        nar_sent(NarFrom::Store);
        let mut packer = Packer::new(nar, info.info.nar_hash, cache.nars.level());
        if info.info.nar_size <= BLOCK as u64 {
            // One frame is the whole of it, so that nothing has to be promised before it was checked.
            let frame = packer.next().await.map_err(|error| unreadable(info, &error))?;
            let frame = frame.unwrap_or_default();
            return Ok(self.known_length(frame.len() as u64, |from, to| {
                frame.slice(from as usize..to as usize).into()
            }));
        }
        let (sink, body) = body::channel();
        let info = info.clone();
        tokio::spawn(async move {
            send_packed(packer, 0, sink, &info).await;
            drop(turn);
        });
        Ok(self.unknown_length(body))
    }
}

/// Sends what a packer makes, without its first bytes.
async fn send_packed(mut packer: Packer, skip: u64, sink: Sink, info: &PathInfo) {
    let mut skip = skip;
    loop {
        match packer.next().await {
            Ok(Some(mut frame)) => {
                let skipped = skip.min(frame.len() as u64);
                skip -= skipped;
                let frame = frame.split_off(skipped as usize);
                if !frame.is_empty() && sink.send(frame).await.is_err() {
                    return;
                }
            }
            Ok(None) => return sink.end().await,
            Err(error) => {
                // Not ending the body is how the client learns of it.
                tracing::warn!(path = %info.path, "a NAR was not sent to its end: {}", told(&error));
                return;
            }
        }
    }
}

/// Sends bytes of a NAR as they are. The last ones are sent only when the hash of the whole was found right.
async fn pass(mut nar: Nar, expected: NarHash, from: u64, to: u64, sink: &Sink) -> Result<(), String> {
    let (mut at, mut buffer, mut hasher) = (0, BytesMut::new(), Sha256::new());
    while at < to {
        buffer.reserve(PIECE);
        let rest = usize::try_from(to - at).map_or(PIECE, |rest| rest.min(PIECE));
        let mut rest = (&mut nar.reader).take(rest as u64);
        match rest.read_buf(&mut buffer).await {
            Ok(0) => return Err(format!("it ended after {at} bytes")),
            Ok(_) => {}
            Err(error) => return Err(error.to_string()),
        }
        hasher.update(&buffer);
        let mut piece = buffer.split().freeze();
        let begin = at;
        at += piece.len() as u64;
        if at == nar.size {
            let found = NarHash(std::mem::take(&mut hasher).finalize().into());
            if found != expected {
                return Err(format!("it has the hash {found} in place of {expected}"));
            }
        }
        let skipped = from.saturating_sub(begin).min(piece.len() as u64);
        let piece: Bytes = piece.split_off(skipped as usize);
        if !piece.is_empty() {
            let sent = sink.send(piece).await;
            sent.map_err(|NobodyReads| "nobody reads it".to_owned())?;
        }
    }
    Ok(())
}

fn unreadable(info: &PathInfo, error: &PackError) -> Refusal {
    Refusal::Unavailable(format!("{} could not be read: {}", info.path, told(error)))
}
