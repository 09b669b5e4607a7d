//! The recorded graph as real derivations in a store, made once and reused.
//!
//! [`Recorded::new`] runs `graph.nix` of the recorded data with the newest Nix (15 to 20 s) into a chroot store in
//! the cache folder, keyed by the digest of all inputs and arguments, under a file lock so that test processes that
//! start together make it once. The store is only to be read: tests copy from it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};

use super::daemon::remove_tree;
use super::{NixVersion, cache_dir, data_dir};

/// Which of the two recorded sets of jobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// The older revision.
    Base,
    /// The newer one.
    Head,
}

/// What to make of the graph.
#[derive(Debug, Clone, Default)]
pub struct Arguments {
    /// Names of nodes whose builder exits 1.
    pub fail: Vec<String>,
    /// Only these nodes and what they need; all when empty.
    pub only: Vec<usize>,
}

/// The recorded graph, materialised.
#[derive(Debug, Clone)]
pub struct Recorded {
    root: PathBuf,
    /// Node number to full store path of its `.drv` (or of the source itself).
    paths: Vec<String>,
    numbers: BTreeMap<usize, usize>,
}

/// The whole graph, unbroken.
pub fn whole() -> Recorded {
    Recorded::new(&Arguments::default())
}

impl Recorded {
    /// Finds it in the cache or makes it. Blocks for up to half a minute the first time.
    pub fn new(arguments: &Arguments) -> Self {
        let data = data_dir().join("corepkgs");
        let dir = cache_dir().join(format!("recorded-{}", key(&data, arguments)));
        let lock = File::create(dir.with_extension("lock")).expect("a lock file can be made in the cache");
        lock.lock().expect("the cache can be locked");
        if !dir.join("paths.json").exists() {
            make(&data, &dir, arguments);
        }
        let text = fs::read(dir.join("paths.json")).expect("the list of paths can be read");
        let paths = serde_json::from_slice(&text).expect("the list of paths is JSON");
        let numbers = arguments
            .only
            .iter()
            .enumerate()
            .map(|(index, node)| (*node, index))
            .collect();
        Self {
            root: dir.join("root"),
            paths,
            numbers,
        }
    }

    /// The root of the store that holds it: its objects are in `nix/store` below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The URI of that store.
    pub fn uri(&self) -> String {
        format!("local?root={}", self.root.display())
    }

    /// The full store path of a node: its `.drv`, or the source itself. Panics for a node that was left out.
    pub fn path(&self, node: usize) -> &str {
        let index = if self.numbers.is_empty() {
            node
        } else {
            self.numbers[&node]
        };
        &self.paths[index]
    }

    /// All full store paths, in topological order (inputs first) when nothing was left out.
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// The jobs of a set: attribute and node number, in the recorded order.
    pub fn jobs(set: Set) -> Vec<(String, usize)> {
        let name = match set {
            Set::Base => "base.jobs.tsv",
            Set::Head => "head.jobs.tsv",
        };
        let text = fs::read_to_string(data_dir().join("corepkgs").join(name)).expect("the recorded jobs can be read");
        text.lines()
            .map(|line| {
                let (attribute, node) = line.split_once('\t').expect("a job has an attribute and a node");
                (attribute.to_owned(), node.parse().expect("a node is a number"))
            })
            .collect()
    }

    /// The distinct store paths of a set's jobs, in the order of their first job.
    pub fn roots(&self, set: Set) -> Vec<&str> {
        let mut seen = std::collections::HashSet::new();
        Self::jobs(set)
            .into_iter()
            .map(|(_, node)| self.path(node))
            .filter(|path| seen.insert(*path))
            .collect()
    }

    /// A copy of the store that may be written to and built in, by hard links where the file system has them.
    /// Panics when `into` is there already.
    pub fn copy_store(&self, into: &Path) {
        let status = Command::new("cp")
            .args(["-a", "--reflink=auto"])
            .arg(&self.root)
            .arg(into)
            .status()
            .expect("cp starts");
        assert!(
            status.success(),
            "the recorded store cannot be copied to {}",
            into.display()
        );
    }
}

/// The digest of everything that decides which paths are made.
fn key(data: &Path, arguments: &Arguments) -> String {
    let mut hash = Sha256::new();
    for name in ["graph.tsv.zst", "graph.nix", "filler.txt"] {
        let content = fs::read(data.join(name))
            .unwrap_or_else(|error| panic!("the recorded data lacks {name} in {}: {error}", data.display()));
        hash.update((content.len() as u64).to_le_bytes());
        hash.update(content);
    }
    hash.update(nix_arguments(arguments).join("\0"));
    hash.update(NixVersion::NEWEST.number());
    HEXLOWER.encode(&hash.finalize()[..12])
}

fn nix_arguments(arguments: &Arguments) -> Vec<String> {
    let mut list = Vec::new();
    if !arguments.fail.is_empty() {
        let names = arguments
            .fail
            .iter()
            .map(|name| format!("{name:?}"))
            .collect::<Vec<_>>()
            .join(" ");
        list.extend(["--arg".to_owned(), "fail".to_owned(), format!("[ {names} ]")]);
    }
    if !arguments.only.is_empty() {
        let nodes = arguments
            .only
            .iter()
            .map(usize::to_string)
            .collect::<Vec<_>>()
            .join(" ");
        list.extend(["--arg".to_owned(), "only".to_owned(), format!("[ {nodes} ]")]);
    }
    list
}

fn make(data: &Path, dir: &Path, arguments: &Arguments) {
    let partial = dir.with_extension("partial");
    remove_tree(&partial);
    fs::create_dir_all(partial.join("root")).expect("a folder can be made in the cache");
    let graph = partial.join("graph.tsv");
    let packed = File::open(data.join("graph.tsv.zst")).expect("the recorded graph can be read");
    let mut plain = File::create(&graph).expect("the graph can be written to the cache");
    zstd::stream::copy_decode(packed, &mut plain).expect("the recorded graph is zstd");
    let version = NixVersion::NEWEST;
    let output = Command::new(version.program("nix-instantiate"))
        .args(["--eval", "--strict", "--json", "--read-write-mode"])
        .arg(data.join("graph.nix"))
        .args(["--argstr", "graph"])
        .arg(&graph)
        .args(nix_arguments(arguments))
        .env("NIX_REMOTE", format!("local?root={}", partial.join("root").display()))
        .env(
            "NIX_CONFIG",
            "build-users-group =\nsubstituters =\nfsync-metadata = false\n",
        )
        .env("XDG_CACHE_HOME", partial.join("nix-cache"))
        .stdin(Stdio::null())
        .output()
        .expect("nix-instantiate starts");
    assert!(
        output.status.success(),
        "nix-instantiate {version} cannot make the recorded graph: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    let _ = fs::remove_file(graph);
    fs::write(partial.join("paths.json"), output.stdout).expect("the list of paths can be written");
    remove_tree(dir);
    fs::rename(&partial, dir).expect("the finished store can be renamed");
}
