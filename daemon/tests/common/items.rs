//! Objects as clients send them, and streams of them.

use std::collections::BTreeSet;

use nixci_protocol::client::Connection;
use nixci_protocol::nixci::QueryValidBatch;
use nixci_protocol::testing::{Damage, negotiated};
use nixci_protocol::types::{
    ContentAddress, ContentAddressMethod, Hash, NarHash, PathInfo, StoreDir, StorePath, UnkeyedPathInfo,
    make_content_addressed_path,
};
use nixci_protocol::wire::encode;
use nixci_protocol::wire::primitive::put_string;

/// An object, as a principal that is trusted may send it: its path promises nothing.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    pub(crate) info: PathInfo,
    pub(crate) nar: Vec<u8>,
}

/// The NAR of a file.
pub(crate) fn file(content: &[u8]) -> Vec<u8> {
    let words = [
        &b"nix-archive-1"[..],
        b"(",
        b"type",
        b"regular",
        b"contents",
        content,
        b")",
    ];
    words.iter().flat_map(string).collect()
}

/// Bytes that do not compress, the same every time.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    Damage::new(seed).bytes(length)
}

/// The path with this number.
pub(crate) fn path(number: u64) -> StorePath {
    let mut digest = [7; 20];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    StorePath::new(digest, "item").unwrap()
}

pub(crate) fn item(number: u64, content: &[u8], references: &[u64]) -> Item {
    let nar = file(content);
    let info = UnkeyedPathInfo {
        deriver: None,
        nar_hash: NarHash::of(&nar),
        references: references.iter().map(|number| path(*number)).collect::<BTreeSet<_>>(),
        registration_time: 0,
        nar_size: nar.len() as u64,
        ultimate: false,
        signatures: BTreeSet::new(),
        ca: None,
    };
    let path = path(number);
    Item {
        info: PathInfo { path, info },
        nar,
    }
}

/// An object whose path follows from its content.
pub(crate) fn proven(name: &str, content: &[u8], method: ContentAddressMethod) -> Item {
    let mut item = item(0, content, &[]);
    let hash = match method {
        ContentAddressMethod::Text => Hash::sha256_of(content),
        ContentAddressMethod::Flat | ContentAddressMethod::Nar | ContentAddressMethod::Git => {
            Hash::sha256_of(&item.nar)
        }
    };
    let ca = ContentAddress { method, hash };
    let references = std::collections::BTreeSet::new();
    item.info.path = make_content_addressed_path(&StoreDir::default(), name, &ca, &references, false).unwrap();
    item.info.info.ca = Some(ca);
    item
}

/// The content of a derivation without inputs.
pub(crate) fn drv(builder: &str) -> Vec<u8> {
    let out = "/nix/store/7lmww5ks62qvwklysqlsfbn6p4yl2ijr-x";
    format!(r#"Derive([("out","{out}","","")],[],[],"system","{builder}",[],[])"#).into_bytes()
}

impl Item {
    /// The tag, the info and the NAR.
    pub(crate) fn parts(&self) -> [Vec<u8>; 3] {
        let info = encode(&negotiated(16, false), &self.info);
        [words(&[1]), info.to_vec(), self.nar.clone()]
    }
}

/// The stream of these, to its end.
pub(crate) fn stream(items: &[Item]) -> Vec<u8> {
    let mut bytes: Vec<u8> = items.iter().flat_map(|item| item.parts().concat()).collect();
    bytes.extend(words(&[0]));
    bytes
}

pub(crate) fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Which of these are valid.
pub(crate) async fn valid(client: &mut Connection, numbers: &[u64]) -> Vec<bool> {
    let paths: Vec<StorePath> = numbers.iter().map(|number| path(*number)).collect();
    let bits = client.call(&QueryValidBatch::of(&paths), &mut ()).await.unwrap();
    (0..numbers.len()).map(|at| bits.get(at)).collect()
}

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The bytes of a string on the wire.
fn string(text: impl AsRef<[u8]>) -> Vec<u8> {
    let mut out = bytes::BytesMut::new();
    put_string(text.as_ref(), &mut out);
    out.to_vec()
}
