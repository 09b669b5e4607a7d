//! Streams that are cut: what arrived whole stays, and the same stream sent again brings the rest.

use std::io::{Read as _, Write as _};

use nixci_protocol::client::Connection;

use super::*;
use crate::common::connect;

/// Numbers of the objects of one closure: each case has ten of its own.
const EACH: u64 = 10;

/// Two small objects, a large one, and a small one that needs it.
fn closure(case: u64) -> Vec<Item> {
    let first = case * EACH;
    vec![
        item(first, b"first", &[]),
        item(first + 1, b"second", &[first]),
        item(first + 2, &noise(case + 1, 300_000), &[first]),
        item(first + 3, b"last", &[first + 1, first + 2]),
    ]
}

fn numbers(case: u64) -> Vec<u64> {
    (0..4).map(|at| case * EACH + at).collect()
}

/// Where each object of a stream ends, in it.
fn ends(items: &[Item]) -> Vec<usize> {
    let lengths = items.iter().map(|item| item.parts().concat().len());
    lengths
        .scan(0, |end, length| {
            *end += length;
            Some(*end)
        })
        .collect()
}

/// Which objects are whole in a stream that is cut there.
fn whole(items: &[Item], cut: usize) -> Vec<bool> {
    ends(items).into_iter().map(|end| end <= cut).collect()
}

/// Compressed, each tag, info and NAR in blocks of their own, and where those end.
fn in_blocks(items: &[Item]) -> (Vec<u8>, Vec<usize>) {
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    let mut ends = Vec::new();
    for item in items {
        for part in item.parts() {
            encoder.write_all(&part).unwrap();
            encoder.flush().unwrap();
            ends.push(encoder.get_ref().len());
        }
    }
    encoder.write_all(&words(&[0])).unwrap();
    (encoder.finish().unwrap(), ends)
}

/// How much a beginning of compressed data gives.
fn unpacked(packed: &[u8]) -> usize {
    let mut decoder = zstd::Decoder::new(packed).unwrap();
    let mut bytes = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(read @ 1..) = decoder.read(&mut piece) {
        bytes.extend_from_slice(&piece[..read]);
    }
    bytes.len()
}

/// The same closure again, over a new connection: only what did not arrive is new.
async fn resumes(scene: &Scene, items: &[Item], had: &[bool], what: &str) {
    let mut raw = Raw::ours(&scene.socket()).await;
    let rest = had.iter().filter(|had| !**had).count() as u64;
    assert_eq!(add(&mut raw, &in_blocks(items).0).await, Ok(rest), "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_may_end_early_at_every_boundary() {
    let scene = Scene::new().await;
    let mut client = connect(&scene.socket()).await;
    let mut raw = Raw::ours(&scene.socket()).await;
    let shape = closure(0);
    // Before and after each tag, path, field of an info, NAR and word of a small NAR, and within them.
    let mut cuts: Vec<usize> = Vec::new();
    let mut at = 0;
    for item in &shape {
        let [tag, info, nar] = item.parts();
        let nar_at = at + tag.len() + info.len();
        cuts.extend((at..nar_at).step_by(24));
        cuts.extend([at + 3, at + 8, nar_at - 1, nar_at]);
        let end = nar_at + nar.len();
        cuts.extend([nar_at + 1, nar_at + nar.len() / 2, end - 1, end]);
        at = end;
    }
    cuts.push(at + 4);
    let mut seen = std::collections::BTreeSet::new();
    for (case, cut) in cuts.into_iter().enumerate() {
        let case = case as u64;
        let items = closure(case);
        let bytes = stream(&items);
        let error = add(&mut raw, &zstd_of(&bytes[..cut])).await.unwrap_err();
        assert!(error.contains("ends") && !error.contains('\n'), "{cut}: {error}");
        let expected = whole(&items, cut);
        seen.insert(expected.clone());
        assert_eq!(
            valid(&mut client, &numbers(case)).await,
            expected,
            "cut at {cut}: {error}"
        );
        assert!(raw.goes_on().await, "cut at {cut}");
        resumes(&scene, &items, &expected, &format!("cut at {cut}")).await;
    }
    assert_eq!(seen.len(), 5, "from nothing to everything");
    let names = large_files(&scene);
    assert!(names.iter().all(|name| name.ends_with(".nar.zst")), "{names:?}");
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_break_at_every_boundary() {
    let scene = Scene::new().await;
    let mut client = connect(&scene.socket()).await;
    // Frames of two sizes: such that each block has some, and such that one has all.
    let mut seen = std::collections::BTreeSet::new();
    let mut case = 0;
    for frame in [97_001, 400_000] {
        let (packed, blocks) = in_blocks(&closure(0));
        let frames: Vec<usize> = (0..packed.len()).step_by(frame).chain([packed.len()]).collect();
        let around = |at: &usize| [at - 1, *at, at + 1];
        let within = (1..20).map(|nth| packed.len() * nth / 20);
        // Cuts in the compressed stream, and at how many bytes of the length of the frame that follows.
        let mut cuts: Vec<(usize, usize)> = frames.iter().flat_map(|at| [(*at, 0), (*at, 4), (*at, 8)]).collect();
        cuts.extend(blocks.iter().flat_map(around).chain(within).map(|at| (at, 0)));
        for (cut, more) in cuts {
            case += 1;
            let items = closure(case);
            let (packed, _) = in_blocks(&items);
            let cut = cut.min(packed.len());
            let mut bytes = words(&[u64::from(nixci_protocol::nixci::OP_ADD_CLOSURE)]);
            let mut left = cut;
            for piece in packed.chunks(frame) {
                if left == 0 {
                    bytes.extend(&words(&[piece.len() as u64])[..more]);
                    break;
                }
                bytes.extend(words(&[piece.len() as u64]));
                let taken = left.min(piece.len());
                bytes.extend(&piece[..taken]);
                left -= taken;
            }
            if cut == packed.len() {
                bytes.extend(&words(&[0])[..more]);
            }
            let is_whole = cut == packed.len() && more == 8;
            let mut gone = Raw::ours(&scene.socket()).await;
            gone.send(&bytes).await;
            gone.end().await;
            gone.rest().await;
            let what = format!("cut at {cut} of {} and {more}, frames of {frame}", packed.len());
            let expected = whole(&items, unpacked(&packed[..cut]));
            seen.insert(expected.clone());
            if is_whole {
                // The daemon may hang up before it is done, as nobody listens.
                wait_for(&mut client, case, &expected).await;
            }
            assert_eq!(valid(&mut client, &numbers(case)).await, expected, "{what}");
            resumes(&scene, &items, &expected, &what).await;
        }
    }
    assert_eq!(seen.len(), 5, "from nothing to everything");
    let names = large_files(&scene);
    assert!(names.iter().all(|name| name.ends_with(".nar.zst")), "{names:?}");
    scene.others_go_on().await;
}

async fn wait_for(client: &mut Connection, case: u64, expected: &[bool]) {
    let waiting = async {
        while valid(client, &numbers(case)).await != expected {
            tokio::task::yield_now().await;
        }
    };
    let stored = tokio::time::timeout(crate::hostile::raw::PATIENCE, waiting).await;
    stored.expect("what arrived whole is stored although its sender has gone");
}
