//! Builds through nixci beside stock Nix, on equal stores, in one run.
//!
//! - `closure-120`: the closure of the first 120 distinct roots of the recorded head, four slots: one
//!   `nix build --keep-going` against `nixci submit --jobs-file` and `nixci watch`, from start to end.
//! - `door-closure-120`: the same roots by one `nix build --keep-going`, once through nixci's socket (`writes =
//!   "through"`, the client shares the disk) and once to the daemon itself.
//! - `closure-all`: all jobs of head through nixci alone; its time per derivation over that of `closure-120`.
//!   `client_s` is when the client may leave: everything is sent and recorded.
//! - `tiny-job`: one derivation that echoes a line, submit to verdict, beside `nix build` of its like: medians.
//!
//! `NIXCI_BENCH_ONLY=closure-120` runs one case. Prints JSON and writes it to `target/bench/builds.json`.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use nixci_store::testing::recorded::{self, Recorded, Set};
use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv};
use serde_json::{Value, json};

const SLOTS: u32 = 4;
const FEW_ROOTS: usize = 120;
const TINY_RUNS: usize = 15;
const STOCK: NixVersion = NixVersion::V2_34;

fn main() -> Result<(), Box<dyn Error>> {
    let only = std::env::var("NIXCI_BENCH_ONLY").ok();
    let wanted = |name: &str| only.as_deref().is_none_or(|o| o == name);
    let mut cases = Vec::new();
    let recorded = recorded::whole();
    let mut per_derivation = None;
    let roots: Vec<(String, String)> = recorded
        .roots(Set::Head)
        .into_iter()
        .filter(|path| is_derivation(path))
        .take(FEW_ROOTS)
        .enumerate()
        .map(|(at, path)| (format!("root{at}"), path.to_owned()))
        .collect();
    // Both cases compare with the same command: it takes more than a minute.
    let stock = if wanted("closure-120") || wanted("door-closure-120") {
        stock_build(&recorded, &roots)?
    } else {
        0.0
    };
    if wanted("door-closure-120") {
        let (ours, built, rss_mib) = door_build(&recorded, &roots)?;
        cases.push(json!({
            "name": "door-closure-120",
            "derivations": built,
            "stock": { "wall_s": stock },
            "nixci": { "wall_s": ours, "rss_mib": rss_mib },
            "ratio": ours / stock,
        }));
    }
    if wanted("closure-120") {
        let ours = Ours::start(&recorded_copy(&recorded)?).submit(&recorded, &roots, Ends::AllBuild)?;
        per_derivation = Some(ours.seconds / f64::from(ours.built));
        cases.push(json!({
            "name": "closure-120",
            "derivations": ours.built,
            "stock": { "wall_s": stock },
            "nixci": { "wall_s": ours.seconds, "client_s": ours.recorded_after, "rss_mib": ours.rss_mib },
            "ratio": ours.seconds / stock,
        }));
    }
    if wanted("closure-all") {
        let jobs: Vec<(String, String)> = Recorded::jobs(Set::Head)
            .into_iter()
            .map(|(attribute, node)| (attribute, recorded.path(node).to_owned()))
            .filter(|(_, path)| is_derivation(path))
            .collect();
        let ours = Ours::start(&recorded_copy(&recorded)?).submit(&recorded, &jobs, Ends::SomeCannotBuild)?;
        let each = ours.seconds / f64::from(ours.built);
        cases.push(json!({
            "name": "closure-all",
            "derivations": ours.built,
            "nixci": { "wall_s": ours.seconds, "client_s": ours.recorded_after, "rss_mib": ours.rss_mib },
            "growth_per_derivation": per_derivation.map(|few| each / few),
        }));
    }
    if wanted("tiny-job") {
        cases.push(tiny_job()?);
    }
    let text = serde_json::to_string_pretty(&Value::Array(cases))?;
    println!("{text}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("builds.json"), text)?;
    Ok(())
}

fn is_derivation(path: &str) -> bool {
    Path::new(path).extension().is_some_and(|extension| extension == "drv")
}

/// A daemon on its own copy of the recorded store.
fn recorded_copy(recorded: &Recorded) -> Result<(TestDaemon, tempfile::TempDir), Box<dyn Error>> {
    let home = tempfile::tempdir()?;
    let root = home.path().join("root");
    recorded.copy_store(&root);
    let daemon = TestDaemon::builder(STOCK).max_jobs(SLOTS).root(&root).start();
    Ok((daemon, home))
}

fn stock_build(recorded: &Recorded, roots: &[(String, String)]) -> Result<f64, Box<dyn Error>> {
    let (daemon, _home) = recorded_copy(recorded)?;
    client_build(&daemon, &daemon.uri(), roots)
}

/// The stock client through a nixci that writes through: seconds, what was built, and how large the daemon became.
fn door_build(recorded: &Recorded, roots: &[(String, String)]) -> Result<(f64, usize, u64), Box<dyn Error>> {
    let (daemon, _home) = recorded_copy(recorded)?;
    let service = Service::with_settings(
        Path::new(env!("CARGO_BIN_EXE_nixci")),
        "writes = \"through\"\n",
        &format!(
            "[[store]]\nname = \"bench\"\nuri = {:?}\nslots = {SLOTS}\n",
            daemon.uri()
        ),
    );
    let before = objects(&daemon)?;
    let socket = service.socket();
    let uri = format!("unix://{}?root={}", socket.display(), daemon.root().display());
    let seconds = client_build(&daemon, &uri, roots)?;
    Ok((seconds, objects(&daemon)? - before, service.peak_mib()))
}

/// Seconds that `nix build` takes over a store at `uri`, with the programs and settings of this daemon.
fn client_build(daemon: &TestDaemon, uri: &str, roots: &[(String, String)]) -> Result<f64, Box<dyn Error>> {
    let jobs = SLOTS.to_string();
    let mut command = daemon.command("nix");
    command.args([
        "build",
        "--no-link",
        "--keep-going",
        "--max-jobs",
        &jobs,
        "--store",
        uri,
    ]);
    command.args(roots.iter().map(|(_, path)| format!("{path}^*")));
    let began = Instant::now();
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if !status.success() {
        return Err(format!("nix build failed: {status}").into());
    }
    Ok(began.elapsed().as_secs_f64())
}

struct Run {
    /// Seconds until the client may leave.
    recorded_after: f64,
    /// Seconds until the verdict.
    seconds: f64,
    built: u32,
    rss_mib: u64,
}

/// How a run may end.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// With everything built.
    AllBuild,
    /// Two environments of the whole graph hold one variable of over 128 KiB, which the kernel passes to no process:
    /// they build on no Linux store.
    SomeCannotBuild,
}

/// A nixci daemon of its own process in front of one store.
struct Ours<'a> {
    store: &'a TestDaemon,
    service: Service,
}

impl<'a> Ours<'a> {
    fn start((store, _): &'a (TestDaemon, tempfile::TempDir)) -> Self {
        let nixci = Path::new(env!("CARGO_BIN_EXE_nixci"));
        let service = Service::start(nixci, &[("bench", &store.uri(), SLOTS)]);
        Self { store, service }
    }

    /// Submits, then waits for the verdict, and says how long that took and how large the daemon became.
    fn submit(&self, recorded: &Recorded, jobs: &[(String, String)], ends: Ends) -> Result<Run, Box<dyn Error>> {
        let list = self.service.scratch().join("jobs.tsv");
        let mut file = std::io::BufWriter::new(std::fs::File::create(&list)?);
        for (attribute, path) in jobs {
            writeln!(file, "{attribute}\t{path}")?;
        }
        file.flush()?;
        let before = objects(self.store)?;
        let began = Instant::now();
        let from = recorded.uri();
        let list = list.to_string_lossy();
        let arguments = ["submit", "--project", "bench", "--from", &from, "--jobs-file", &list];
        self.nixci(&arguments, Ends::AllBuild)?;
        let recorded_after = began.elapsed().as_secs_f64();
        self.nixci(&["watch"], ends)?;
        let seconds = began.elapsed().as_secs_f64();
        let built = u32::try_from(objects(self.store)? - before)?;
        Ok(Run {
            recorded_after,
            seconds,
            built,
            rss_mib: self.service.peak_mib(),
        })
    }

    fn nixci(&self, arguments: &[&str], ends: Ends) -> Result<(), Box<dyn Error>> {
        let mut command = self.service.command("nixci");
        let status = command
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()?;
        let code = status.code();
        if code == Some(0) || (ends == Ends::SomeCannotBuild && code == Some(1)) {
            return Ok(());
        }
        Err(format!(
            "nixci {arguments:?} failed: {status}; the daemon's log:\n{}",
            self.service.log()
        )
        .into())
    }
}

/// Store objects that are no derivations. Each derivation of the recorded graph has one output.
fn objects(store: &TestDaemon) -> Result<usize, Box<dyn Error>> {
    let mut count = 0;
    for entry in std::fs::read_dir(store.root().join("nix/store"))? {
        count += usize::from(!is_derivation(&entry?.path().to_string_lossy()));
    }
    Ok(count)
}

fn tiny_job() -> Result<Value, Box<dyn Error>> {
    let store = (TestDaemon::builder(STOCK).max_jobs(SLOTS).start(), tempfile::tempdir()?);
    let ours_daemon = Ours::start(&store);
    let (mut stock, mut ours) = (Vec::new(), Vec::new());
    for run in 0..TINY_RUNS * 2 {
        let paths = store.0.instantiate(&run.to_string(), &[TestDrv::good("tiny")]);
        let path = paths.get("tiny").ok_or("the derivation was not made")?;
        let mut command = if run % 2 == 0 {
            let mut command = store.0.command("nix");
            command.args(["build", "--no-link", "--store", &store.0.uri(), &format!("{path}^*")]);
            command
        } else {
            let mut command = ours_daemon.service.command("nixci");
            command.args([
                "submit",
                "--wait",
                "--project",
                "bench",
                "--from",
                &store.0.local_uri(),
                path,
            ]);
            command
        };
        let began = Instant::now();
        let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status()?;
        if !status.success() {
            return Err(format!("run {run} failed: {status}").into());
        }
        if run % 2 == 0 { &mut stock } else { &mut ours }.push(began.elapsed().as_secs_f64());
    }
    let (stock, ours) = (median(stock), median(ours));
    Ok(json!({
        "name": "tiny-job",
        "stock": { "wall_s": stock },
        "nixci": { "wall_s": ours },
        "ratio": ours / stock,
        "more_ms": (ours - stock) * 1000.0,
    }))
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() / 2).copied().unwrap_or_default()
}
