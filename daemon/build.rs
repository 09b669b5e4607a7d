//! What `--version` says beside the number: `NIXCI_VERSION`, such as `0.1.0 (709f23d0a1b2 2026-11-21)`.
//!
//! The commit is that of the environment (`NIXCI_COMMIT`, with `SOURCE_DATE_EPOCH` as its date), for builds that have no
//! `.git`; else that of git, if the workspace is a checkout; else nothing is said. A debug build does not ask git: it
//! would be compiled again at every commit and every switch of branches, only to say another one.
//!
//! The command line runs this script too (`build` in its `Cargo.toml`).

use std::env;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Digits of a commit that are shown.
const SHOWN: usize = 12;
/// Before the first of these there was no nixci: such an epoch is one that a build environment sets for want of a better
/// one. At the last, years grow a digit.
const DATES: Range<i64> = 1_500_000_000..253_402_300_800;
const DAY: i64 = 24 * 60 * 60;

fn main() {
    // From the folder of either package.
    println!("cargo::rerun-if-changed=../daemon/build.rs");
    for name in ["NIXCI_COMMIT", "SOURCE_DATE_EPOCH"] {
        println!("cargo::rerun-if-env-changed={name}");
    }
    let number = variable("CARGO_PKG_VERSION").unwrap_or_default();
    let build = match variable("NIXCI_COMMIT") {
        Some(commit) => Some(given(&commit)),
        None if variable("PROFILE").as_deref() == Some("debug") => Some("debug build".to_owned()),
        None => workspace().and_then(|root| Checkout::at(&root)?.describe()),
    };
    let version = build.map_or_else(|| number.clone(), |build| format!("{number} ({build})"));
    println!("cargo::rustc-env=NIXCI_VERSION={version}");
}

fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

/// The commit of the environment; `-dirty`, as Nix writes it, stays.
fn given(commit: &str) -> String {
    let (commit, dirty) = commit
        .strip_suffix("-dirty")
        .map_or((commit, false), |commit| (commit, true));
    let date = variable("SOURCE_DATE_EPOCH").and_then(|epoch| epoch.parse().ok());
    said(commit, date, dirty)
}

fn said(commit: &str, date: Option<i64>, dirty: bool) -> String {
    let mut said: String = commit.chars().filter(char::is_ascii_alphanumeric).take(SHOWN).collect();
    if dirty {
        said.push_str("-dirty");
    }
    if let Some(date) = date.filter(|date| DATES.contains(date)) {
        said.push(' ');
        said.push_str(&day(date));
    }
    said
}

/// The folder of the whole workspace.
fn workspace() -> Option<PathBuf> {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR")?);
    Some(package.parent()?.to_owned())
}

/// A work tree of git.
struct Checkout<'a> {
    root: &'a Path,
}

impl<'a> Checkout<'a> {
    /// Only if `root` is its top: around a tarball that was unpacked there may be a repository of something else.
    fn at(root: &'a Path) -> Option<Self> {
        let checkout = Self { root };
        let top = checkout.ask(&["rev-parse", "--show-toplevel"])?;
        let same = Path::new(&top).canonicalize().ok()? == root.canonicalize().ok()?;
        same.then_some(checkout)
    }

    fn describe(&self) -> Option<String> {
        self.watch_head();
        let sources = self.sources();
        let (commit, date) = self.ask(&["log", "-1", "--format=%H %ct"])?.split_once(' ').map(own)?;
        let mut status = vec!["status", "--porcelain", "--untracked-files=all", "--"];
        status.extend(sources.iter().map(String::as_str));
        let dirty = !self.ask(&status)?.is_empty();
        Some(said(&commit, date.parse().ok(), dirty))
    }

    /// Runs this script again when another commit is checked out or made.
    fn watch_head(&self) {
        let mut names = ["HEAD", "logs/HEAD", "packed-refs", "reftable/tables.list"]
            .map(str::to_owned)
            .to_vec();
        names.extend(self.ask(&["symbolic-ref", "--quiet", "HEAD"]));
        for name in names {
            let Some(path) = self.ask(&["rev-parse", "--git-path", &name]) else {
                continue;
            };
            let path = self.root.join(path);
            // A file that is not there would count as changed at every build.
            if path.exists() {
                println!("cargo::rerun-if-changed={}", path.display());
            }
        }
    }

    /// What this program is made of, relative to the root; watched, so that `-dirty` is never older than the program.
    fn sources(&self) -> Vec<String> {
        // In the order of the dependencies, up to the package that is being built.
        let all = ["protocol", "store", "daemon", "cli"];
        let package = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
        let last = all
            .iter()
            .position(|name| package.as_deref() == Some(&self.root.join(name)));
        let crates = &all[..=last.unwrap_or(all.len() - 1)];
        let files = ["Cargo.toml", "Cargo.lock", "build.rs", "src", "templates", "assets"];
        let of_crates = crates
            .iter()
            .flat_map(|name| files.map(|file| format!("{name}/{file}")));
        let mut sources: Vec<String> = ["Cargo.toml", "Cargo.lock"]
            .map(str::to_owned)
            .into_iter()
            .chain(of_crates)
            .collect();
        sources.retain(|source| self.root.join(source).exists());
        for source in &sources {
            println!("cargo::rerun-if-changed={}", self.root.join(source).display());
        }
        sources
    }

    /// What git says, or nothing where it fails or is not there.
    fn ask(&self, arguments: &[&str]) -> Option<String> {
        let mut git = Command::new("git");
        // Those of a hook that runs the build speak of another place; and looking is not to write.
        for name in ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"] {
            git.env_remove(name);
        }
        git.env("GIT_OPTIONAL_LOCKS", "0")
            .current_dir(self.root)
            .args(arguments);
        let output = git.output().ok().filter(|output| output.status.success())?;
        Some(String::from_utf8(output.stdout).ok()?.trim_end().to_owned())
    }
}

fn own((one, other): (&str, &str)) -> (String, String) {
    (one.to_owned(), other.to_owned())
}

/// The day of a time in seconds since 1970, in UTC, as `2026-11-21`.
fn day(epoch: i64) -> String {
    let mut left = epoch.div_euclid(DAY);
    let mut year = 1970;
    while left >= days_of(year) {
        left -= days_of(year);
        year += 1;
    }
    let february = days_of(year) - 337;
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    format!("{year}-{month:02}-{:02}", left + 1)
}

fn days_of(year: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    if leap { 366 } else { 365 }
}
