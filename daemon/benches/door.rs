//! The door of nixci beside the nix-daemon it stands in front of, on one store, in one run.
//!
//! Both are processes of their own and answer the same client, which writes requests that were encoded before and
//! compares each answer, byte for byte, with the daemon's. Rounds alternate; figures are medians. `ratio` is nixci's
//! figure over stock's: above 1 is better for `ops_per_s` and `mib_per_s`, below 1 for `wall_s` and `rss_mib`.
//!
//! - `query-valid-paths`: one `QueryValidPaths` with 100,000 paths; `ops_per_s` counts paths.
//! - `query-path-info`: `QueryPathInfo` one by one, over 1, 4 and 16 connections, and over one with 64 asked at once.
//!   `again` asks the same on the same connection: nix-daemon answers the second time from a cache of its own.
//! - `nar`: `NarFromPath` of 300 MiB in one file, of 20,000 files of 4 KiB, and of small paths one by one.
//! - `build-nothing`: `nix build` of what is there already: all recorded roots as paths, and 10 of them as built outputs.
//! - `http-narinfo`, `http-nar`: the binary cache for 16 clients, narinfos that are known and a NAR of 64 MiB that is in
//!   the cache on disk. Stock Nix has no server for that; `stock` is null.
//! - `idle`: the recorded closure known, and 1,000 clients that say nothing.
//!
//! `NIXCI_BENCH_ONLY=nar` runs the cases whose names begin so. Prints JSON and writes it to `target/bench/door.json`.
//! The store is made once and kept in the cache folder of the tests.

#[path = "door/http.rs"]
mod http;
#[path = "door/idle.rs"]
mod idle;
#[path = "door/nars.rs"]
mod nars;
#[path = "door/nothing.rs"]
mod nothing;
#[path = "door/queries.rs"]
mod queries;
#[path = "door/raw.rs"]
mod raw;
#[path = "door/world.rs"]
mod world;

use std::error::Error;
use std::path::Path;

use serde_json::{Value, json};

use world::World;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// How often each side is measured.
const ROUNDS: usize = 5;

fn main() -> Outcome<()> {
    let only = std::env::var("NIXCI_BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| name.starts_with(&only) || only.starts_with(name);
    let mut cases = Vec::new();
    if wanted("http-nar") && only != "http-narinfo" {
        cases.push(http::nar()?);
    }
    let of_world = [
        "query-valid-paths",
        "query-path-info",
        "nar",
        "build-nothing",
        "http-narinfo",
        "idle",
    ];
    if of_world.into_iter().any(wanted) {
        let world = World::new()?;
        if wanted("query-valid-paths") {
            cases.push(queries::valid_paths(&world)?);
        }
        if wanted("query-path-info") {
            cases.extend(queries::path_info(&world)?);
        }
        if wanted("nar") {
            cases.extend(nars::large()?);
            cases.push(nars::small(&world)?);
        }
        if wanted("build-nothing") {
            cases.extend(nothing::build(&world)?);
        }
        if wanted("http-narinfo") {
            cases.push(http::narinfos(&world)?);
        }
        if wanted("idle") {
            cases.push(idle::connections(&world)?);
        }
    }
    cases.retain(|case| case["name"].as_str().is_some_and(|name| name.starts_with(&only)));
    let text = serde_json::to_string_pretty(&Value::Array(cases))?;
    println!("{text}");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("door.json"), text)?;
    Ok(())
}

/// Which of the two is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Stock,
    Nixci,
}

/// The medians of a figure, stock's first, measured in alternating rounds.
fn alternate(mut measure: impl FnMut(Side) -> Outcome<f64>) -> Outcome<(f64, f64)> {
    let (mut stock, mut ours) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let order = if round % 2 == 0 {
            [Side::Stock, Side::Nixci]
        } else {
            [Side::Nixci, Side::Stock]
        };
        for side in order {
            let figure = measure(side)?;
            match side {
                Side::Stock => stock.push(figure),
                Side::Nixci => ours.push(figure),
            }
        }
    }
    Ok((median(stock), median(ours)))
}

/// A case of one figure.
fn case(name: &str, figure: &str, (stock, ours): (f64, f64)) -> Value {
    json!({
        "name": name,
        "stock": { figure: stock },
        "nixci": { figure: ours },
        "ratio": ours / stock,
    })
}

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or_default()
}
