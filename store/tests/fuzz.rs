//! Every fuzz target over its corpus and over damaged copies of it, the same every time.
//!
//! This is the smoke run: `make fuzz` searches on with coverage.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;

use nixci_protocol::testing::{Damage, Target};
use nixci_store::testing::fuzz::{seeds, targets};
use rstest::rstest;

/// Damaged copies of each input.
const COPIES: usize = 200;

fn target(name: &str) -> Target {
    targets().into_iter().find(|target| target.name == name).unwrap()
}

fn corpus(name: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("{}: {error}", folder.display()))
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    files
        .into_iter()
        .map(|file| (file.display().to_string(), std::fs::read(&file).unwrap()))
        .collect()
}

#[rstest]
#[case("handshake_server")]
#[case("handshake_client")]
#[case("request")]
#[case("reply")]
#[case("session")]
#[case("nar")]
#[case("log_channel")]
#[case("path_stream")]
#[case("control")]
#[case("derivation")]
#[case("narinfo")]
#[case("spool")]
fn a_target_keeps_its_promises(#[case] name: &str) {
    let target = target(name);
    let mut inputs = corpus(name);
    assert!(!inputs.is_empty(), "{name} has no corpus");
    inputs.extend(seeds(name));
    let mut damage = Damage::new(1);
    for (_, input) in &inputs {
        (target.run)(input);
    }
    for (name, input) in &inputs {
        for copy in 0..COPIES {
            let damaged = damage.of(input);
            let run = std::panic::catch_unwind(|| (target.run)(&damaged));
            assert!(run.is_ok(), "copy {copy} of {name}: {}", damaged.escape_ascii());
        }
    }
}

#[test]
fn every_target_is_run_here_and_by_the_fuzzer() {
    let here = include_str!("fuzz.rs");
    let manifest = include_str!("../../fuzz/Cargo.toml");
    for target in targets() {
        assert!(here.contains(&format!("#[case({:?})]", target.name)), "{}", target.name);
        assert!(
            manifest.contains(&format!("name = {:?}", target.name)),
            "{}",
            target.name
        );
    }
}
