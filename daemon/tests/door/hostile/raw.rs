//! A client that says what it likes.

use std::path::Path;
use std::time::Duration;

use bytes::BytesMut;
use nixci_protocol::log::Incoming;
use nixci_protocol::nixci::{FEATURE_CLOSURE, FEATURE_CONTROL};
use nixci_protocol::testing::negotiated;
use nixci_protocol::wire::primitive::put_string;
use nixci_protocol::wire::{Negotiated, WireError, decode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

/// How long anything may take; far more than it does on a busy machine.
pub(super) const PATIENCE: Duration = Duration::from_mins(1);

/// What a daemon said in answer to a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Said {
    /// The reply follows.
    Done,
    /// An error; nothing follows.
    Error(String),
    /// The connection is closed.
    Closed,
}

pub(super) struct Raw {
    pub(super) stream: UnixStream,
    pub(super) on: Negotiated,
    heard: BytesMut,
}

pub(super) fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The bytes of a string on the wire.
pub(super) fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_string(text.as_ref(), &mut out);
    out.to_vec()
}

/// Frames, and the end of them.
pub(super) fn framed(body: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for piece in body.chunks(30_000) {
        nixci_protocol::io::put_frame(piece, &mut out);
    }
    nixci_protocol::io::put_frame(&[], &mut out);
    out.to_vec()
}

/// What a client of a version says to greet, after the magic.
fn greeting(minor: u8, ours: bool) -> Vec<u8> {
    let mut said = words(&[0x6e69_7863, 0x100 | u64::from(minor)]);
    if minor >= 38 {
        let features: &[&str] = if ours { &[FEATURE_CLOSURE, FEATURE_CONTROL] } else { &[] };
        said.extend(words(&[features.len() as u64]));
        for feature in features {
            said.extend(string(feature));
        }
    }
    said.extend(words(&[0, 0]));
    said
}

impl Raw {
    /// Shakes hands as a client of 1.`minor`.
    pub(super) async fn greet(socket: &Path, minor: u8, ours: bool) -> Self {
        let mut stream = UnixStream::connect(socket).await.unwrap();
        stream.write_all(&greeting(minor, ours)).await.unwrap();
        let mut this = Self {
            stream,
            on: negotiated(minor, ours && minor >= 38),
            heard: BytesMut::new(),
        };
        // All the versions these tests use end their part with a word for trust.
        let mut features = 0;
        if minor >= 38 {
            features = 8;
            if ours {
                features += string(FEATURE_CLOSURE).len() + string(FEATURE_CONTROL).len();
            }
        }
        this.take(16 + features).await;
        let length = u64::from_le_bytes(this.take(8).await.try_into().unwrap());
        this.take(usize::try_from(length).unwrap().next_multiple_of(8) + 8)
            .await;
        assert_eq!(this.said().await, Said::Done);
        this
    }

    /// The newest version, with our features.
    pub(super) async fn ours(socket: &Path) -> Self {
        Self::greet(socket, 38, true).await
    }

    /// Sends as much as the daemon takes: it may hang up before it has read all.
    pub(super) async fn send(&mut self, bytes: &[u8]) {
        let sent = tokio::time::timeout(PATIENCE, self.stream.write_all(bytes)).await;
        drop(sent.expect("the daemon reads or hangs up"));
    }

    /// Says that nothing more will be sent.
    pub(super) async fn end(&mut self) {
        drop(self.stream.shutdown().await);
    }

    async fn more(&mut self) -> bool {
        let read = tokio::time::timeout(PATIENCE, self.stream.read_buf(&mut self.heard)).await;
        matches!(read.expect("the daemon answers or hangs up"), Ok(1..))
    }

    /// Exactly so many bytes.
    pub(super) async fn take(&mut self, length: usize) -> Vec<u8> {
        while self.heard.len() < length {
            assert!(self.more().await, "the connection is closed");
        }
        self.heard.split_to(length).to_vec()
    }

    /// Everything up to the end of the connection.
    pub(super) async fn rest(&mut self) -> Vec<u8> {
        while self.more().await {
            assert!(self.heard.len() < 64 << 20, "the daemon never stops talking");
        }
        self.heard.split().to_vec()
    }

    /// How the daemon answers a request: reads its log.
    pub(super) async fn said(&mut self) -> Said {
        loop {
            match decode::<Incoming>(&self.on, &self.heard) {
                Ok((message, rest)) => {
                    let taken = self.heard.len() - rest.len();
                    drop(self.heard.split_to(taken));
                    match message {
                        Incoming::Last => return Said::Done,
                        Incoming::Error(error) => return Said::Error(error.message),
                        Incoming::Log(_) => {}
                        other => panic!("the daemon says {other:?}"),
                    }
                }
                Err(WireError::Incomplete) => {
                    if !self.more().await {
                        assert!(self.heard.is_empty(), "the daemon stops in the middle of a word");
                        return Said::Closed;
                    }
                }
                Err(error) => panic!("the daemon says nonsense: {error}"),
            }
        }
    }

    /// Whether the connection can still be used. If not it must be closed; there is nothing in between.
    pub(super) async fn goes_on(&mut self) -> bool {
        self.send(&words(&[1])).await;
        self.send(&string("/nix/store/7lmww5ks62qvwklysqlsfbn6p4yl2ijr-nobody"))
            .await;
        match self.said().await {
            Said::Closed => false,
            Said::Done => {
                assert_eq!(self.take(8).await, words(&[0]), "the connection is out of step");
                assert!(self.heard.is_empty(), "the connection is out of step");
                true
            }
            Said::Error(error) => panic!("neither usable nor closed: {error}"),
        }
    }
}
