//! What may come before the worker protocol: a bridge says for whom it speaks.
//!
//! Eight bytes that no Nix client begins with, the length of a JSON text as eight bytes little-endian, and
//! the text: [`Lowered`]. Whether the peer may say so is not decided here.

use std::io::{self, Cursor};

use tokio::io::{AsyncRead, AsyncReadExt, Chain};

use crate::principal::Lowered;

/// What a preamble begins with. Nix clients begin with `cxin\0\0\0\0`.
const MAGIC: &[u8; 8] = b"nixci-1\n";
/// The longest text.
const TEXT_BYTES: u64 = 1024;

/// The beginning of a connection.
#[derive(Debug)]
pub(super) struct Opening {
    /// What the preamble said, or why it cannot be understood.
    pub(super) lowered: Option<Result<Lowered, String>>,
    /// Bytes of what follows that have been read already.
    ahead: Vec<u8>,
}

impl Opening {
    /// The worker protocol from its first byte.
    pub(super) fn then<R: AsyncRead>(self, rest: R) -> Chain<Cursor<Vec<u8>>, R> {
        Cursor::new(self.ahead).chain(rest)
    }
}

/// The bytes that say for whom a bridge speaks.
pub(crate) fn encode(lowered: &Lowered) -> io::Result<Vec<u8>> {
    let text = serde_json::to_vec(lowered).map_err(io::Error::other)?;
    let length = (text.len() as u64).to_le_bytes();
    Ok([MAGIC.as_slice(), &length, &text].concat())
}

/// Reads a preamble, if there is one. A connection that ends meanwhile is handed on as far as it came.
pub(super) async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Opening> {
    let mut first = Vec::with_capacity(MAGIC.len());
    from.take(MAGIC.len() as u64).read_to_end(&mut first).await?;
    if first != MAGIC {
        return Ok(Opening {
            lowered: None,
            ahead: first,
        });
    }
    let length = from.read_u64_le().await?;
    if length > TEXT_BYTES {
        let text = format!("a preamble of {length} bytes; at most {TEXT_BYTES} are taken");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut text = vec![0; length as usize];
    from.read_exact(&mut text).await?;
    let lowered = serde_json::from_slice(&text)
        .map_err(|error| format!("what this bridge says of its principal cannot be understood: {error}; use the same version of nixci-daemon on both sides"));
    Ok(Opening {
        lowered: Some(lowered),
        ahead: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn opened(bytes: &[u8]) -> (io::Result<Option<Result<Lowered, String>>>, Vec<u8>) {
        let mut from = bytes;
        match read(&mut from).await {
            Ok(mut opening) => {
                let lowered = opening.lowered.take();
                let mut rest = Vec::new();
                opening.then(from).read_to_end(&mut rest).await.unwrap();
                (Ok(lowered), rest)
            }
            Err(error) => (Err(error), Vec::new()),
        }
    }

    #[tokio::test]
    async fn a_preamble_is_read_and_nothing_else_is_touched() {
        let lowered = Lowered::new("alice", true).unwrap();
        let mut bytes = encode(&lowered).unwrap();
        bytes.extend_from_slice(b"cxin\0\0\0\0rest");
        let (read, rest) = opened(&bytes).await;
        assert_eq!(read.unwrap(), Some(Ok(lowered)));
        assert_eq!(rest, b"cxin\0\0\0\0rest");
        for plain in [
            &b""[..],
            b"c",
            b"cxin\0\0\0",
            b"cxin\0\0\0\0",
            b"cxin\0\0\0\0and more",
            b"nixci-2\n........",
        ] {
            let (read, rest) = opened(plain).await;
            assert_eq!((read.unwrap(), rest.as_slice()), (None, plain));
        }
    }

    #[tokio::test]
    async fn what_is_not_understood_is_not_taken_for_less() {
        let with = |text: &str| [MAGIC.as_slice(), &(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
        for text in [
            "",
            "{",
            "{}",
            r#"{"principal":"a"}"#,
            r#"{"principal":"a","trusted":false,"new":1}"#,
            "\0",
        ] {
            let (read, _) = opened(&with(text)).await;
            assert!(matches!(read, Ok(Some(Err(_)))), "{text:?}: {read:?}");
        }
        let whole = with(r#"{"principal":"a","trusted":false}"#);
        for cut in MAGIC.len()..whole.len() {
            let (read, _) = opened(&whole[..cut]).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "{cut}");
        }
        for length in [TEXT_BYTES + 1, u64::MAX] {
            let (read, _) = opened(&[MAGIC.as_slice(), &length.to_le_bytes()].concat()).await;
            assert_eq!(read.unwrap_err().kind(), io::ErrorKind::InvalidData);
        }
    }
}
