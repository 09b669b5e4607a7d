//! `nix build` of what is there already.

use std::io::Write;
use std::process::Stdio;
use std::time::Instant;

use serde_json::Value;

use crate::world::World;
use crate::{Outcome, alternate, case};

/// Runs in one figure: a run takes tens of milliseconds.
const RUNS: usize = 5;

pub(crate) fn build(world: &World) -> Outcome<Vec<Value>> {
    let as_paths: Vec<String> = world.roots.clone();
    let as_outputs: Vec<String> = world.built().map(|root| format!("{root}^*")).collect();
    let mut cases = Vec::new();
    for (name, installables) in [("build-nothing", &as_outputs), ("build-nothing-paths", &as_paths)] {
        let list = installables.join("\n");
        let figures = alternate(|side| {
            let uri = format!(
                "unix://{}?root={}",
                world.socket(side).display(),
                world.stock.root().display()
            );
            let began = Instant::now();
            for _ in 0..RUNS {
                let mut command = world.stock.command("nix");
                command.args(["build", "--no-link", "--stdin", "--store", &uri]);
                let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?;
                if let Some(mut stdin) = child.stdin.take() {
                    stdin.write_all(list.as_bytes())?;
                }
                let status = child.wait()?;
                if !status.success() {
                    return Err(format!("nix build failed: {status}").into());
                }
            }
            Ok(began.elapsed().as_secs_f64() / RUNS as f64)
        })?;
        cases.push(case(name, "wall_s", figures));
    }
    Ok(cases)
}
