//! Bodies that a task writes while they are sent.

use std::io;
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use tokio::sync::mpsc;

/// Pieces that wait for the connection: one is on its way while the next one is made.
const WAITING: usize = 1;
/// How long a client may take for one piece. Whoever is slower frees what the body is made from.
const PIECE_TIME: Duration = Duration::from_mins(1);

/// Where a body is written. Dropping it without [`end`](Self::end) breaks the response off: the client sees that something
/// is missing, however the writer came to its end.
#[derive(Debug)]
pub(super) struct Sink(mpsc::Sender<Piece>);

#[derive(Debug)]
enum Piece {
    Bytes(Bytes),
    End,
}

/// Nobody reads the body any more, or too slowly.
#[derive(Debug, Clone, Copy)]
pub(super) struct NobodyReads;

impl Sink {
    pub(super) async fn send(&self, bytes: Bytes) -> Result<(), NobodyReads> {
        let sent = tokio::time::timeout(PIECE_TIME, self.0.send(Piece::Bytes(bytes))).await;
        sent.map_err(|_| NobodyReads)?.map_err(|_| NobodyReads)
    }

    /// All was written.
    pub(super) async fn end(self) {
        // Whoever went away missed only the end.
        drop(tokio::time::timeout(PIECE_TIME, self.0.send(Piece::End)).await);
    }
}

/// A body, and where it is written.
pub(super) fn channel() -> (Sink, Body) {
    let (sink, pieces) = mpsc::channel(WAITING);
    let pieces = stream::try_unfold(pieces, async |mut pieces: mpsc::Receiver<Piece>| {
        match pieces.recv().await {
            Some(Piece::Bytes(bytes)) => Ok(Some((bytes, pieces))),
            Some(Piece::End) => Ok(None),
            None => Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the body broke off before its end",
            )),
        }
    });
    (Sink(sink), Body::from_stream(pieces))
}

/// A body that is not sent, of a length that is not known: for answers to `HEAD`.
pub(super) fn unsaid() -> Body {
    Body::from_stream(stream::empty::<io::Result<Bytes>>())
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;

    use super::*;

    #[tokio::test]
    async fn a_body_ends_well_only_when_its_writer_says_so() {
        let (sink, body) = channel();
        let writing = async {
            sink.send(Bytes::from_static(b"one ")).await.unwrap();
            sink.send(Bytes::from_static(b"two")).await.unwrap();
            sink.end().await;
        };
        let (bytes, ()) = tokio::join!(to_bytes(body, 100), writing);
        assert_eq!(bytes.unwrap(), "one two");

        let (sink, body) = channel();
        let writing = async move { sink.send(Bytes::from_static(b"half")).await.unwrap() };
        let (bytes, ()) = tokio::join!(to_bytes(body, 100), writing);
        assert!(bytes.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_is_given_up() {
        let (sink, body) = channel();
        sink.send(Bytes::from_static(b"waits")).await.unwrap();
        assert!(sink.send(Bytes::from_static(b"is not taken")).await.is_err());
        drop(body);
        assert!(sink.send(Bytes::new()).await.is_err());
    }
}
