//! The page on our extension: its examples are the bytes that this crate writes and reads.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use bytes::BytesMut;
use nixci_protocol::handshake::{ClientHandshake, Offer, ServerHandshake};
use nixci_protocol::io::{PathStreamReader, PathStreamWriter, StreamKind, put_frame};
use nixci_protocol::log::Incoming;
use nixci_protocol::nixci::{
    AddClosure, Bitmap, CONTROL_LINES, CONTROL_VALUE, Control, FEATURE_CLOSURE, FEATURE_CONTROL, QueryValidBatch,
    RootsDigest,
};
use nixci_protocol::op::Request;
use nixci_protocol::testing::read_request;
use nixci_protocol::types::{
    ContentAddress, ContentAddressMethod, Hash, NarHash, PathInfo, StoreDir, StorePath, Trust, UnkeyedPathInfo,
};
use nixci_protocol::version::Version;
use nixci_protocol::wire::{Limits, Negotiated, Wire, encode};
use tokio::io::AsyncReadExt as _;

const PAGE: &str = include_str!("../src/nixci/extension.md");

/// A zstd frame of eight bytes, not compressed, up to those bytes: magic, one segment of eight bytes, one last raw block.
const ZSTD_OF_EIGHT: &[u8] = b"\x28\xb5\x2f\xfd\x20\x08\x41\0\0";

/// The examples of the page, by their titles.
fn examples() -> BTreeMap<String, Vec<u8>> {
    let mut examples = BTreeMap::new();
    for block in PAGE.split("```text\n").skip(1) {
        let (block, _) = block.split_once("```").unwrap();
        let mut title = "";
        for line in block.lines() {
            if let Some(next) = line.strip_prefix("# ") {
                title = next;
                assert!(
                    examples.insert(title.to_owned(), Vec::new()).is_none(),
                    "{title} is there twice"
                );
                continue;
            }
            let bytes = line.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap());
            examples.get_mut(title).unwrap().extend(bytes);
        }
    }
    examples
}

fn shown(bytes: &[u8]) -> String {
    let mut text = String::new();
    for line in bytes.chunks(32) {
        let line: Vec<String> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        writeln!(text, "{}", line.join(" ")).unwrap();
    }
    text
}

fn on() -> Negotiated {
    let mut on = Negotiated::plain(Version { major: 1, minor: 38 }, StoreDir::default());
    on.features = [FEATURE_CLOSURE, FEATURE_CONTROL].map(str::to_owned).into();
    on
}

fn offer(features: &[&str]) -> Offer {
    Offer {
        features: features.iter().map(|feature| (*feature).to_owned()).collect(),
        ..Offer::default()
    }
}

fn request(request: impl Into<Request>) -> Vec<u8> {
    let mut out = BytesMut::new();
    request.into().encode(&on(), &mut out);
    out.to_vec()
}

/// The end of the log, and what follows it.
fn reply(parts: &[&[u8]]) -> Vec<u8> {
    let mut out = encode(&on(), &Incoming::Last).to_vec();
    out.extend(parts.concat());
    out
}

fn frames(contents: &[&[u8]]) -> Vec<u8> {
    let mut out = BytesMut::new();
    for content in contents.iter().chain(&[&[][..]]) {
        put_frame(content, &mut out);
    }
    out.to_vec()
}

fn word(word: u64) -> Vec<u8> {
    encode(&on(), &word).to_vec()
}

/// A text file, and its NAR.
fn text_file() -> (PathInfo, Vec<u8>) {
    let mut nar = BytesMut::new();
    for word in ["nix-archive-1", "(", "type", "regular", "contents", "hi", ")"] {
        nixci_protocol::wire::primitive::put_string(word.as_bytes(), &mut nar);
    }
    let info = UnkeyedPathInfo {
        deriver: None,
        nar_hash: NarHash::of(&nar),
        references: BTreeSet::new(),
        registration_time: 0,
        nar_size: nar.len() as u64,
        ultimate: false,
        signatures: BTreeSet::new(),
        ca: Some(ContentAddress {
            method: ContentAddressMethod::Text,
            hash: Hash::sha256_of(b"hi"),
        }),
    };
    let ca = info.ca.unwrap();
    let path =
        nixci_protocol::types::make_content_addressed_path(&StoreDir::default(), "a", &ca, &BTreeSet::new(), false);
    (
        PathInfo {
            path: path.unwrap(),
            info,
        },
        nar.to_vec(),
    )
}

/// What the crate has for each example.
async fn ours() -> BTreeMap<&'static str, Vec<u8>> {
    let roots = RootsDigest::of_members(&StoreDir::default(), &mut vec![[1; 20]]);
    let (features, feature) = ([FEATURE_CLOSURE, FEATURE_CONTROL], roots.feature());
    let mut said = BytesMut::new();
    let mut client = ClientHandshake::start(offer(&[features[0], features[1], &feature]), &mut said);
    let client_first = said.split();
    let mut server = ServerHandshake::new(offer(&features), "2.26.0".to_owned(), Trust::Trusted);
    server.receive(&client_first, &mut said).unwrap();
    let server_first = said.split();
    client.receive(&server_first, &mut said).unwrap();
    let client_second = said.split();
    let asked = server.receive(&client_second, &mut said).unwrap().consumed;
    assert_eq!(server.asks(), Some(roots));
    server.answer(true, &mut said);
    let done = server
        .receive(&client_second[asked..], &mut said)
        .unwrap()
        .done
        .unwrap();
    assert!(roots.is_known(&done));
    let agreed = client.receive(&said, &mut BytesMut::new()).unwrap().done.unwrap();
    assert!(roots.is_known(&agreed.negotiated));
    Incoming::Last.encode(&done, &mut said);

    let path: StorePath = StorePath::from_base_name("0123456789abcdfghijklmnpqrsvwxyz-a").unwrap();
    let (info, nar) = text_file();
    let mut stream = PathStreamWriter::new(StreamKind::Tagged, 1, StoreDir::default(), Vec::new());
    stream.add(&info, &nar[..]).await.unwrap();
    let stream = stream.finish().await.unwrap();
    let nothing = [ZSTD_OF_EIGHT, &word(0)].concat();
    BTreeMap::from([
        (
            "digest of /nix/store/0123456789abcdfghijklmnpqrsvwxyz-a",
            path.digest().to_vec(),
        ),
        (
            "digest of a set, of these bytes",
            [b"nixci-roots-1\0/nix/store\0", &[1; 20][..]].concat(),
        ),
        ("digest of a set", roots.as_bytes().to_vec()),
        ("client: magic, version 1.38", client_first.to_vec()),
        ("server: magic, version 1.38", server_first.to_vec()),
        (
            "client: three features, no processor, no reserved space",
            client_second.to_vec(),
        ),
        (
            "server: the same features (the set is known), its version, that it trusts the client, the end of its log",
            said.to_vec(),
        ),
        (
            "QueryValidBatch of two paths",
            request(QueryValidBatch {
                digests: vec![[1; 20], [2; 20]],
            }),
        ),
        (
            "reply: the second is valid",
            reply(&[&encode(&on(), &[false, true].into_iter().collect::<Bitmap>())]),
        ),
        (
            "AddClosure of nothing: zstd of a word 0, in one frame",
            [request(AddClosure {}), frames(&[&nothing])].concat(),
        ),
        ("reply: nothing was new", reply(&[&word(0)])),
        ("unpacked: the text file `a` with the content `hi`, and the end", stream),
        (
            "Control",
            request(Control {
                json: r#"{"op":"info"}"#.to_owned(),
            }),
        ),
        (
            "reply: one value",
            reply(&[&word(CONTROL_VALUE), &encode(&on(), &"{}".to_owned())]),
        ),
        (
            "reply: two lines",
            reply(&[&word(CONTROL_LINES), &frames(&[b"{}\n{}\n"])]),
        ),
    ])
}

#[tokio::test]
async fn every_example_is_what_this_crate_writes() {
    let (examples, ours) = (examples(), ours().await);
    let other: Vec<String> = (ours.iter())
        .filter(|(title, bytes)| examples.get(**title) != Some(bytes))
        .map(|(title, bytes)| format!("# {title}\n{}", shown(bytes)))
        .collect();
    assert!(other.is_empty(), "these should read\n{}", other.concat());
    assert_eq!(examples.len(), ours.len(), "{:?}", examples.keys());
}

#[tokio::test]
async fn every_example_is_read() {
    let examples = examples();
    for title in [
        "QueryValidBatch of two paths",
        "AddClosure of nothing: zstd of a word 0, in one frame",
        "Control",
    ] {
        let bytes = &examples[title];
        let (request, length) = read_request(&on(), bytes).unwrap().unwrap();
        assert!(title.starts_with(request.name()), "{title}: {request:?}");
        assert_eq!(length == bytes.len(), request.name() != "AddClosure");
    }
    let stream = &examples["unpacked: the text file `a` with the content `hi`, and the end"];
    let mut stream = PathStreamReader::new(StreamKind::Tagged, StoreDir::default(), Limits::default(), &stream[..]);
    let (info, nar) = text_file();
    assert_eq!(stream.next().await.unwrap(), Some(info));
    let mut read = Vec::new();
    stream.nar().read_to_end(&mut read).await.unwrap();
    assert_eq!(read, nar);
    assert_eq!(stream.next().await.unwrap(), None);
}

/// The numbers and names of the tables.
#[test]
fn the_tables_name_every_operation_and_feature() {
    for name in [FEATURE_CLOSURE, FEATURE_CONTROL] {
        assert!(PAGE.contains(&format!("`{name}`")), "{name}");
    }
    let limits = Limits::default();
    for limit in [
        limits.text(),
        limits.frame(),
        limits.control(),
        limits.paths(),
        limits.message(),
    ] {
        assert!(PAGE.contains(&format!("`{}`", limit.name)), "{}", limit.name);
    }
    let ours = 0x6e63_6900..=0x6e63_69ff_u64;
    let operations: Vec<(u64, &str)> = ours.filter_map(|op| Some((op, Request::name_of(op)?))).collect();
    assert_eq!(operations.len(), 3);
    for (op, name) in operations {
        assert!(PAGE.contains(&format!("| `{name}` | `{op:#x}` |")), "{name}");
    }
}
