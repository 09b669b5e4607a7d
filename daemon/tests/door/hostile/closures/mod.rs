//! Closures that are wrong, cut off, bombs, or sent by somebody who is gone.

mod bombs;
mod cuts;
mod gone;
mod lies;

use nixci_protocol::nixci::{OP_ADD_CLOSURE, QueryValidBatch};
use nixci_protocol::types::{ContentAddressMethod, StorePath};

use super::Scene;
use super::raw::{Raw, Said, framed, string, words};
use crate::common::items::{Item, drv, file, item, noise, path, proven, stream, valid, zstd_of};

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
