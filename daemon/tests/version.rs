//! What `--version` says of the build: the build script, run in checkouts, tarballs and builds without either.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/build.rs");

/// A folder with a workspace in it, and the build script.
struct World {
    dir: TempDir,
    script: PathBuf,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("script");
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let compiled = Command::new(rustc)
            .args(["--edition", "2024", SCRIPT, "-o"])
            .arg(&script)
            .output()
            .expect("rustc runs");
        fine(&compiled);
        let world = Self { dir, script };
        for file in [
            "Cargo.toml",
            "Cargo.lock",
            "README.md",
            "daemon/src/lib.rs",
            "cli/src/main.rs",
        ] {
            world.write(file, "first\n");
        }
        world
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("workspace")
    }

    fn write(&self, file: &str, content: &str) {
        let path = self.root().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    /// Git in `dir`, with nothing of the user's settings.
    fn git(dir: &Path, arguments: &[&str]) -> String {
        let output = Command::new("git")
            .args(["-c", "user.name=test", "-c", "user.email=test@example.org"])
            .args(arguments)
            .current_dir(dir)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("GIT_COMMITTER_DATE", "2026-11-21T23:59:59Z")
            .output()
            .expect("git runs");
        fine(&output);
        String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
    }

    /// Commits all there is, and says which commit it became.
    fn commit(dir: &Path) -> String {
        Self::git(dir, &["init", "--quiet"]);
        Self::git(dir, &["add", "--all"]);
        Self::git(dir, &["commit", "--quiet", "--message", "test"]);
        Self::git(dir, &["rev-parse", "--short=12", "HEAD"])
    }

    /// What cargo is told for a release build of `package`.
    fn told(&self, package: &str, env: &[(&str, &str)]) -> String {
        let output = Command::new(&self.script)
            .current_dir(self.root().join(package))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("CARGO_MANIFEST_DIR", self.root().join(package))
            .env("CARGO_PKG_VERSION", "0.1.0")
            .env("PROFILE", "release")
            .envs(env.iter().copied())
            .output()
            .unwrap();
        fine(&output);
        String::from_utf8(output.stdout).unwrap()
    }

    fn version(&self, package: &str, env: &[(&str, &str)]) -> String {
        let told = self.told(package, env);
        let version = told
            .lines()
            .find_map(|line| line.strip_prefix("cargo::rustc-env=NIXCI_VERSION="));
        version.expect(&told).to_owned()
    }
}

fn fine(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

#[test]
fn a_checkout_says_its_commit_and_whether_it_was_changed() {
    let world = World::new();
    let commit = World::commit(&world.root());
    let clean = format!("0.1.0 ({commit} 2026-11-21)");
    let dirty = format!("0.1.0 ({commit}-dirty 2026-11-21)");
    for package in ["daemon", "cli"] {
        assert_eq!(world.version(package, &[]), clean);
    }
    // What no program is made of does not count, and what only the other one is made of counts for that.
    world.write("README.md", "second\n");
    world.write("cli/src/new.rs", "");
    assert_eq!(world.version("daemon", &[]), clean);
    assert_eq!(world.version("cli", &[]), dirty);
    world.write("Cargo.lock", "second\n");
    assert_eq!(world.version("daemon", &[]), dirty);
    let next = World::commit(&world.root());
    assert_ne!(next, commit);
    for package in ["daemon", "cli"] {
        assert_eq!(world.version(package, &[]), format!("0.1.0 ({next} 2026-11-21)"));
    }
}

#[test]
fn the_script_runs_again_when_head_moves_and_only_files_that_are_there_are_watched() {
    let world = World::new();
    World::commit(&world.root());
    let watched = |told: String| {
        told.lines()
            .filter_map(|line| line.strip_prefix("cargo::rerun-if-changed="))
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
            .collect::<Vec<_>>()
    };
    let before = watched(world.told("daemon", &[]));
    for path in [".git/HEAD", ".git/logs/HEAD", "daemon/src", "Cargo.lock"] {
        assert!(before.contains(&world.root().join(path)), "{path} is not in {before:?}");
    }
    assert!(before.iter().all(|path| path.exists()), "{before:?}");
    assert!(
        !before.iter().any(|path| path.starts_with(world.root().join("cli"))),
        "{before:?}"
    );
    // In a work tree of its own, HEAD is elsewhere.
    let other = world.dir.path().join("other");
    World::git(&world.root(), &["worktree", "add", "--quiet", other.to_str().unwrap()]);
    let output = watched(world.told("../other/daemon", &[]));
    let head = world.root().join(".git/worktrees/other/HEAD");
    let same = |path: &PathBuf| path.canonicalize().unwrap() == head.canonicalize().unwrap();
    assert!(output.iter().any(same), "{output:?}");
}

#[test]
fn without_a_checkout_of_its_own_only_the_number_is_said() {
    let world = World::new();
    assert_eq!(world.version("daemon", &[]), "0.1.0");
    // A tarball unpacked inside the repository of something else.
    World::commit(world.dir.path());
    assert_eq!(world.version("daemon", &[]), "0.1.0");
    // No git at all.
    World::commit(&world.root());
    assert_eq!(world.version("daemon", &[("PATH", "/nowhere")]), "0.1.0");
}

#[test]
fn the_environment_comes_before_git_and_a_debug_build_does_not_ask_it() {
    let world = World::new();
    World::commit(&world.root());
    let commit = ("NIXCI_COMMIT", "0123456789abcdef0123456789abcdef01234567");
    for (env, expected) in [
        (vec![commit], "0.1.0 (0123456789ab)"),
        (
            vec![commit, ("SOURCE_DATE_EPOCH", "1795305599")],
            "0.1.0 (0123456789ab 2026-11-21)",
        ),
        (
            vec![commit, ("SOURCE_DATE_EPOCH", "1709164800")],
            "0.1.0 (0123456789ab 2024-02-29)",
        ),
        (
            vec![commit, ("SOURCE_DATE_EPOCH", "1798761599")],
            "0.1.0 (0123456789ab 2026-12-31)",
        ),
        // What Nix sets where nobody says better, and nonsense.
        (vec![commit, ("SOURCE_DATE_EPOCH", "315532800")], "0.1.0 (0123456789ab)"),
        (
            vec![commit, ("SOURCE_DATE_EPOCH", "9223372036854775807")],
            "0.1.0 (0123456789ab)",
        ),
        (vec![commit, ("SOURCE_DATE_EPOCH", "soon")], "0.1.0 (0123456789ab)"),
        (vec![commit, ("PROFILE", "debug")], "0.1.0 (0123456789ab)"),
        (
            vec![("NIXCI_COMMIT", "0123456789abcdef-dirty")],
            "0.1.0 (0123456789ab-dirty)",
        ),
        (vec![("PROFILE", "debug")], "0.1.0 (debug build)"),
    ] {
        assert_eq!(world.version("cli", &env), expected, "{env:?}");
    }
}

#[test]
fn the_program_says_what_the_script_found() {
    let output = Command::new(env!("CARGO_BIN_EXE_nixci-daemon"))
        .arg("--version")
        .output()
        .unwrap();
    fine(&output);
    let expected = format!("nixci-daemon {}\n", nixci_daemon::VERSION);
    assert_eq!(String::from_utf8(output.stdout).unwrap(), expected);
    assert!(
        expected.starts_with(concat!("nixci-daemon ", env!("CARGO_PKG_VERSION"))),
        "{expected}"
    );
}

#[test]
fn shells_load_the_completions_and_mandoc_has_nothing_against_the_man_pages() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../.ci/generated");
    let program = env!("CARGO_BIN_EXE_nixci-daemon");
    fine(&Command::new(script).args([program, "check-"]).output().unwrap());
}
