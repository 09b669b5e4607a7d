//! What is wrong with a request is said, and then the connection works or is closed.

use nixci_protocol::testing::{Damage, negotiated};
use nixci_protocol::wire::encode;

use nixci_store::testing::TestDrv;

use super::Scene;
use super::nars::info;
use super::raw::{Raw, Said, framed, string, words};

/// What a connection is after an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Works,
    Closed,
}

const PATH: &str = "/nix/store/7lmww5ks62qvwklysqlsfbn6p4yl2ijr-u";
const DRV: &str = "/nix/store/7lmww5ks62qvwklysqlsfbn6p4yl2ijr-u.drv";

fn padded_with_ones() -> Vec<u8> {
    let mut bytes = [words(&[1]), string(PATH)].concat();
    *bytes.last_mut().unwrap() = 1;
    bytes
}

fn of(op: u64, fields: &[Vec<u8>]) -> Vec<u8> {
    [words(&[op]), fields.concat()].concat()
}

fn add_to_store(name: &str, method: &str, dump: &[u8]) -> Vec<u8> {
    of(7, &[string(name), string(method), words(&[0, 0]), framed(dump)])
}

fn text(name: &str, content: &str) -> Vec<u8> {
    of(8, &[string(name), string(content), words(&[0])])
}

fn control(json: &str) -> Vec<u8> {
    of(0x6e63_6903, &[string(json)])
}

fn build(derived: &str, mode: u64) -> Vec<u8> {
    of(46, &[words(&[1]), string(derived), words(&[mode])])
}

#[expect(clippy::too_many_lines, reason = "a table reads better whole")]
fn table() -> Vec<(Vec<u8>, &'static str, After)> {
    use After::{Closed, Works};
    let nested_drv = format!("Derive({}", "[(".repeat(10_000));
    let nested_json = format!("{{\"op\":\"info\",\"x\":{}", "[".repeat(100_000));
    let nested_path = format!("{DRV}{}", "!out".repeat(1_000));
    let bomb = bomb();
    vec![
        // Which operation.
        (words(&[0]), "operation 0: invalid operation 0", Closed),
        (words(&[2]), "operation 2: invalid operation 2", Closed),
        (words(&[999]), "operation 999: invalid operation 999", Closed),
        (words(&[(1 << 32) | 1]), "invalid operation 4294967297", Closed),
        (words(&[u64::MAX]), "invalid operation 18446744073709551615", Closed),
        // Fields.
        (
            padded_with_ones(),
            "IsValidPath: string of 45 bytes is padded with 0x01, not with zeros",
            Closed,
        ),
        (
            words(&[1, u64::MAX]),
            "string of 18446744073709551615 bytes exceeds max_string (65536)",
            Closed,
        ),
        (
            of(1, &[string("/nix/store/short")]),
            "IsValidPath: \"short\" is not a store path name: expected 32",
            Closed,
        ),
        (of(1, &[string("/nix/store/../../etc/passwd")]), "IsValidPath: ", Closed),
        (
            of(1, &[string("/somewhere/else")]),
            "is not in the store directory /nix/store",
            Closed,
        ),
        (of(1, &[string(format!("{PATH}\0"))]), "IsValidPath: ", Closed),
        (of(1, &[string([0xff, 0xfe])]), "a string is not UTF-8", Closed),
        (
            words(&[31, u64::MAX, 0]),
            "QueryValidPaths: list of 18446744073709551615 items exceeds max_items",
            Closed,
        ),
        (words(&[35, 2, 0]), "VerifyStore: 2 is not a valid bool", Closed),
        (
            build(DRV, 7),
            "BuildPathsWithResults: 7 is not a valid build mode",
            Closed,
        ),
        (build(&nested_path, 0), "nests more than 16 derivations", Closed),
        (
            build(&format!("{DRV}!"), 0),
            "BuildPathsWithResults: derived path",
            Closed,
        ),
        (
            words(&[20, 4, 0, 0, 0, 0, 0, 0]),
            "4 is not a valid garbage collection action",
            Closed,
        ),
        (of(29, &[string("zz")]), "hash part", Works),
        // Adding.
        (add_to_store("x", "bogus:sha256", b"x"), "AddToStore: ", Closed),
        (
            add_to_store("x", "text:sha512", b"x"),
            "must be hashed with sha256",
            Works,
        ),
        (
            add_to_store("x", "fixed:git:sha1", b"x"),
            "which is not supported",
            Works,
        ),
        (
            add_to_store("x", "fixed:r:sha256", b"this is not a NAR"),
            "malformed NAR",
            Works,
        ),
        (add_to_store("a/b", "fixed:sha256", b"x"), "a/b", Works),
        (add_to_store(".", "fixed:sha256", b"x"), "\".\"", Works),
        (add_to_store("", "fixed:sha256", b"x"), "name", Works),
        (
            text("broken.drv", "Derive([(\"out\""),
            "broken.drv is not a derivation that can be read",
            Works,
        ),
        (
            text("nested.drv", &nested_drv),
            "nested.drv is not a derivation that can be read",
            Works,
        ),
        (
            of(7, &[string("x"), string("fixed:sha256"), words(&[0, 0, 1 << 40])]),
            "exceeds max_frame (16777216)",
            Closed,
        ),
        // Our own.
        (
            words(&[0x6e63_6901, 7, 0]),
            "7 bytes of digests are not a multiple of 20",
            Closed,
        ),
        (
            control("{\"op\":\"dance\"}"),
            "the control message cannot be read: unknown variant `dance`",
            Works,
        ),
        (
            control(&nested_json),
            "the control message cannot be read: recursion limit exceeded",
            Works,
        ),
        (
            control("{}"),
            "the control message cannot be read: missing field `op`",
            Works,
        ),
        (words(&[0x6e63_6903, 1 << 40]), "exceeds max_control (67108864)", Closed),
        (
            of(0x6e63_6902, &[framed(b"not zstd")]),
            "the closure is not zstd",
            Works,
        ),
        (
            of(0x6e63_6902, &[framed(&[])]),
            "the stream of paths ends after 0 paths",
            Works,
        ),
        (
            of(0x6e63_6902, &[framed(&bomb)]),
            "the closure has more than 1000000 bytes (`closure_unpacked_bytes` in [limits])",
            Works,
        ),
    ]
}

/// A closure of one object whose two megabytes of zeros pack to nothing.
fn bomb() -> Vec<u8> {
    let zeros = vec![0; 2_000_000];
    let info = encode(&negotiated(16, false), &info(1, &zeros));
    zstd::encode_all(&[&words(&[1])[..], &info, &zeros].concat()[..], 19).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_and_there_is_no_third_state() {
    let scene = Scene::with("[limits]\nclosure_unpacked_bytes = 1000000\n").await;
    let mut wrong = Vec::new();
    for (request, expected, after) in table() {
        let mut raw = Raw::ours(&scene.socket()).await;
        assert!(raw.goes_on().await);
        raw.send(&request).await;
        let said = raw.said().await;
        match &said {
            // One line, and with the words that were agreed.
            Said::Error(error) if error.contains(expected) && !error.contains('\n') => {}
            other => wrong.push(format!("{expected:?} is expected, and said is: {other:?}")),
        }
        let works = said != Said::Closed && raw.goes_on().await;
        if works != (after == After::Works) {
            wrong.push(format!("{expected:?}: the connection works afterwards: {works}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_reads_or_never_ends_harms_nobody() {
    let scene = Scene::new().await;
    // Requests by the thousand, and not a word of the answers is read.
    let mut deaf = Vec::new();
    for _ in 0..8 {
        let raw = Raw::ours(&scene.socket()).await;
        let ahead = [words(&[1]), string(PATH)].concat().repeat(20_000);
        let (_, mut write) = raw.stream.into_split();
        deaf.push(tokio::spawn(async move {
            // Ends when the daemon does.
            drop(tokio::io::AsyncWriteExt::write_all(&mut write, &ahead).await);
            write
        }));
    }
    // Half an upload, and then nothing.
    let mut half = Raw::ours(&scene.socket()).await;
    half.send(&of(7, &[string("x"), string("fixed:sha256"), words(&[0, 0, 1 << 20])]))
        .await;
    half.send(&Damage::new(1).bytes(400_000)).await;
    // Half a request.
    let mut word = Raw::ours(&scene.socket()).await;
    word.send(&words(&[1])[..3]).await;
    let mut other = Raw::ours(&scene.socket()).await;
    for _ in 0..200 {
        assert!(other.goes_on().await);
    }
    scene.others_go_on().await;
    drop((deaf, half, word));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_listen_to_a_build_holds_nobody_who_wants_it_too() {
    let scene = Scene::new().await;
    let loud = "i=0; while [ $i -lt 100000 ]; do echo this is line $i of many; i=$((i+1)); done";
    let drvs = scene.store.instantiate("loud", &[TestDrv::good("loud").script(loud)]);
    let request = build(&format!("{}!*", drvs["loud"]), 0);
    let mut deaf = Raw::ours(&scene.socket()).await;
    deaf.send(&request).await;
    let mut other = Raw::ours(&scene.socket()).await;
    other.send(&request).await;
    assert_eq!(other.said().await, Said::Done);
    // One result: which path, and that it was built or is there.
    assert_eq!(other.take(8).await, words(&[1]));
    scene.others_go_on().await;
    drop(deaf);
}
