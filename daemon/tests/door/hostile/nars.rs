//! NARs that no store may unpack.

use std::collections::BTreeSet;

use bytes::BytesMut;
use nixci_protocol::op::AddToStoreNar;
use nixci_protocol::types::{NarHash, PathInfo, StorePath, UnkeyedPathInfo};
use nixci_protocol::wire::{Wire as _, encode};

use super::Scene;
use super::raw::{Raw, Said, framed, string, words};

fn strings(texts: &[&[u8]]) -> Vec<u8> {
    texts.iter().flat_map(string).collect()
}

const FILE: [&[u8]; 6] = [b"(", b"type", b"regular", b"contents", b"x", b")"];

/// A directory with files of these names.
fn directory(names: &[&[u8]]) -> Vec<u8> {
    let mut nar = strings(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    for name in names {
        nar.extend(strings(&[b"entry", b"(", b"name", name, b"node"]));
        nar.extend(strings(&FILE));
        nar.extend(strings(&[b")"]));
    }
    nar.extend(strings(&[b")"]));
    nar
}

fn deep(levels: usize) -> Vec<u8> {
    let mut nar = strings(&[b"nix-archive-1"]);
    for _ in 1..levels {
        nar.extend(strings(&[
            b"(",
            b"type",
            b"directory",
            b"entry",
            b"(",
            b"name",
            b"d",
            b"node",
        ]));
    }
    nar.extend(strings(&[b"(", b"type", b"directory", b")"]));
    for _ in 1..levels {
        nar.extend(strings(&[b")", b")"]));
    }
    nar
}

/// A link, and a directory of the same name that would be unpacked through it.
fn through_a_link() -> Vec<u8> {
    let mut nar = strings(&[b"nix-archive-1", b"(", b"type", b"directory"]);
    nar.extend(strings(&[
        b"entry", b"(", b"name", b"a", b"node", b"(", b"type", b"symlink", b"target", b"/etc", b")", b")",
    ]));
    nar.extend(strings(&[
        b"entry",
        b"(",
        b"name",
        b"a",
        b"node",
        b"(",
        b"type",
        b"directory",
        b")",
        b")",
        b")",
    ]));
    nar
}

pub(super) fn info(digest: u8, nar: &[u8]) -> PathInfo {
    PathInfo {
        path: StorePath::new([digest; 20], "hostile").unwrap(),
        info: UnkeyedPathInfo {
            deriver: None,
            nar_hash: NarHash::of(nar),
            references: BTreeSet::new(),
            registration_time: 0,
            nar_size: nar.len() as u64,
            ultimate: false,
            signatures: BTreeSet::new(),
            ca: None,
        },
    }
}

/// Sends a NAR as a principal that may add anything.
async fn add(raw: &mut Raw, digest: u8, nar: &[u8]) -> Said {
    let request = AddToStoreNar {
        info: info(digest, nar),
        repair: false,
        dont_check_sigs: true,
    };
    raw.send(&words(&[39])).await;
    raw.send(&encode(&raw.on, &request)).await;
    raw.send(&framed(nar)).await;
    raw.said().await
}

#[tokio::test(flavor = "multi_thread")]
async fn names_and_shapes_that_would_harm_a_disk_are_refused_by_name() {
    let scene = Scene::new().await;
    let mut raw = Raw::ours(&scene.socket()).await;
    let long = [b'n'; 256];
    let mut garbage = directory(&[b"a"]);
    garbage.extend(strings(&[b"more"]));
    let mut padded = directory(&[b"a"]);
    let last = padded.len() - 1;
    padded[last] = 1;
    let twice = strings(&[b"nix-archive-1", b"(", b"type", b"regular", b"type", b"directory", b")"]);
    let huge = [
        strings(&[b"nix-archive-1", b"(", b"type", b"regular", b"contents"]),
        words(&[u64::MAX - 7]),
    ]
    .concat();
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (directory(&[b".."]), "bad entry name \"..\": no file may have it"),
        (directory(&[b"."]), "bad entry name \".\": no file may have it"),
        (directory(&[b"a/b"]), "bad entry name \"a/b\": no file may have it"),
        (directory(&[b"/etc"]), "bad entry name \"/etc\": no file may have it"),
        (directory(&[b"a\0b"]), "bad entry name \"a\\0b\": no file may have it"),
        (directory(&[b""]), "bad entry name \"\": it is empty"),
        (directory(&[&long]), "entry name of 256 bytes exceeds 255"),
        (
            directory(&[b"b", b"a"]),
            "bad entry name \"a\": entries are not strictly sorted",
        ),
        (
            directory(&[b"a", b"a"]),
            "bad entry name \"a\": entries are not strictly sorted",
        ),
        (
            directory(&[b"a~nix~case~hack~1"]),
            "bad entry name \"a~nix~case~hack~1\": it contains ~nix~case~hack~",
        ),
        (
            through_a_link(),
            "bad entry name \"a\": entries are not strictly sorted",
        ),
        (deep(65), "directories nest deeper than 64"),
        (deep(10_000), "directories nest deeper than 64"),
        (garbage, "its grammar ends elsewhere"),
        (padded, "padding is not zero"),
        (twice, "expected \"executable\" or \"contents\", found \"type\""),
        (huge, "its grammar ends elsewhere"),
        (b"this is no NAR at all".to_vec(), "malformed NAR at byte"),
        (Vec::new(), "its grammar ends elsewhere"),
    ];
    for (nar, expected) in cases {
        match add(&mut raw, 1, &nar).await {
            Said::Error(error) => {
                assert!(
                    error.contains(expected),
                    "{expected:?} is expected, and said is: {error}"
                );
                assert!(error.contains("-hostile"), "the object is not named: {error}");
            }
            other => panic!("{expected}: {other:?}"),
        }
        assert!(raw.goes_on().await, "{expected}");
    }
    // What a disk can hold is taken: on Linux `A` and `a` are two files.
    for (digest, nar) in [(2, directory(&[b"A", b"a"])), (3, deep(64)), (4, directory(&[]))] {
        assert_eq!(add(&mut raw, digest, &nar).await, Said::Done);
        assert!(raw.goes_on().await);
    }
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_paths_that_do_not_keep_their_word_are_refused() {
    let scene = Scene::new().await;
    let socket = scene.socket();
    let nar = directory(&[b"a"]);
    let stream = |count: u64, infos: &[PathInfo]| {
        let on = nixci_protocol::testing::negotiated(16, false);
        let mut out = BytesMut::from(&words(&[count])[..]);
        for info in infos {
            info.encode(&on, &mut out);
            out.extend_from_slice(&nar);
        }
        out.to_vec()
    };
    let (base, mut app) = (info(11, &nar), info(12, &nar));
    app.info.references = [info(99, &nar).path].into();
    let mut lies = info(13, &nar);
    lies.info.nar_hash = NarHash([7; 32]);
    let mut long = info(14, &nar);
    long.info.nar_size = u64::MAX - 7;
    for (body, expected) in [
        (
            stream(3, &[base.clone(), info(15, &nar)]),
            Err("the stream of paths ends after 2 paths"),
        ),
        // As at a stock daemon: what follows the last one is not looked at.
        (stream(1, &[info(16, &nar), info(17, &nar)]), Ok(())),
        (stream(2, &[app.clone(), info(18, &nar)]), Err("which is not here")),
        (stream(2, &[info(19, &nar), lies]), Err("was promised")),
        (stream(u64::MAX, &[]), Err("exceeds max_paths")),
        (stream(1, &[long]), Err("`nar_bytes` in [limits]")),
        (stream(0, &[]), Ok(())),
        (Vec::new(), Err("the stream of paths ends after 0 paths")),
    ] {
        let mut raw = Raw::ours(&socket).await;
        raw.send(&words(&[44, 0, 1])).await;
        raw.send(&framed(&body)).await;
        match (raw.said().await, expected) {
            (Said::Done, Ok(())) => {}
            (Said::Error(error), Err(expected)) => assert!(error.contains(expected), "{expected:?}: {error}"),
            (said, expected) => panic!("{expected:?}: {said:?}"),
        }
        assert!(raw.goes_on().await, "{expected:?}");
    }
    // What came whole before something was refused is here; what did not is not.
    let mut raw = Raw::ours(&socket).await;
    for (digest, here) in [
        (11, true),
        (15, true),
        (16, true),
        (17, false),
        (12, false),
        (19, true),
        (13, false),
    ] {
        let path = raw.on.store_dir.display(&info(digest, &nar).path).to_string();
        raw.send(&[words(&[1]), string(path)].concat()).await;
        assert_eq!(raw.said().await, Said::Done);
        assert_eq!(raw.take(8).await, words(&[u64::from(here)]), "{digest}");
    }
    // A client that goes away in the middle of its frames leaves nothing half.
    let body = stream(1, &[info(20, &nar)]);
    let mut gone = Raw::ours(&socket).await;
    gone.send(&words(&[44, 0, 1, body.len() as u64])).await;
    gone.send(&body[..body.len() - 8]).await;
    gone.end().await;
    assert!(matches!(gone.said().await, Said::Error(error) if error.contains("hung up")));
    assert_eq!(gone.said().await, Said::Closed);
    raw.send(
        &[
            words(&[1]),
            string(raw.on.store_dir.display(&info(20, &nar).path).to_string()),
        ]
        .concat(),
    )
    .await;
    assert_eq!(raw.said().await, Said::Done);
    assert_eq!(raw.take(8).await, words(&[0]));
    scene.others_go_on().await;
}
