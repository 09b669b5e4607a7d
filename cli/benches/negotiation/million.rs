//! A daemon that knows a million paths.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::nixci::{FEATURE_CLOSURE, QueryValidBatch};
use nixci_protocol::types::{
    ContentAddress, ContentAddressMethod, Hash, NarHash, PathInfo, StoreDir, StorePath, UnkeyedPathInfo, make_text_path,
};
use nixci_store::spool::{Authority, Rules, Spool, Verified, verify};
use nixci_store::testing::{Service, cache_dir};
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::Outcome;

const PATHS: usize = 1_000_000;
/// Added in one transaction.
const BATCH: usize = 50_000;
/// Asked about at once, every other one known.
const ASKED: usize = 100_000;
const ROUNDS: usize = 9;

/// The time of one question, and the memory of a path.
pub(crate) fn million() -> Outcome<Value> {
    let saved = made_once()?;
    let service = Service::start(Path::new(env!("CARGO_BIN_EXE_nixci")), &[("none", "auto", 1)]);
    ask(&service, 0)?;
    let without = resident(&service)?;
    service.stop();
    let spool = service.scratch().join("state/spool");
    fs::remove_dir_all(&spool)?;
    let status = Command::new("cp").arg("-a").arg(&saved).arg(&spool).status()?;
    if !status.success() {
        return Err(format!("cp of {} failed: {status}", saved.display()).into());
    }
    // What the cache holds may be of an older version; converting it costs memory once, and is not what is measured.
    service.start_again();
    service.stop();
    service.start_again();
    let seconds = ask(&service, ASKED / 2)?;
    let with = resident(&service)?;
    Ok(json!({
        "name": "million",
        "known_paths": PATHS,
        "asked": ASKED,
        "stock": null,
        "nixci": {
            "wall_s": seconds,
            "ops_per_s": ASKED as f64 / seconds,
            "rss_mib": with,
            "rss_mib_without": without,
            "bytes_per_path": (with - without) * 1024.0 * 1024.0 / PATHS as f64,
        },
        "ratio": null,
    }))
}

/// Median seconds of one question about [`ASKED`] paths on a connection that is open, of which so many have to be known.
fn ask(service: &Service, known: usize) -> Outcome<f64> {
    let paths: Vec<StorePath> = (0..ASKED)
        .map(|at| text(if at % 2 == 0 { at * 2 } else { PATHS + at }).map(|(info, _)| info.path))
        .collect::<Outcome<_>>()?;
    let request = QueryValidBatch::of(&paths);
    tokio::runtime::Runtime::new()?.block_on(async {
        let (read, write) = UnixStream::connect(service.socket()).await?.into_split();
        let hello = Hello {
            features: vec![FEATURE_CLOSURE.to_owned()],
            ..Hello::default()
        };
        let mut connection = Connection::open(read, write, hello).await?;
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            let answer = connection.call(&request, &mut ()).await?;
            times.push(began.elapsed().as_secs_f64());
            let valid = (0..ASKED).filter(|at| answer.get(*at)).count();
            if valid != known {
                return Err(format!("{valid} paths are valid, and {known} are expected").into());
            }
        }
        connection.close().await?;
        times.sort_by(f64::total_cmp);
        Ok(times[ROUNDS / 2])
    })
}

/// A spool of a million small texts, kept in the cache.
fn made_once() -> Outcome<PathBuf> {
    let home = cache_dir().join(format!("negotiation-{PATHS}"));
    let lock = File::create(home.with_extension("lock"))?;
    lock.lock()?;
    if home.exists() {
        return Ok(home);
    }
    eprintln!("making a spool of {PATHS} paths; this takes a minute, once");
    let partial = home.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial)?;
    }
    tokio::runtime::Runtime::new()?.block_on(async {
        let spool = Spool::open(&partial, StoreDir::default())?;
        let rules = Rules::new(StoreDir::default());
        for from in (0..PATHS).step_by(BATCH) {
            let objects = (from..from + BATCH).map(|number| {
                let (info, nar) = text(number)?;
                Ok(verify(&rules, info, nar.into(), Authority::Untrusted)?)
            });
            spool.add(objects.collect::<Outcome<Vec<Verified>>>()?).await?;
        }
        spool.close().await;
        Outcome::Ok(())
    })?;
    fs::rename(&partial, &home)?;
    Ok(home)
}

/// One of many small texts, and its NAR.
fn text(number: usize) -> Outcome<(PathInfo, Vec<u8>)> {
    let content = format!("text {number}\n");
    let mut nar = Vec::new();
    for word in ["nix-archive-1", "(", "type", "regular", "contents", &content, ")"] {
        nar.extend((word.len() as u64).to_le_bytes());
        nar.extend(word.as_bytes());
        nar.resize(nar.len().next_multiple_of(8), 0);
    }
    let hash = Hash::sha256_of(content.as_bytes());
    let path = make_text_path(&StoreDir::default(), &format!("text-{number}"), &hash, &BTreeSet::new())?;
    let info = UnkeyedPathInfo {
        deriver: None,
        nar_hash: NarHash::of(&nar),
        references: BTreeSet::new(),
        registration_time: 0,
        nar_size: nar.len() as u64,
        ultimate: false,
        signatures: BTreeSet::new(),
        ca: Some(ContentAddress {
            method: ContentAddressMethod::Text,
            hash,
        }),
    };
    Ok((PathInfo { path, info }, nar))
}

/// Resident MiB.
fn resident(service: &Service) -> Outcome<f64> {
    let pid = service.pid().ok_or("nixci-daemon runs")?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.ok_or("the kernel does not tell VmRSS")?.parse::<f64>()? / 1024.0)
}
