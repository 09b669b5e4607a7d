//! What waiting costs.

use std::fs;

use nixci_protocol::op::QueryValidPaths;
use serde_json::{Value, json};

use crate::raw::{Raw, encoded};
use crate::world::{World, in_front_of};
use crate::{Outcome, queries};

const CONNECTIONS: usize = 1_000;

/// The memory of both with the recorded closure known and 1,000 connections open. nix-daemon is a process per
/// connection: of memory they share, each is charged its part.
pub(crate) fn connections(world: &World) -> Outcome<Value> {
    // Another one, that has not answered anything yet.
    let ours = in_front_of(&world.stock);
    let recorded = || world.paths.iter().take(world.recorded);
    let request = encoded(&QueryValidPaths {
        paths: recorded().cloned().collect(),
        substitute: false,
    });
    let mut first = Raw::open(&ours.socket())?;
    first.learn::<std::collections::BTreeSet<nixci_protocol::types::StorePath>>(&request)?;
    for ((request, reply), _) in queries::infos(world, recorded())? {
        first.ask(&request, &reply)?;
    }
    let known = resident(ours.pid().ok_or("nixci-daemon runs")?)?;
    let clients = open(&ours.socket())?;
    let with_clients = resident(ours.pid().ok_or("nixci-daemon runs")?)?;
    drop(clients);
    let clients = open(&world.stock.socket())?;
    let stock = shared(world.stock.pid().ok_or("nix-daemon runs")?)?;
    drop(clients);
    Ok(json!({
        "name": "idle",
        "connections": CONNECTIONS,
        "known_paths": world.recorded,
        "stock": { "rss_mib": stock },
        "nixci": { "rss_mib": with_clients, "peak_mib": ours.peak_mib(), "without_connections_mib": known },
        "ratio": with_clients / stock,
    }))
}

fn open(socket: &std::path::Path) -> Outcome<Vec<Raw>> {
    (0..CONNECTIONS).map(|_| Raw::open(socket)).collect()
}

/// Resident MiB of one process.
fn resident(pid: u32) -> Outcome<f64> {
    kib(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmRSS:")
}

/// Proportional MiB of a process and its children.
fn shared(pid: u32) -> Outcome<f64> {
    let mut sum = kib(&fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?, "Pss:")?;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))?;
    for child in children.split_whitespace() {
        sum += kib(&fs::read_to_string(format!("/proc/{child}/smaps_rollup"))?, "Pss:")?;
    }
    Ok(sum)
}

fn kib(text: &str, field: &str) -> Outcome<f64> {
    let line = text.lines().find(|line| line.starts_with(field));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    Ok(number.ok_or_else(|| format!("{field} is not told"))?.parse::<f64>()? / 1024.0)
}
