//! Closures that are wrong, cut off, bombs, or sent by somebody who is gone.

mod bombs;
mod cuts;
mod gone;
mod lies;

use std::collections::BTreeSet;

use nixci_protocol::client::Connection;
use nixci_protocol::nixci::{OP_ADD_CLOSURE, QueryValidBatch};
use nixci_protocol::testing::negotiated;
use nixci_protocol::types::{
    ContentAddress, ContentAddressMethod, Hash, NarHash, PathInfo, StoreDir, StorePath, UnkeyedPathInfo,
    make_content_addressed_path,
};
use nixci_protocol::wire::encode;

use super::Scene;
use super::raw::{Raw, Said, framed, string, words};

/// An object, as a principal that is trusted may send it: its path promises nothing.
#[derive(Debug, Clone)]
struct Item {
    info: PathInfo,
    nar: Vec<u8>,
}

/// The NAR of a file.
fn file(content: &[u8]) -> Vec<u8> {
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
fn noise(seed: u64, length: usize) -> Vec<u8> {
    nixci_protocol::testing::Damage::new(seed).bytes(length)
}

/// The path with this number.
fn path(number: u64) -> StorePath {
    let mut digest = [7; 20];
    digest[..8].copy_from_slice(&number.to_le_bytes());
    StorePath::new(digest, "item").unwrap()
}

fn item(number: u64, content: &[u8], references: &[u64]) -> Item {
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
fn proven(name: &str, content: &[u8], method: ContentAddressMethod) -> Item {
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
fn drv(builder: &str) -> Vec<u8> {
    let out = "/nix/store/7lmww5ks62qvwklysqlsfbn6p4yl2ijr-x";
    format!(r#"Derive([("out","{out}","","")],[],[],"system","{builder}",[],[])"#).into_bytes()
}

impl Item {
    /// The tag, the info and the NAR.
    fn parts(&self) -> [Vec<u8>; 3] {
        let info = encode(&negotiated(16, false), &self.info);
        [words(&[1]), info.to_vec(), self.nar.clone()]
    }
}

/// The stream of these, to its end.
fn stream(items: &[Item]) -> Vec<u8> {
    let mut bytes: Vec<u8> = items.iter().flat_map(|item| item.parts().concat()).collect();
    bytes.extend(words(&[0]));
    bytes
}

fn zstd_of(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// The request with this compressed body.
fn request(packed: &[u8]) -> Vec<u8> {
    [words(&[u64::from(OP_ADD_CLOSURE)]), framed(packed)].concat()
}

/// Sends a compressed body: how many objects were new, or why it was refused.
async fn add(raw: &mut Raw, packed: &[u8]) -> Result<u64, String> {
    raw.send(&request(packed)).await;
    match raw.said().await {
        Said::Done => Ok(u64::from_le_bytes(raw.take(8).await.try_into().unwrap())),
        Said::Error(error) => Err(error),
        Said::Closed => panic!("the daemon hung up"),
    }
}

/// Which of these are valid.
async fn valid(client: &mut Connection, numbers: &[u64]) -> Vec<bool> {
    let paths: Vec<StorePath> = numbers.iter().map(|number| path(*number)).collect();
    let bits = client.call(&QueryValidBatch::of(&paths), &mut ()).await.unwrap();
    (0..numbers.len()).map(|at| bits.get(at)).collect()
}

/// The names in the folder of large objects, sorted.
fn large_files(scene: &Scene) -> Vec<String> {
    let folder = scene.service.scratch().join("state/spool/nars");
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
