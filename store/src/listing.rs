//! What is in a NAR: the listing that binary caches offer beside it.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::{self, Read};

use nix_archive::nar::{self, Event};
use nixci_protocol::types::NarHash;
use sha2::{Digest as _, Sha256};

/// Why a NAR has no listing.
#[derive(Debug, thiserror::Error)]
pub enum ListingError {
    /// It is no NAR, or it could not be read.
    #[error("failed to read the NAR")]
    Nar(#[from] nar::Error),
    /// A name or a target is not UTF-8, which the format cannot say.
    #[error("{0:?} is not UTF-8, so that it cannot be listed")]
    Name(String),
    /// The listing would be too large.
    #[error("the listing would exceed {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// It is another NAR than was promised.
    #[error("the NAR has the hash {found}, but {expected} was promised")]
    Hash {
        /// The hash of what came.
        found: NarHash,
        /// The promise.
        expected: NarHash,
    },
    /// The NAR goes on behind its end, or ends too early.
    #[error("the NAR has {found} bytes, but {expected} were promised")]
    Size {
        /// Bytes there were.
        found: u64,
        /// Bytes that were promised.
        expected: u64,
    },
}

/// Counts and hashes what is read through it.
struct Counted<'c, R> {
    reader: R,
    at: &'c Cell<u64>,
    hasher: Sha256,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.hasher.update(&buffer[..read]);
        self.at.set(self.at.get() + read as u64);
        Ok(read)
    }
}

/// The listing of the NAR of this size and hash as Nix writes it (version 1: compact JSON, keys sorted, with the offsets of files in
/// the NAR). It has at most `limit` bytes. Blocks as the reader does, which should be buffered.
pub fn listing(nar: impl Read, size: u64, hash: &NarHash, limit: usize) -> Result<String, ListingError> {
    let at = Cell::new(0);
    let mut reader = Counted {
        reader: nar.take(size),
        at: &at,
        hasher: Sha256::new(),
    };
    let mut text = Text {
        json: String::from("{\"root\":"),
        limit,
        is_first: true,
    };
    let mut refused = None;
    let walked = nar::decode_events_reader(&mut reader, |event| {
        text.event(&event, at.get()).map_err(|error| {
            refused = Some(error);
            nar::Error::Io(io::Error::other("it cannot be listed"))
        })
    });
    match (refused, walked) {
        (Some(error), _) => return Err(error),
        (None, walked) => walked?,
    }
    if at.get() != size {
        return Err(ListingError::Size {
            found: at.get(),
            expected: size,
        });
    }
    let found = NarHash(reader.hasher.finalize().into());
    if found != *hash {
        let expected = *hash;
        return Err(ListingError::Hash { found, expected });
    }
    text.json.push_str(",\"version\":1}");
    Ok(text.json)
}

struct Text {
    json: String,
    limit: usize,
    /// Whether the next node is the first in its directory.
    is_first: bool,
}

impl Text {
    fn event<R: ?Sized>(&mut self, event: &nar::ReadEvent<'_, R>, at: u64) -> Result<(), ListingError> {
        match event {
            Event::DirectoryStart { name } => {
                self.entry(*name)?;
                self.json.push_str("{\"entries\":{");
                self.is_first = true;
            }
            Event::DirectoryEnd { .. } => {
                self.json.push_str("},\"type\":\"directory\"}");
                self.is_first = false;
            }
            Event::Regular {
                name,
                executable,
                contents,
            } => {
                self.entry(*name)?;
                self.json.push('{');
                if *executable {
                    self.json.push_str("\"executable\":true,");
                }
                let size = contents.size();
                // Writing to a string cannot fail.
                let _ = write!(self.json, "\"narOffset\":{at},\"size\":{size},\"type\":\"regular\"}}");
            }
            Event::Symlink { name, target } => {
                self.entry(*name)?;
                self.json.push_str("{\"target\":");
                self.string(target)?;
                self.json.push_str(",\"type\":\"symlink\"}");
            }
        }
        if self.json.len() > self.limit {
            return Err(ListingError::TooLarge { limit: self.limit });
        }
        Ok(())
    }

    /// What is in front of a node: its name, where it has one.
    fn entry(&mut self, name: Option<&[u8]>) -> Result<(), ListingError> {
        if let Some(name) = name {
            if !self.is_first {
                self.json.push(',');
            }
            self.string(name)?;
            self.json.push(':');
        }
        self.is_first = false;
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), ListingError> {
        let bad = || ListingError::Name(String::from_utf8_lossy(bytes).into_owned());
        let text = std::str::from_utf8(bytes).map_err(|_| bad())?;
        self.json.push_str(&serde_json::to_string(text).map_err(|_| bad())?);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nix_archive::nar::{NamedNode, Node};
    use serde_json::{Value, json};

    use super::*;

    fn packed(node: &Node<'_>) -> Vec<u8> {
        let mut nar = Vec::new();
        nar::encode_tree(&mut nar, node).unwrap();
        nar
    }

    fn file(contents: &[u8], executable: bool) -> Node<'_> {
        Node::Regular { executable, contents }
    }

    fn entry<'a>(name: &'a [u8], node: Node<'a>) -> NamedNode<'a> {
        NamedNode { name, node }
    }

    #[test]
    fn a_tree_is_listed_with_the_places_of_its_files() {
        let inner = [entry(b"deep", file(b"far below", false))];
        let entries = [
            entry(b"\"quoted\"\n", file(b"", false)),
            entry(b"bin", file(b"#!/bin/sh\n", true)),
            entry(b"dir", Node::Directory(&inner)),
            entry(b"empty", Node::Directory(&[])),
            entry("ümlaut".as_bytes(), Node::Symlink { target: b"dir/deep" }),
        ];
        let nar = packed(&Node::Directory(&entries));
        let text = listing(&nar[..], nar.len() as u64, &NarHash::of(&nar), 10_000).unwrap();
        let value: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value.to_string(), text, "compact, keys sorted");
        let at = |value: &Value, contents: &[u8]| {
            let offset = value["narOffset"].as_u64().unwrap() as usize;
            assert_eq!(value["size"], contents.len());
            assert_eq!(&nar[offset..offset + contents.len()], contents);
        };
        let entries = &value["root"]["entries"];
        at(&entries["\"quoted\"\n"], b"");
        at(&entries["bin"], b"#!/bin/sh\n");
        at(&entries["dir"]["entries"]["deep"], b"far below");
        assert_eq!(entries["bin"]["executable"], true);
        assert_eq!(entries["dir"]["entries"]["deep"].get("executable"), None);
        assert_eq!(entries["empty"], json!({"entries": {}, "type": "directory"}));
        assert_eq!(entries["ümlaut"], json!({"target": "dir/deep", "type": "symlink"}));
        assert_eq!(value["version"], 1);

        let nar = packed(&file(b"alone", false));
        let text = listing(&nar[..], nar.len() as u64, &NarHash::of(&nar), 10_000).unwrap();
        assert_eq!(
            text,
            r#"{"root":{"narOffset":96,"size":5,"type":"regular"},"version":1}"#
        );
    }

    #[test]
    fn what_cannot_be_listed_is_refused() {
        let latin = [entry(b"\xe4", file(b"", false))];
        let nar = packed(&Node::Directory(&latin));
        let told = |nar: &[u8], size: usize, limit| listing(nar, size as u64, &NarHash::of(nar), limit).unwrap_err();
        assert!(matches!(told(&nar, nar.len(), 1_000), ListingError::Name(_)));

        let plain = packed(&file(b"alone", false));
        assert!(matches!(
            told(&plain, plain.len(), 20),
            ListingError::TooLarge { limit: 20 }
        ));
        for length in 0..plain.len() {
            assert!(listing(&plain[..length], plain.len() as u64, &NarHash::of(&plain), 1_000).is_err());
            assert!(listing(&plain[..], length as u64, &NarHash::of(&plain), 1_000).is_err());
        }
        let other = listing(&plain[..], plain.len() as u64, &NarHash::of(b"other"), 1_000);
        assert!(matches!(other, Err(ListingError::Hash { .. })));
        assert!(matches!(
            told(&plain, plain.len() + 1, 1_000),
            ListingError::Size { .. }
        ));
    }
}
