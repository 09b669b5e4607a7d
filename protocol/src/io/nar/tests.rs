use proptest::prelude::*;

use super::*;

fn string(text: &[u8]) -> Vec<u8> {
    let mut out = (text.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(text);
    out.resize(out.len().next_multiple_of(8), 0);
    out
}

/// A NAR from its words, with `MAGIC` in front.
fn nar(words: &[&str]) -> Vec<u8> {
    let mut out = string(b"nix-archive-1");
    for word in words {
        out.extend(string(word.as_bytes()));
    }
    out
}

fn file(content: &str) -> Vec<&str> {
    vec!["(", "type", "regular", "contents", content, ")"]
}

fn directory<'a>(entries: &[(&'a str, Vec<&'a str>)]) -> Vec<&'a str> {
    let mut words = vec!["(", "type", "directory"];
    for (name, node) in entries {
        words.extend(["entry", "(", "name", name, "node"]);
        words.extend(node);
        words.push(")");
    }
    words.push(")");
    words
}

fn scan(bytes: &[u8], step: usize) -> Result<Option<u64>, NarError> {
    let mut scanner = NarScanner::new();
    for piece in bytes.chunks(step) {
        if scanner.push(piece)? < piece.len() {
            break;
        }
    }
    Ok(scanner.is_done().then_some(scanner.offset()))
}

#[test]
fn the_end_is_found_wherever_the_pieces_are_cut() {
    let tree = directory(&[
        ("a", file("hello\n")),
        ("b", vec!["(", "type", "symlink", "target", "../x", ")"]),
        ("c", vec!["(", "type", "regular", "executable", "", "contents", "", ")"]),
        ("d", directory(&[("e", file("12345678"))])),
        ("f", directory(&[])),
    ]);
    for words in [file("hello\n"), file(""), tree] {
        let bytes = nar(&words);
        let mut longer = bytes.clone();
        longer.extend_from_slice(b"something behind it");
        for step in 1..=bytes.len() {
            assert_eq!(scan(&bytes, step), Ok(Some(bytes.len() as u64)), "in steps of {step}");
            assert_eq!(scan(&longer, step), Ok(Some(bytes.len() as u64)), "in steps of {step}");
        }
        for length in 0..bytes.len() {
            assert_eq!(scan(&bytes[..length], 5), Ok(None), "cut at {length}");
        }
    }
    assert_eq!(nar(&file("hello\n")).len(), 120);
}

#[test]
fn what_is_no_nar_is_refused_and_named() {
    let long = "x".repeat(256);
    let deep = |depth: usize| {
        let mut node = file("");
        for _ in 0..depth {
            node = directory(&[("d", node)]);
        }
        nar(&node)
    };
    assert_eq!(scan(&deep(64), 1 << 20), Ok(Some(deep(64).len() as u64)));
    let mut padded = nar(&file("hello\n"));
    let last = padded.len() - 17;
    padded[last] = 1;
    for (bytes, part) in [
        (
            string(b"nix-archive-2"),
            "expected \"nix-archive-1\", found \"nix-archive-2\"",
        ),
        (nar(&["(", "type", "socket"]), "found \"socket\""),
        (
            nar(&["(", "type", "regular", "executable", "yes"]),
            "expected an empty string",
        ),
        (nar(&["(", "type", "symlink", "target", ""]), "bad link target"),
        (nar(&["(", "type", "symlink", "target", "a\0b"]), "bad link target"),
        (
            nar(&directory(&[("b", file("")), ("a", file(""))])),
            "not strictly sorted",
        ),
        (
            nar(&directory(&[("a", file("")), ("a", file(""))])),
            "not strictly sorted",
        ),
        (nar(&directory(&[("..", file(""))])), "bad entry name \"..\""),
        (nar(&directory(&[("", file(""))])), "it is empty"),
        (nar(&directory(&[("a/b", file(""))])), "bad entry name \"a/b\""),
        (nar(&directory(&[("a~nix~case~hack~1", file(""))])), "case~hack"),
        (
            nar(&directory(&[(&long, file(""))])),
            "entry name of 256 bytes exceeds 255",
        ),
        (deep(65), "nest deeper than 64"),
        (padded, "padding is not zero"),
    ] {
        let error = scan(&bytes, 13).unwrap_err().to_string();
        assert!(
            error.starts_with("malformed NAR at byte ") && error.contains(part),
            "{error}"
        );
    }
}

#[test]
fn content_is_told_from_structure() {
    let bytes = nar(&file("hello\n"));
    let mut scanner = NarScanner::new();
    let (mut rest, mut content) = (&bytes[..], Vec::new());
    while !rest.is_empty() {
        let (taken, part) = scanner.advance(rest).unwrap();
        if part == NarPart::Content {
            content.extend_from_slice(&rest[..taken]);
        }
        rest = &rest[taken..];
    }
    assert_eq!(content, b"hello\n");
}

proptest! {
    #[test]
    fn nonsense_never_panics(flips in proptest::collection::vec((0_usize..400, any::<u8>()), 0..4), step in 1_usize..40) {
        let mut bytes = nar(&directory(&[("a", file("hello\n")), ("b", directory(&[("c", file("x"))]))]));
        for (at, byte) in flips {
            let length = bytes.len();
            bytes[at % length] = byte;
        }
        let _ = scan(&bytes, step);
    }
}
