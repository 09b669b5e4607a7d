//! `nixci copy` where something is in the way: broken files, broken connections, two at once.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests do")]

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

use crate::world::World;

/// Bytes that do not compress, as text.
fn noise(seed: u64, length: usize) -> String {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            char::from(b'a' + (state >> 40) as u8 % 26)
        })
        .collect()
}

/// Twenty sources of 100 kB each and derivations that need them, the last of which needs all: 40 paths.
fn closure(nix: &TestDaemon, salt: &str) -> String {
    let names: Vec<String> = (0..20).map(|at| format!("d{at}")).collect();
    let mut derivations = Vec::new();
    for (at, name) in names.iter().enumerate() {
        let file = nix.scratch().join(format!("source-{salt}-{at}"));
        std::fs::write(&file, noise(at as u64 + 1, 100_000)).unwrap();
        let mut derivation = TestDrv::good(name).attribute("source", file.to_str().unwrap());
        if at > 0 {
            derivation = derivation.needs(&[&names[at - 1]]);
        }
        derivations.push(derivation);
    }
    nix.instantiate(salt, &derivations)["d19"].clone()
}

/// Listens in front of a socket and cuts the first connection after so many bytes of the client.
fn cutting(socket: &Path, at: &Path, after: usize) -> PathBuf {
    let listener = UnixListener::bind(at).unwrap();
    let socket = socket.to_owned();
    std::thread::spawn(move || {
        let (client, _) = listener.accept().unwrap();
        let daemon = UnixStream::connect(socket).unwrap();
        let (mut from, mut to) = (daemon.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || drop(std::io::copy(&mut from, &mut to)));
        let (mut from, mut to) = (client, daemon);
        let mut left = after;
        let mut piece = vec![0; 4096];
        while left > 0 {
            let room = left.min(piece.len());
            let Ok(read @ 1..) = from.read(&mut piece[..room]) else {
                break;
            };
            left -= read;
            if to.write_all(&piece[..read]).is_err() {
                break;
            }
        }
        drop(to.shutdown(std::net::Shutdown::Both));
        drop(from.shutdown(std::net::Shutdown::Both));
    });
    at.to_owned()
}

fn number(json: &serde_json::Value, key: &str) -> u64 {
    json[key].as_u64().unwrap()
}

/// A copy that breaks off, and again to the same store: only the rest is sent, and all of it is there.
fn breaks_off_and_resumes(world: &World, broken: &str, whole: &str, drv: &str) {
    let ran = world.nixci(&["--to", broken, "copy", drv]);
    let last = ran.err.lines().last().unwrap_or_default();
    let is_lost = ran.code == 4 && last.starts_with("error: lost the connection to `");
    // What Nix 2.26 says to a client that hung up, where it still listens.
    let is_told = ran.code == 1 && last.ends_with("interrupted by the user");
    assert!(is_lost || is_told, "{ran:?}");
    let rest = world.nixci(&["--to", whole, "--json", "copy", drv]).ends(0).json();
    let copied = number(&rest, "copied");
    assert!((1..40).contains(&copied), "{copied} of 40 paths were sent again");
    let again = world.nixci(&["--to", whole, "--json", "copy", drv]).ends(0).json();
    assert_eq!((number(&again, "copied"), number(&again, "bytes")), (0, 0));
}

#[rstest]
fn a_copy_to_a_stock_daemon_that_is_cut_off_resumes(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
    #[values("unix", "ssh-ng")] how: &str,
) {
    let world = World::quiet();
    let to = TestDaemon::start(version);
    let drv = closure(&world.nix, &format!("cut-{version}-{how}"));
    let after = 1_000_000;
    let (broken, whole) = if how == "unix" {
        let at = cutting(&to.socket(), &world.dir().join("cutting"), after);
        (
            format!("unix://{}", at.display()),
            format!("unix://{}", to.socket().display()),
        )
    } else {
        // What follows the URI's program is `--stdio`; a pipe that ends stands in for a broken connection.
        let program = |name: &str, before: &str| {
            let file = world.dir().join(name);
            let daemon = version.program("nix-daemon");
            let text = format!(
                "#!/bin/sh\n{before} NIX_REMOTE='{}' NIX_CONFIG='{}' {} \"$@\"\n",
                to.local_uri(),
                to.config(),
                daemon.display()
            );
            std::fs::write(&file, text).unwrap();
            std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
            format!("ssh-ng://localhost?remote-program={}", file.display())
        };
        (
            program("broken", &format!("dd bs=4096 count={} status=none |", after / 4096)),
            program("whole", ""),
        )
    };
    breaks_off_and_resumes(&world, &broken, &whole, &drv);
    to.run("nix-store", &["--verify", "--check-contents"]);
    to.run("nix-store", &["--realise", &drv]);
}

#[test]
fn a_copy_to_nixci_that_is_cut_off_resumes() {
    let world = World::new();
    let drv = closure(&world.nix, "cut");
    let whole = format!("unix://{}", world.socket().display());
    let at = cutting(&world.socket(), &world.dir().join("cutting"), 600_000);
    breaks_off_and_resumes(&world, &format!("unix://{}", at.display()), &whole, &drv);
}

#[test]
fn two_copies_of_the_same_at_once_both_end_well_and_counts_are_exact() {
    let world = World::new();
    let drv = closure(&world.nix, "twice");
    let running: Vec<_> = (0..3).map(|_| world.spawn(&["--json", "copy", &drv])).collect();
    for child in running {
        let ran = crate::world::Ran::from(child.wait_with_output().unwrap()).ends(0);
        assert_eq!(ran.err, "", "JSON is all that is printed");
        let done = ran.json();
        assert_eq!(number(&done, "paths"), 1);
        assert!(number(&done, "copied") <= 40, "{done}");
    }
    world.nixci(&["copy", &drv]).ends(0).says("nothing to copy");
    // Gone here, and there all the same.
    std::fs::remove_file(world.nix.physical(&drv)).unwrap();
    world.nixci(&["copy", &drv]).ends(0).says("nothing to copy");
}

#[test]
fn counts_are_exact_and_progress_is_lines_or_a_line() {
    let world = World::new();
    let drv = closure(&world.nix, "counts");
    let sizes = world.nix.run("nix-store", &["--query", "--requisites", &drv]);
    let sizes: Vec<u64> = (sizes.lines())
        .map(|path| {
            world
                .nix
                .run("nix-store", &["--query", "--size", path])
                .trim()
                .parse()
                .unwrap()
        })
        .collect();
    let done = world.nixci(&["--json", "copy", &drv]).ends(0).json();
    assert_eq!(
        done,
        serde_json::json!({ "paths": 1, "copied": sizes.len(), "bytes": sizes.iter().sum::<u64>() })
    );
    // Without a terminal there are lines.
    let drv = closure(&world.nix, "lines");
    let ran = world.nixci(&["copy", &drv]).ends(0).says("copied 40 paths (");
    assert_eq!(ran.err, "0 of 40 paths · 0 B\n");
    // On one there is a line that is redrawn, and gone at the end.
    let drv = closure(&world.nix, "terminal");
    let mut terminal = std::process::Command::new("script");
    let command = format!("{} copy {drv}", world.command(&[]).get_program().display());
    terminal.args(["-qec", &command, "/dev/null"]).env_clear();
    for (name, value) in world.command(&[]).get_envs() {
        if let Some(value) = value {
            terminal.env(name, value);
        }
    }
    let output = terminal
        .env("TERM", "xterm")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        shown.contains("of 40 paths · ") && shown.contains("copied 40 paths ("),
        "{shown:?}"
    );
    assert!(shown.contains('━') && shown.contains("\u{1b}["), "{shown:?}");
}

#[test]
fn a_derivation_that_is_damaged_missing_or_unreadable_is_one_line_with_its_path() {
    let world = World::new();
    let top = closure(&world.nix, "damaged");
    let references = world.nix.run("nix-store", &["--query", "--references", &top]);
    let below = references.lines().find(|path| path.contains(".drv")).unwrap();
    let file = world.nix.physical(below);
    let content = std::fs::read(&file).unwrap();
    let name = below.rsplit('/').next().unwrap();
    let refused = |expected: &str| {
        let ran = world.nixci(&["copy", &top]).ends(1);
        let lines: Vec<&str> = ran.err.lines().collect();
        let [line] = lines[..] else { panic!("{}", ran.err) };
        assert!(
            line.starts_with("error: ") && line.contains(name) && line.contains(expected),
            "{expected}: {line}"
        );
    };
    let change = |content: &[u8]| {
        std::fs::remove_file(&file).unwrap();
        std::fs::write(&file, content).unwrap();
    };
    for damaged in [&content[..content.len() / 2], b"", b"\xff\xfe\n\n", b"Derive()"] {
        change(damaged);
        refused("is not a derivation that can be read");
    }
    std::fs::remove_file(&file).unwrap();
    refused("is not in ");
    std::fs::create_dir(&file).unwrap();
    refused("Is a directory");
    std::fs::remove_dir(&file).unwrap();
    std::os::unix::fs::symlink(&file, &file).unwrap();
    refused("symbolic links");
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, &content).unwrap();
    world.nixci(&["copy", &top]).ends(0).says("copied 40 paths");
}
