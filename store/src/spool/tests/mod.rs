//! The spool on real files.

use std::collections::BTreeSet;
use std::path::Path;

use nixci_protocol::types::{
    ContentAddress, ContentAddressMethod, Hash, HashModulo, NarHash, UnkeyedPathInfo, make_content_addressed_path,
};
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;

use super::*;

mod collecting;
mod full;
mod receiving;
mod recorded;
mod roots;
mod signing;
mod storing;
mod verifying;

fn dir() -> StoreDir {
    StoreDir::default()
}

fn rules() -> Rules {
    Rules::new(dir())
}

fn spool() -> (Spool, TempDir) {
    let folder = tempfile::tempdir().unwrap();
    (open(folder.path()), folder)
}

fn open(folder: &Path) -> Spool {
    Spool::open(folder, dir()).unwrap()
}

fn file_nar(content: &[u8]) -> Vec<u8> {
    let size = content.len() as u64;
    [&FileNar::before(size), content, &FileNar::after(size)].concat()
}

/// A text object with these references, and its NAR.
fn text(name: &str, content: &[u8], references: &[&StorePath]) -> (PathInfo, Bytes) {
    let ca = ContentAddress {
        method: ContentAddressMethod::Text,
        hash: Hash::sha256_of(content),
    };
    addressed(name, ca, file_nar(content), references)
}

/// A source, and its NAR.
fn source(name: &str, nar: Vec<u8>, references: &[&StorePath]) -> (PathInfo, Bytes) {
    let ca = ContentAddress {
        method: ContentAddressMethod::Nar,
        hash: Hash::sha256_of(&nar),
    };
    addressed(name, ca, nar, references)
}

fn addressed(name: &str, ca: ContentAddress, nar: Vec<u8>, references: &[&StorePath]) -> (PathInfo, Bytes) {
    let references: BTreeSet<StorePath> = references.iter().map(|path| (*path).clone()).collect();
    let path = make_content_addressed_path(&dir(), name, &ca, &references, false).unwrap();
    (info(path, &nar, references, Some(ca)), nar.into())
}

fn info(path: StorePath, nar: &[u8], references: BTreeSet<StorePath>, ca: Option<ContentAddress>) -> PathInfo {
    let info = UnkeyedPathInfo {
        deriver: None,
        nar_hash: NarHash::of(nar),
        references,
        registration_time: 1,
        nar_size: nar.len() as u64,
        ultimate: true,
        signatures: BTreeSet::new(),
        ca,
    };
    PathInfo { path, info }
}

fn proven((info, nar): (PathInfo, Bytes)) -> Verified {
    verify(&rules(), info, nar, Authority::Untrusted).unwrap()
}

/// Bytes that do not compress, the same every time.
fn noise(seed: u64, size: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..size)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

async fn read(spool: &Spool, path: &StorePath) -> Vec<u8> {
    let mut nar = spool.nar(path).await.unwrap().unwrap();
    let mut content = Vec::new();
    nar.read_to_end(&mut content).await.unwrap();
    assert_eq!(content.len() as u64, nar.size());
    content
}
