//! The store that is asked about, the nix-daemon that serves it, and nixci in front of that.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use nixci_protocol::types::{StoreDir, StorePath};
use nixci_store::testing::recorded::{self, Set};
use nixci_store::testing::{NixVersion, Service, TestDaemon, cache_dir};

use crate::{Outcome, Side};

pub(crate) const STOCK: NixVersion = NixVersion::V2_34;
/// Paths in the store, at least.
const PATHS: usize = 100_000;
/// Roots whose outputs are built once.
const BUILT: usize = 10;

/// One store and its two doors.
pub(crate) struct World {
    pub(crate) stock: TestDaemon,
    pub(crate) ours: Service,
    /// 100,000 valid paths, in no order: first the recorded ones.
    pub(crate) paths: Vec<StorePath>,
    /// How many of them are the recorded graph.
    pub(crate) recorded: usize,
    /// Distinct derivations of the recorded head's jobs.
    pub(crate) roots: Vec<String>,
}

impl World {
    pub(crate) fn new() -> Outcome<Self> {
        let recorded = recorded::whole();
        let roots: Vec<String> = recorded
            .roots(Set::Head)
            .into_iter()
            .filter(|path| Path::new(path).extension().is_some_and(|extension| extension == "drv"))
            .map(str::to_owned)
            .collect();
        let home = made_once(&recorded, &roots)?;
        let mut texts = recorded.paths().to_vec();
        let known = texts.len();
        let generated: Vec<String> = serde_json::from_slice(&fs::read(home.join("generated.json"))?)?;
        texts.extend(generated);
        texts.truncate(PATHS);
        let dir = StoreDir::default();
        let paths = texts.iter().map(|text| dir.parse(text)).collect::<Result<_, _>>()?;
        let stock = TestDaemon::builder(STOCK).root(&home.join("root")).start();
        let ours = in_front_of(&stock);
        Ok(Self {
            stock,
            ours,
            paths,
            recorded: known,
            roots,
        })
    }

    pub(crate) fn socket(&self, side: Side) -> PathBuf {
        match side {
            Side::Stock => self.stock.socket(),
            Side::Nixci => self.ours.socket(),
        }
    }

    /// The roots that are built.
    pub(crate) fn built(&self) -> impl Iterator<Item = &String> {
        self.roots.iter().take(BUILT)
    }
}

/// nixci for clients that share the store directory.
pub(crate) fn in_front_of(stock: &TestDaemon) -> Service {
    let uri = stock.uri();
    Service::with_config(
        Path::new(env!("CARGO_BIN_EXE_nixci-daemon")),
        &format!(
            "writes = \"through\"\n[limits]\nconnections = 2000\n[[store]]\nname = \"bench\"\nuri = {uri:?}\nslots = 4\n"
        ),
    )
}

/// The recorded graph, generated texts up to [`PATHS`], and the outputs of some roots.
fn made_once(recorded: &recorded::Recorded, roots: &[String]) -> Outcome<PathBuf> {
    let key = recorded
        .root()
        .parent()
        .and_then(Path::file_name)
        .ok_or("the recorded store has a folder")?;
    let home = cache_dir().join(format!("door-{PATHS}-{BUILT}-{}", key.to_string_lossy()));
    let lock = File::create(home.with_extension("lock"))?;
    lock.lock()?;
    if home.join("generated.json").exists() {
        return Ok(home);
    }
    eprintln!("making a store of {PATHS} paths; this takes some minutes, once");
    fs::create_dir_all(&home)?;
    let root = home.join("root");
    if !root.exists() {
        let partial = home.join("partial");
        recorded.copy_store(&partial);
        fs::rename(&partial, &root)?;
    }
    let daemon = TestDaemon::builder(STOCK)
        .config("fsync-metadata = false")
        .root(&root)
        .start();
    let more = PATHS.saturating_sub(recorded.paths().len());
    let expression = format!(
        "builtins.genList (n: builtins.toFile \"generated-${{toString n}}\" \"text ${{toString n}}\\n\") {more}"
    );
    let output = daemon
        .local_command("nix-instantiate")
        .args([
            "--eval",
            "--strict",
            "--json",
            "--read-write-mode",
            "--expr",
            &expression,
        ])
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let mut build = daemon.command("nix");
    build.args(["build", "--no-link", "--keep-going"]);
    build.args(roots.iter().take(BUILT).map(|path| format!("{path}^*")));
    let status = build.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("nix build failed: {status}").into());
    }
    fs::write(home.join("generated.json"), output.stdout)?;
    Ok(home)
}
