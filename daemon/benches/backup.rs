//! Backups of a daemon with thousands of evaluations while submissions go on: how long a backup takes, and how long a
//! submission waits meanwhile, beside how long it waits otherwise.
//!
//! Four clients submit as fast as they are answered, each submission over a connection of its own with an upload and two
//! durable writes. Prints JSON and writes it to `target/bench/backup.json`. There is no stock counterpart.

#[path = "../tests/common/mod.rs"]
mod common;

use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::items::{Item, drv, item, noise, proven, stream, zstd_of};
use common::{ask, connect, submission};
use data_encoding::HEXLOWER;
use nixci_protocol::nixci::AddClosure;
use nixci_protocol::nixci::control::{Evaluated, NewJob, Request, Submitted};
use nixci_protocol::types::{ContentAddressMethod, StoreDir};
use nixci_store::testing::Service;
use serde_json::{Value, json};

const EVALUATIONS: u64 = 5_000;
const LARGE: u64 = 100;
const LARGE_BYTES: usize = 1 << 20;
const CLIENTS: usize = 4;
const BACKUPS: usize = 5;
const QUIET: Duration = Duration::from_secs(10);
/// Bytes of each derivation; those of the recorded graph have about so many.
const DERIVATION_BYTES: usize = 2_500;
const AT_ONCE: u64 = 1_000;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let service = Service::start(
        Path::new(env!("CARGO_BIN_EXE_nixci-daemon")),
        &[("none", "unix:///nowhere", 1)],
    );
    fill(&service).await?;
    let (over, backing_up, next) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(EVALUATIONS)),
    );
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (over, backing_up, next, socket) = (over.clone(), backing_up.clone(), next.clone(), service.socket());
            tokio::spawn(async move {
                let mut took = Vec::new();
                while !over.load(Ordering::SeqCst) {
                    let during = backing_up.load(Ordering::SeqCst);
                    let since = Instant::now();
                    send(&socket, next.fetch_add(1, Ordering::SeqCst)).await?;
                    let elapsed = since.elapsed();
                    took.push((during || backing_up.load(Ordering::SeqCst), elapsed));
                }
                Ok::<_, String>(took)
            })
        })
        .collect();
    tokio::time::sleep(QUIET).await;
    let mut abouts = Vec::new();
    let mut during = Duration::ZERO;
    for nth in 0..BACKUPS {
        backing_up.store(true, Ordering::SeqCst);
        let since = Instant::now();
        abouts.push(run(&service, &["backup", "--json"], &format!("backup{nth}")).await?.0);
        during += since.elapsed();
        backing_up.store(false, Ordering::SeqCst);
    }
    over.store(true, Ordering::SeqCst);
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await??);
    }
    let last = format!("backup{}", BACKUPS - 1);
    let (_, check) = run(&service, &["restore", "--check", "--json"], &last).await?;
    service.stop();
    std::fs::remove_dir_all(service.scratch().join("state"))?;
    let (_, restore) = run(&service, &["restore", "--json"], &last).await?;
    service.start_again();

    let seconds: Vec<f64> = abouts.iter().filter_map(|about| about["seconds"].as_f64()).collect();
    let about = abouts.last().cloned().unwrap_or_default();
    let report = json!([
        latencies("submissions, no backup", &mut of(&all, false), QUIET),
        latencies("submissions, during backups", &mut of(&all, true), during),
        {
            "name": "backup",
            "nixci": {
                "wall_s": seconds.iter().sum::<f64>() / seconds.len().max(1) as f64,
                "longest_s": seconds.iter().copied().fold(0.0, f64::max),
                "megabytes": about["bytes"].as_f64().unwrap_or(0.0) / 1e6,
                "files": about["files"],
                "evaluations": about["evaluations"],
                "objects": about["objects"],
            },
        },
        {"name": "check", "nixci": {"wall_s": check.as_secs_f64()}},
        {"name": "restore", "nixci": {"wall_s": restore.as_secs_f64()}},
    ]);
    let text = serde_json::to_string_pretty(&report)?;
    println!("{text}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("backup.json"), text)?;
    Ok(())
}

fn of(all: &[(bool, Duration)], during: bool) -> Vec<Duration> {
    let some = all.iter().filter(|(was_during, _)| *was_during == during);
    some.map(|(_, took)| *took).collect()
}

fn latencies(name: &str, took: &mut [Duration], over: Duration) -> Value {
    took.sort_unstable();
    let part = |share: f64| {
        let at = (took.len() as f64 * share) as usize;
        took.get(at.min(took.len().saturating_sub(1)))
            .map(|took| took.as_secs_f64() * 1e3)
    };
    json!({
        "name": name,
        "nixci": {
            "per_minute": took.len() as f64 * 60.0 / over.as_secs_f64(),
            "median_ms": part(0.5),
            "p99_ms": part(0.99),
            "longest_ms": part(1.0),
        },
    })
}

/// A command of the daemon about a folder, its JSON and how long it took.
async fn run(service: &Service, arguments: &[&str], folder: &str) -> Result<(Value, Duration), Box<dyn Error>> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nixci-daemon"));
    command
        .args(arguments)
        .arg(service.scratch().join(folder))
        .env("NIXCI_CONFIG", service.config());
    let since = Instant::now();
    let output = tokio::task::spawn_blocking(move || command.output()).await??;
    let took = since.elapsed();
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into());
    }
    Ok((serde_json::from_slice(&output.stdout)?, took))
}

/// A derivation that nothing else has.
fn derivation(number: u64) -> Item {
    let padding = HEXLOWER.encode(&noise(number, DERIVATION_BYTES / 2));
    let content = drv(&format!("/builder/{number}/{padding}"));
    proven(&format!("{number}-x.drv"), &content, ContentAddressMethod::Text)
}

fn request(number: u64, of: &Item) -> Result<Request, String> {
    let job = NewJob {
        attr: "job".parse().map_err(|_| "no attribute")?,
        result: Evaluated::Drv(StoreDir::default().display(&of.info.path).to_string()),
    };
    Ok(Request::Submit {
        submission: submission(&format!("evaluation-{number}")),
        jobs: vec![job],
        error: None,
    })
}

/// As a runner does: over a connection of its own.
async fn send(socket: &Path, number: u64) -> Result<(), String> {
    let mut client = connect(socket).await;
    let of = derivation(number);
    let packed = zstd_of(&stream(std::slice::from_ref(&of)));
    let added = client.call_framed(&AddClosure {}, &packed[..], &mut ()).await;
    added.map_err(|error| error.to_string())?;
    let _: Submitted = ask(&mut client, &request(number, &of)?).await;
    Ok(())
}

async fn fill(service: &Service) -> Result<(), Box<dyn Error>> {
    let mut client = connect(&service.socket()).await;
    for begin in (0..LARGE).step_by(10) {
        let items: Vec<Item> = (begin..begin + 10)
            .map(|nth| item(nth, &noise(nth, LARGE_BYTES), &[]))
            .collect();
        let packed = zstd_of(&stream(&items));
        client.call_framed(&AddClosure {}, &packed[..], &mut ()).await?;
    }
    for begin in (0..EVALUATIONS).step_by(AT_ONCE as usize) {
        let items: Vec<Item> = (begin..begin + AT_ONCE).map(derivation).collect();
        let packed = zstd_of(&stream(&items));
        client.call_framed(&AddClosure {}, &packed[..], &mut ()).await?;
        for (number, of) in (begin..).zip(&items) {
            let _: Submitted = ask(&mut client, &request(number, of)?).await;
        }
    }
    Ok(())
}
