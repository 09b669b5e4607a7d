//! Requests that break off, have numbers at the edges, or are random.

use std::path::{Path, PathBuf};

use bytes::BytesMut;
use nixci_protocol::op::Request;
use nixci_protocol::testing::{Damage, negotiated, requests, stream_of_paths};
use tokio::task::JoinSet;

use super::Scene;
use super::raw::{Raw, framed, words};

/// Clients at a time.
const AT_ONCE: usize = 16;

/// A request of each kind, those with a body with it.
fn samples() -> Vec<(String, Vec<u8>)> {
    let on = negotiated(38, true);
    requests(&on)
        .into_iter()
        // What these do takes long and is not what is tried here.
        .filter(|request| {
            !matches!(
                request,
                Request::CollectGarbage(_) | Request::VerifyStore(_) | Request::OptimiseStore(_)
            )
        })
        .map(|request| {
            let mut out = BytesMut::new();
            request.encode(&on, &mut out);
            let mut bytes = out.to_vec();
            match request.name() {
                "AddMultipleToStore" => bytes.extend(framed(&stream_of_paths(true))),
                "AddClosure" => {
                    let packed = zstd::encode_all(&stream_of_paths(false)[..], 1).unwrap();
                    bytes.extend(framed(&packed));
                }
                "AddToStore" | "AddToStoreNar" => bytes.extend(framed(&nixci_protocol::testing::nar())),
                "AddBuildLog" => bytes.extend(framed(b"a line\n")),
                _ => {}
            }
            (request.name().to_owned(), bytes)
        })
        .collect()
}

/// Each of these in a connection of its own, which says no more and is answered until it is closed.
async fn all_end(socket: &Path, inputs: Vec<Vec<u8>>) {
    async fn one(socket: PathBuf, input: Vec<u8>) {
        let mut raw = Raw::ours(&socket).await;
        raw.send(&input).await;
        raw.end().await;
        raw.rest().await;
    }
    let mut running = JoinSet::new();
    for input in inputs {
        if running.len() >= AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        running.spawn(one(socket.to_owned(), input));
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_may_break_off_at_every_word() {
    let scene = Scene::new().await;
    let mut inputs = Vec::new();
    for (_, bytes) in samples() {
        inputs.extend((4..bytes.len()).step_by(8).map(|cut| bytes[..cut].to_vec()));
        inputs.extend((8..bytes.len()).step_by(8).map(|cut| bytes[..cut].to_vec()));
    }
    assert!(inputs.len() > 800, "{}", inputs.len());
    all_end(&scene.socket(), inputs).await;
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_word_may_be_a_number_at_the_edge() {
    let scene = Scene::new().await;
    let mut inputs = Vec::new();
    let edges = [u64::MAX, 1 << 63, (1 << 32) | 1, 1_000_001].into_iter().cycle();
    let mut edges = edges;
    for (_, bytes) in samples() {
        for word in (0..bytes.len() / 8).map(|word| word * 8) {
            for edge in edges.by_ref().take(2) {
                let mut changed = bytes.clone();
                changed[word..word + 8].copy_from_slice(&edge.to_le_bytes());
                inputs.push(changed);
            }
        }
    }
    all_end(&scene.socket(), inputs).await;
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_may_be_damaged_and_random() {
    let scene = Scene::new().await;
    let samples = samples();
    let mut damage = Damage::new(7);
    let mut inputs: Vec<Vec<u8>> = (0..400)
        .map(|_| {
            let (_, first) = &samples[damage.below(samples.len())];
            let (_, second) = &samples[damage.below(samples.len())];
            [damage.of(first), damage.of(second)].concat()
        })
        .collect();
    inputs.extend((0..100).map(|_| {
        let length = damage.below(4_000);
        damage.bytes(length)
    }));
    // Good numbers of operations, random fields.
    inputs.extend((0..100).map(|op| [words(&[op % 50]), damage.bytes(200)].concat()));
    all_end(&scene.socket(), inputs).await;
    scene.others_go_on().await;
}
