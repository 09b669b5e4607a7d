//! The handshake, up to the point where a client is served or told why not.

use std::future::{Ready, ready};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite};

use super::ServeError;
use crate::handshake::{HandshakeError, Offer, ServerHandshake};
use crate::io::{Reader, Writer};
use crate::log::{Incoming, RemoteError};
use crate::nixci::RootsDigest;
use crate::types::{StoreDir, Trust};
use crate::version::Version;
use crate::wire::{Limits, Negotiated, Wire as _};

/// Bytes that are still taken of a client that was refused, so that it can finish a sentence and read why.
const LAST_WORDS: usize = 64 * 1024;

/// What a server brings along.
#[derive(Debug, Clone)]
pub struct ServerHello {
    /// What it says its version is; stock clients show it.
    pub version_text: String,
    /// Whether it trusts this client.
    pub trust: Trust,
    /// Features it knows. A client is shown those that it listed itself.
    pub features: Vec<String>,
    /// The directory of all paths.
    pub store_dir: StoreDir,
    /// What it takes into memory.
    pub limits: Limits,
}

/// A client that shook hands and waits to hear whether it is served.
pub struct Greeted {
    pub(super) reader: Reader,
    pub(super) writer: Writer,
    pub(super) on: Negotiated,
    roots: Option<RootsDigest>,
}

/// Shakes hands; none when the client hung up before it had said anything.
///
/// A client whose protocol is too old, and somebody who speaks HTTP, are told so in words they understand. Dropping
/// the future closes the connection.
///
/// `knows` says whether a set of roots is known, all of it is valid now, and stays so while the connection lasts. It is
/// asked at most once, and only by a client with [`crate::nixci::FEATURE_CLOSURE`].
pub async fn greet<K: Future<Output = bool> + Send>(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    hello: ServerHello,
    knows: impl FnOnce(RootsDigest) -> K + Send,
) -> Result<Option<Greeted>, ServeError> {
    let mut reader = Reader::new(read);
    let mut writer = Writer::new(write);
    let agreed = shake_hands(&mut reader, &mut writer, hello, knows).await?;
    Ok(agreed.map(|(on, roots)| Greeted {
        reader,
        writer,
        on,
        roots,
    }))
}

/// For servers that remember no sets of roots.
pub(super) fn knows_none(_: RootsDigest) -> Ready<bool> {
    ready(false)
}

/// Shakes hands only to say why the client is not served.
pub async fn refuse(
    read: impl AsyncRead + Send + Unpin + 'static,
    write: impl AsyncWrite + Send + Unpin + 'static,
    hello: ServerHello,
    message: impl Into<String> + Send,
) -> Result<(), ServeError> {
    match greet(read, write, hello, knows_none).await? {
        Some(greeted) => greeted.refuse(message).await,
        None => Ok(()),
    }
}

impl Greeted {
    /// What was agreed.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        &self.on
    }

    /// The set of roots that the client asked for; that it is here, [`RootsDigest::is_known`] says.
    #[must_use]
    pub fn roots(&self) -> Option<RootsDigest> {
        self.roots
    }

    /// Says why the client is not served, where it waits to hear whether it is.
    pub async fn refuse(mut self, message: impl Into<String> + Send) -> Result<(), ServeError> {
        Incoming::Error(RemoteError::new(message)).encode(&self.on, &mut self.writer.out);
        self.writer.shutdown().await.map_err(ServeError::Io)
    }
}

async fn shake_hands<K: Future<Output = bool> + Send>(
    reader: &mut Reader,
    writer: &mut Writer,
    hello: ServerHello,
    knows: impl FnOnce(RootsDigest) -> K + Send,
) -> Result<Option<(Negotiated, Option<RootsDigest>)>, ServeError> {
    let store_dir = hello.store_dir.clone();
    let offer = Offer {
        version: Version::MAX,
        features: hello.features,
        store_dir: hello.store_dir,
        limits: hello.limits,
    };
    let mut machine = ServerHandshake::new(offer, hello.version_text, hello.trust);
    let mut out = BytesMut::new();
    let mut silent = true;
    let mut knows = Some(knows);
    loop {
        let progress = machine.receive(reader.buffered(), &mut out);
        writer.out.extend_from_slice(&out.split());
        let progress = match progress {
            Ok(progress) => progress,
            Err(error) => return Err(turn_away(reader, writer, store_dir, error).await),
        };
        reader.consume(progress.consumed);
        if let Some(negotiated) = progress.done {
            return Ok(Some((negotiated, machine.roots())));
        }
        if let Some(roots) = machine.asks() {
            let is_known = match knows.take() {
                Some(knows) => knows(roots).await,
                None => false,
            };
            machine.answer(is_known, &mut out);
            continue;
        }
        writer.flush().await.map_err(ServeError::Io)?;
        match reader.fill().await {
            Ok(0) if silent => return Ok(None),
            Ok(0) => {
                let operation = "the handshake".to_owned();
                return Err(ServeError::HungUp { operation });
            }
            Ok(_) => silent = false,
            Err(error) => return Err(ServeError::Io(error)),
        }
    }
}

/// Says why there is no agreement, to those who can read it, and hangs up.
async fn turn_away(reader: &mut Reader, writer: &mut Writer, store_dir: StoreDir, error: HandshakeError) -> ServeError {
    match &error {
        // A client of another protocol has learnt ours by now. It says the rest of its greeting, and then reads
        // whether the server is well: there, in the form of its time, it finds this.
        HandshakeError::Version(theirs) => {
            let text = format!(
                "this daemon speaks protocol {} to {}, this client {theirs}; use Nix 2.0 or later there",
                Version::MIN,
                Version::MAX
            );
            let on = Negotiated::plain(Version::MIN, store_dir);
            Incoming::Error(RemoteError::new(text)).encode(&on, &mut writer.out);
        }
        HandshakeError::Magic { found, .. } if is_http(*found) => {
            let text = "this socket speaks the Nix worker protocol; use it as a store: unix://PATH\n";
            let answer = format!(
                "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{text}",
                text.len()
            );
            writer.out.extend_from_slice(answer.as_bytes());
        }
        // Others speak nobody knows what, and a client of today that lists too many features, or malformed ones, reads
        // features next: none can be told.
        HandshakeError::Magic { .. } | HandshakeError::Features { .. } | HandshakeError::Wire(_) => {}
    }
    if writer.shutdown().await.is_ok() {
        listen_on(reader).await;
    }
    error.into()
}

/// Takes what the client still says until it hangs up: closed at once, a socket takes back what was just sent.
async fn listen_on(reader: &mut Reader) {
    let mut left = LAST_WORDS;
    loop {
        let heard = reader.buffered().len();
        reader.consume(heard);
        left = left.saturating_sub(heard);
        if left == 0 || !matches!(reader.fill().await, Ok(1..)) {
            return;
        }
    }
}

/// Whether somebody began with the name of an HTTP method.
fn is_http(word: u64) -> bool {
    let word = word.to_le_bytes();
    [
        &b"GET "[..],
        b"HEAD ",
        b"POST ",
        b"PUT ",
        b"DELETE ",
        b"OPTIONS ",
        b"PATCH ",
        b"CONNECT ",
        b"PRI * H",
    ]
    .iter()
    .any(|method| word.starts_with(method))
}
