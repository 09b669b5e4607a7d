//! Little data that would become much.

use super::*;
use crate::common::connect;

const LIMITS: &str =
    "[limits]\nclosure_bytes = 1000000\nclosure_unpacked_bytes = 4000000\nnar_bytes = 3000000\nmax_items = 1000\n";

const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A frame with a header of this descriptor, the fields that follow it, and blocks.
fn frame(descriptor: u8, fields: &[u8], blocks: &[u8]) -> Vec<u8> {
    [&MAGIC[..], &[descriptor], fields, blocks].concat()
}

/// Blocks of 128 KiB, each one byte that is repeated.
fn repeated(byte: u8, blocks: usize, ends: bool) -> Vec<u8> {
    (0..blocks)
        .flat_map(|at| {
            let is_last = u32::from(ends && at + 1 == blocks);
            let header = (128 << 10) << 3 | 1 << 1 | is_last;
            let [a, b, c, _] = header.to_le_bytes();
            [a, b, c, byte]
        })
        .collect()
}

/// Blocks that are what they are.
fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut blocks = Vec::new();
    let mut pieces = bytes.chunks(100_000).peekable();
    while let Some(piece) = pieces.next() {
        let header = (piece.len() as u32) << 3 | u32::from(pieces.peek().is_none());
        blocks.extend_from_slice(&header.to_le_bytes()[..3]);
        blocks.extend_from_slice(piece);
    }
    blocks
}

/// One block that is not the last.
fn open(bytes: &[u8]) -> Vec<u8> {
    let mut block = plain(bytes);
    block[0] &= !1;
    block
}

fn skippable(length: usize) -> Vec<u8> {
    let length = length as u32;
    let header = [0x184d_2a50_u32.to_le_bytes(), length.to_le_bytes()].concat();
    [header, vec![1; length as usize]].concat()
}

/// A descriptor of a window of `1 << log` bytes.
fn window(log: u8) -> [u8; 1] {
    [(log - 10) << 3]
}

/// The beginning of a stream with one object of as many bytes as told.
fn begins(number: u64, nar_size: u64) -> Vec<u8> {
    let mut item = item(number, b"", &[]);
    item.info.info.nar_size = nar_size;
    let [tag, info, _] = item.parts();
    [tag, info].concat()
}

/// An info whose list of references has so many items.
fn many_references(number: u64, count: u64) -> Vec<u8> {
    let [tag, info, _] = item(number, b"", &[]).parts();
    // After the path, the deriver and the hash.
    let mut at = 0;
    for _ in 0..3 {
        let length = u64::from_le_bytes(info[at..at + 8].try_into().unwrap());
        at += 8 + usize::try_from(length).unwrap().next_multiple_of(8);
    }
    [&tag[..], &info[..at], &words(&[count])].concat()
}

#[expect(clippy::too_many_lines, reason = "a table reads better whole")]
fn table() -> Vec<(&'static str, Vec<u8>, Result<u64, &'static str>)> {
    let good = |number| stream(&[item(number, b"good", &[])]);
    let halves = |number: u64| {
        let bytes = stream(&[item(number, &noise(number, 3_000), &[])]);
        let (one, two) = bytes.split_at(1_234);
        [zstd_of(one), zstd_of(two)]
    };
    let [one, two] = halves(40);
    let [three, four] = halves(41);
    let long = {
        let mut item = item(10, &noise(10, 5_000), &[]);
        item.info.info.nar_size -= 8;
        stream(&[item])
    };
    let not_known = "the closure is not zstd with a window of at most 16 MiB";
    vec![
        // Sizes that are declared.
        ("more content than the info says", zstd_of(&long), Err("10")),
        (
            "an object near 2^64",
            zstd_of(&begins(11, u64::MAX)),
            Err("has 18446744073709551615 bytes; objects of more than 3000000 are refused (`nar_bytes` in [limits])"),
        ),
        (
            "zeros without end for an object",
            frame(
                0,
                &window(17),
                &[open(&begins(13, 2_999_999)), repeated(0, 20_000, true)].concat(),
            ),
            Err("-item"),
        ),
        (
            "a long list",
            zstd_of(&many_references(14, 1_001)),
            Err("list of 1001 items exceeds max_items (1000)"),
        ),
        (
            "a list near 2^64",
            zstd_of(&many_references(15, u64::MAX)),
            Err("exceeds max_items (1000)"),
        ),
        (
            "a string near 2^64",
            zstd_of(&words(&[1, u64::MAX])),
            Err("string of 18446744073709551615 bytes exceeds max_string"),
        ),
        // Sizes that are configured.
        (
            "more bytes than are taken",
            [skippable(600_000), skippable(600_000), zstd_of(&good(20))].concat(),
            Err("the closure has more than 1000000 compressed bytes (`closure_bytes` in [limits]); send it in parts"),
        ),
        (
            "many empty frames",
            zstd_of(b"").repeat(200_000),
            Err("(`closure_bytes` in [limits])"),
        ),
        (
            "one that unpacks to more",
            {
                let filler: Vec<Item> = (0..50).map(|at| item(100 + at, &vec![0; 100_000], &[])).collect();
                zstd_of(&stream(&filler))
            },
            Err("the closure has more than 4000000 bytes (`closure_unpacked_bytes` in [limits]); send it in parts"),
        ),
        // Frames.
        ("a window of 16 MiB", frame(0, &window(24), &plain(&good(30))), Ok(1)),
        (
            "zeros without end for an object that is there",
            frame(
                0,
                &window(17),
                &[open(&begins(30, u64::MAX)), repeated(0, 20_000, true)].concat(),
            ),
            Err("the closure has more than 4000000 bytes (`closure_unpacked_bytes` in [limits]); send it in parts"),
        ),
        (
            "a window of 32 MiB",
            frame(0, &window(25), &plain(&good(31))),
            Err(not_known),
        ),
        (
            "a window of 2 TiB",
            frame(0, &window(41), &plain(&good(31))),
            Err(not_known),
        ),
        (
            "one segment near 2^64",
            frame(0xe0, &(u64::MAX - 1).to_le_bytes(), &plain(&good(31))),
            Err(not_known),
        ),
        (
            "a content near 2^64",
            frame(
                0xc0,
                &[&window(17)[..], &(u64::MAX - 1).to_le_bytes()].concat(),
                &plain(&good(32)),
            ),
            Err(not_known),
        ),
        (
            "a dictionary",
            frame(1, &[&window(17)[..], &[9]].concat(), &plain(&good(33))),
            Err(not_known),
        ),
        ("two frames", [one, two].concat(), Ok(1)),
        (
            "frames to skip, before, between and after",
            [skippable(10), three, skippable(0), four, skippable(70_000)].concat(),
            Ok(1),
        ),
        (
            "only a frame to skip",
            skippable(10),
            Err("the stream of paths ends after 0 paths"),
        ),
        // What follows.
        (
            "bytes after the end",
            zstd_of(&[good(50), vec![0; 8]].concat()),
            Err("bytes follow the end of the stream of 1 paths"),
        ),
        (
            "another stream after the end",
            [zstd_of(&good(51)), zstd_of(&good(52))].concat(),
            Err("bytes follow the end of the stream of 1 paths"),
        ),
        (
            "something else after the end",
            [zstd_of(&good(53)), b"something else".to_vec()].concat(),
            Err(not_known),
        ),
        (
            "half a frame after the end",
            [zstd_of(&good(54)), zstd_of(b"")[..6].to_vec()].concat(),
            Err("the compressed closure ends in the middle"),
        ),
        (
            "zeros without end after the end",
            [zstd_of(&good(55)), frame(0, &window(17), &repeated(0, 100_000, true))].concat(),
            Err("bytes follow the end of the stream of 1 paths"),
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_would_become_much_is_refused_by_the_name_of_the_limit() {
    let scene = Scene::with(LIMITS).await;
    let mut raw = Raw::ours(&scene.socket()).await;
    let mut wrong = Vec::new();
    for (what, packed, expected) in table() {
        let came = add(&mut raw, &packed).await;
        let is_right = match (&came, expected) {
            (Ok(added), Ok(expected)) => *added == expected,
            (Err(error), Err(expected)) => error.contains(expected) && !error.contains('\n'),
            (Ok(_), Err(_)) | (Err(_), Ok(_)) => false,
        };
        if !is_right {
            wrong.push(format!("{what}: {expected:?} is expected, and said is: {came:?}"));
        }
        assert!(raw.goes_on().await, "{what}");
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What came whole stays, and nothing else does.
    let mut client = connect(&scene.socket()).await;
    assert_eq!(valid(&mut client, &[30, 40, 41, 50, 51, 53, 54, 55]).await, [true; 8]);
    assert_eq!(
        valid(&mut client, &[10, 11, 13, 14, 15, 20, 31, 33, 52, 149]).await,
        [false; 10]
    );
    assert_eq!(large_files(&scene), Vec::<String>::new());
    scene.others_go_on().await;
}
