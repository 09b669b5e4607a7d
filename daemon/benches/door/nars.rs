//! NARs out of the store behind, direct and through nixci.

use std::fs;
use std::path::Path;
use std::time::Instant;

use nixci_protocol::op::{NarFromPath, QueryPathInfo};
use nixci_protocol::types::{StoreDir, UnkeyedPathInfo};
use nixci_store::testing::TestDaemon;
use serde_json::Value;

use crate::raw::{Raw, encoded};
use crate::world::{self, STOCK, World};
use crate::{Outcome, Side, alternate, case, queries};

const LARGE: usize = 300 << 20;
const FILES: usize = 20_000;
const FILE: usize = 4096;
/// Small paths that are fetched one by one.
const SMALL: usize = 4_000;
const MIB: f64 = (1 << 20) as f64;

/// One large file, and a tree of many small ones.
pub(crate) fn large() -> Outcome<Vec<Value>> {
    let stock = TestDaemon::start(STOCK);
    let ours = world::in_front_of(&stock);
    let folder = stock.scratch().join("content");
    fs::create_dir_all(folder.join("tree"))?;
    let content = noise(LARGE);
    fs::write(folder.join("large"), &content)?;
    for (number, piece) in content.chunks(FILE).take(FILES).enumerate() {
        let part = folder.join("tree").join((number / 1000).to_string());
        fs::create_dir_all(&part)?;
        fs::write(part.join(number.to_string()), piece)?;
    }
    drop(content);
    let mut cases = Vec::new();
    for (name, file) in [("nar-large", "large"), ("nar-tree", "tree")] {
        let path = add(&stock, &folder.join(file))?;
        let path = StoreDir::default().parse(&path)?;
        let question = encoded(&QueryPathInfo { path: path.clone() });
        let (info, _) = Raw::open(&stock.socket())?.learn::<Option<UnkeyedPathInfo>>(&question)?;
        let size = info.ok_or("what was added is not valid")?.nar_size;
        let request = encoded(&NarFromPath { path });
        let whole = Raw::open(&stock.socket())?.all(&request, size)?;
        Raw::open(&ours.socket())?.ask(&request, &whole)?;
        drop(whole);
        let figures = alternate(|side| {
            let mut connection = Raw::open(&match side {
                Side::Stock => stock.socket(),
                Side::Nixci => ours.socket(),
            })?;
            let began = Instant::now();
            connection.nar(&request, size)?;
            Ok(size as f64 / MIB / began.elapsed().as_secs_f64())
        })?;
        cases.push(case(name, "mib_per_s", figures));
    }
    Ok(cases)
}

/// Adds a file or folder to the store, and returns its path.
pub(crate) fn add(stock: &TestDaemon, file: &Path) -> Outcome<String> {
    let output = stock.local_command("nix-store").arg("--add").arg(file).output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    Ok(String::from_utf8(output.stdout)?.trim().to_owned())
}

/// Small paths one by one, as a client fetches a closure of derivations.
pub(crate) fn small(world: &World) -> Outcome<Value> {
    let every = world.recorded / SMALL;
    let paths: Vec<_> = world.paths.iter().take(world.recorded).step_by(every).collect();
    let nars: Vec<(Vec<u8>, u64)> = queries::infos(world, paths.iter().copied())?
        .into_iter()
        .zip(&paths)
        .map(|((_, info), path)| (encoded(&NarFromPath { path: (*path).clone() }), info.nar_size))
        .collect();
    let figures = alternate(|side| {
        let mut connection = Raw::open(&world.socket(side))?;
        let began = Instant::now();
        for (request, size) in &nars {
            connection.nar(request, *size)?;
        }
        Ok(nars.len() as f64 / began.elapsed().as_secs_f64())
    })?;
    Ok(case("nar-small", "ops_per_s", figures))
}

/// Bytes that nothing compresses.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let words = (0..length.div_ceil(8)).flat_map(|_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.take(length).collect()
}
