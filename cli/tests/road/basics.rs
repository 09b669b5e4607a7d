//! What needs no builds: no daemon, wrong words, generated files.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use crate::world::{Ran, World};

#[test]
fn without_a_daemon_the_user_is_told_how_to_start_one() {
    let world = World::quiet();
    world
        .nixci(&["status"])
        .ends(4)
        .warns("error: no daemon at `unix://")
        .warns("`nixci-daemon`")
        .warns("systemctl start nixci-daemon`")
        .warns("--embedded");
    // A socket nobody listens on any more is another thing, with the same way out.
    let socket = world.socket();
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    world.nixci(&["watch", "1"]).ends(4).warns("is not running any more");
}

/// As where the service manager holds the socket of a daemon that does not come up.
#[test]
fn a_daemon_that_does_not_answer_is_waited_for_and_the_user_is_told() {
    let world = World::quiet();
    let socket = world.socket();
    std::fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let mut waiting = world.command(&["status"]).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(waiting.stderr.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert!(
        said.contains("does not answer yet") && said.contains("systemctl status nixci-daemon"),
        "{said}"
    );
    // It ends when its connection does.
    drop(listener);
    assert_eq!(waiting.wait().unwrap().code(), Some(4));
}

#[test]
fn a_plain_nix_daemon_is_not_taken_for_nixci() {
    let world = World::quiet();
    let socket = world.nix.socket();
    let to = socket.to_str().unwrap();
    world
        .nixci(&["--to", to, "status"])
        .ends(4)
        .warns("is a Nix daemon but not nixci");
}

#[test]
fn wrong_words_are_usage_errors_and_say_what_would_do() {
    let world = World::new();
    world.nixci(&["frobnicate"]).ends(2);
    world
        .nixci(&["--to", "s3://ci.example.org", "status"])
        .ends(2)
        .warns("`https://HOST`, or `ssh-ng://HOST`");
    world
        .nixci(&["--to", "https://ci.example.org", "status"])
        .ends(5)
        .warns("there is no token for `https://ci.example.org`: run `nixci login");
    world
        .nixci(&["status", "no-such-name"])
        .ends(2)
        .warns("names no evaluation");
    world.nixci(&["log", "a..b"]).ends(2).warns("empty name");
    world
        .nixci(&["submit", "--commit", "123"])
        .ends(2)
        .warns("`123` is no commit");
    world
        .nixci_with(&["submit", "--jobs-file", "-"], "a\tb\tc\n")
        .ends(2)
        .warns("standard input:1: `b\tc` is no store path");
    world
        .nixci(&["submit", "--jobs-file", "missing"])
        .ends(2)
        .warns("`missing`");
}

#[test]
fn what_does_not_exist_fails_with_its_name() {
    let world = World::new();
    world.nixci(&["status", "99"]).ends(1).warns("99");
    world.nixci(&["jobs"]).ends(1).warns("error: ");
    world.nixci(&["log", "--attempt", "99"]).ends(1).warns("99");
    world.nixci(&["status"]).ends(0).says("no evaluations yet");
    assert_eq!(world.nixci(&["status", "--json"]).ends(0).json(), serde_json::json!([]));
}

#[test]
fn completions_and_man_pages_cover_every_command() {
    let world = World::quiet();
    for shell in ["bash", "zsh", "fish"] {
        world
            .nixci(&["completions", shell])
            .ends(0)
            .says("submit")
            .says("jobs-file");
    }
    world.nixci(&["man", "pages"]).ends(0);
    for page in [
        "nixci",
        "nixci-submit",
        "nixci-status",
        "nixci-watch",
        "nixci-log",
        "nixci-jobs",
        "nixci-diff",
    ] {
        let path = world.dir().join("pages").join(format!("{page}.1"));
        assert!(path.is_file(), "{}", path.display());
    }
    // Shells and mandoc take them.
    let output = std::process::Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/generated"))
        .args([env!("CARGO_BIN_EXE_nixci"), "subm"])
        .output()
        .unwrap();
    Ran::from(output).ends(0);
}

#[test]
fn the_version_is_said_with_what_it_was_built_from() {
    let version = format!("nixci {}\n", nixci_daemon::VERSION);
    assert_eq!(World::quiet().nixci(&["--version"]).ends(0).out, version);
}

#[test]
fn the_doctor_looks_at_everything() {
    let world = World::new();
    world
        .nixci(&["doctor"])
        .ends(0)
        .says("✓ daemon")
        .says("✓ store")
        .says("✓ clock");
    let checks = world.nixci(&["doctor", "--json"]).ends(0).json();
    assert!(
        checks.as_array().unwrap().iter().any(|check| check["what"] == "daemon"),
        "{checks}"
    );
    world.nix.kill9();
    world.nixci(&["doctor"]).ends(1).says("✕ store");
    world.service().stop();
    world.nixci(&["doctor"]).ends(4).says("✕ daemon").says("nixci-daemon");
}
