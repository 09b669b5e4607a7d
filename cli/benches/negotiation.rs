//! Copying derivations to nixci beside stock Nix, counted and timed by a proxy between client and daemon, in one run.
//!
//! Stock is `nix copy --derivation --stdin` (2.34.8) into nix-daemon, ours `nixci copy --stdin` into `nixci-daemon`, both
//! with the roots of the recorded sets of jobs (6,521 each) on standard input.
//!
//! - `cold`: the base into a daemon that has nothing.
//! - `head-after-base`: the head into a daemon that has the base: 1,478 new paths.
//! - `unchanged`: the base again; the daemon has all of it, but came to it by other sets of roots.
//! - `unchanged-again`: the same set of roots that was copied last.
//! - `per-root`: 60 roots that the daemon has, one `nix copy` each, and in one run of ours.
//! - each of them `@20ms` and `@100ms`: over a link of that round-trip time and 100 Mbit/s in each direction. The proxy is
//!   the link: what is put on it is queued, takes its share of the rate and arrives after half of the round-trip time,
//!   with as much on its way as the link holds. (netem would be nearer to the truth and is not in every kernel.) What
//!   TCP and ssh need to open a connection is not modelled.
//! - `cold-ssh`, `head-after-base-ssh`, `unchanged-ssh`: the same over `ssh-ng://` to an sshd on loopback.
//! - `cold-export`, `head-after-base-export`: stock is `nix-store --export | nix-store --import` into the daemon's socket;
//!   with `-ssh`, the importing program is at the other end of ssh, and the size of the export is all that is counted.
//!   Into a socket each path is a round trip, so that over a link it takes as many minutes as there are 1,000 paths.
//! - `copy-in`: `nix copy --derivation --stdin` of the base, into nixci and into nix-daemon.
//! - `million`: a million known paths: one question about 100,000 on an open connection, and resident memory.
//!
//! `turns` are changes of direction from the client's requests to the daemon's answers, `handshake_turns` those of them
//! before the first request. `negotiation_bytes` and `negotiation_turns` are what comes before the first request that adds
//! something, the handshake's bytes included and its turns not; `upload_bytes` are what comes then. `ratio` is nixci's
//! bytes over stock's, `wall_ratio` and so on the same of other figures; where stock asks nothing (`-export`), the one of
//! negotiations says nothing.
//!
//! Cheap cases are medians of alternating rounds, the others one. `NIXCI_BENCH_ONLY=cold` runs the cases whose names begin so.
//! Prints JSON and writes it to `target/bench/negotiation.json`.

#[path = "negotiation/copies.rs"]
mod copies;
#[path = "negotiation/export.rs"]
mod export;
#[path = "negotiation/million.rs"]
mod million;
#[path = "negotiation/proxy.rs"]
mod proxy;
#[path = "negotiation/ssh.rs"]
mod ssh;
#[path = "negotiation/wire.rs"]
mod wire;
#[path = "negotiation/world.rs"]
mod world;

use std::error::Error;
use std::path::Path;

use serde_json::{Value, json};

use copies::Copying;
use proxy::Link;
use wire::{Figures, case};
use world::World;

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let only = std::env::var("NIXCI_BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| name.starts_with(&only);
    let mut cases = Vec::new();
    if wanted("million") {
        cases.push(million::million()?);
    }
    let mut outcome = Ok(());
    if only.is_empty() || !wanted("million") {
        outcome = copied(&wanted, &mut cases);
    }
    // Minutes of measuring are not to be lost to what fails in the end.
    let text = serde_json::to_string_pretty(&Value::Array(cases))?;
    println!("{text}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("negotiation.json"), text)?;
    outcome
}

/// All cases that copy.
fn copied(wanted: &dyn Fn(&str) -> bool, cases: &mut Vec<Value>) -> Outcome<()> {
    let world = World::new()?;
    let mut add = |name: &str, (stock, ours): (&Figures, &Figures)| {
        let case = case(name, stock, ours);
        eprintln!("{}", summary(&case));
        cases.push(case);
    };
    for copying in Copying::ALL {
        for link in Link::ALL {
            let name = link.name(copying.name());
            let export = format!("{name}-export");
            let exports = link == Link::Loopback && copying.sends() > 0 && wanted(&export);
            if !wanted(&name) && !exports {
                continue;
            }
            let (stock, ours) = copying.both(&world, link)?;
            add(&name, (&stock, &ours));
            if exports {
                add(&export, (&export::to_daemon(&world, copying)?, &ours));
            }
        }
    }
    for copying in [Copying::Cold, Copying::HeadAfterBase, Copying::Unchanged] {
        let name = format!("{}-ssh", copying.name());
        let export = format!("{}-export-ssh", copying.name());
        let exports = copying.sends() > 0 && wanted(&export);
        if !wanted(&name) && !exports {
            continue;
        }
        let (stock, ours) = ssh::both(&world, copying)?;
        add(&name, (&stock, &ours));
        if exports {
            add(&export, (&export::over_ssh(&world, copying)?, &ours));
        }
    }
    if wanted("copy-in") {
        let (stock, ours) = copies::copy_in(&world)?;
        add("copy-in", (&stock, &ours));
    }
    Ok(())
}

/// A line for who waits.
fn summary(case: &Value) -> Value {
    json!([
        case["name"],
        case["ratio"],
        case["stock"]["wall_s"],
        case["nixci"]["wall_s"]
    ])
}
