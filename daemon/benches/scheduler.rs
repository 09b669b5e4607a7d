//! How long the scheduler takes to choose the next build when 140,000 wait, and to take such a plan in.
//!
//! Prints JSON and writes it to `target/bench/scheduler.json`: one case per figure, in seconds. There is
//! no stock counterpart: Nix and Hydra do not schedule single derivations from one queue.

use std::sync::Arc;
use std::time::Instant;

use nixci_daemon::scheduler::{Action, End, Event, Planned, PlannedBuild, Priority, Root, State, StoreId, StoreSpec};
use nixci_protocol::nixci::control::EvaluationId;
use nixci_protocol::nixci::outcome::Success;
use nixci_store::index::DrvId;

const BUILDS: i64 = 140_000;
const PROJECTS: i64 = 20;
const CHOICES: usize = 10_000;
const STORE: StoreId = StoreId(0);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let slots = 64;
    let store = StoreSpec {
        name: "bench".into(),
        slots,
        systems: Vec::new(),
        features: Vec::new(),
    };
    let mut state = State::new(vec![store]);
    let now = Instant::now();
    let mut running = Vec::new();
    let mut planning = 0.0_f64;
    for project in 0..PROJECTS {
        let evaluation = EvaluationId(project);
        let drvs: Vec<DrvId> = (0..BUILDS / PROJECTS).map(|n| DrvId(n * PROJECTS + project)).collect();
        let roots = drvs
            .iter()
            .map(|drv| Root {
                drv: *drv,
                system: "x86_64-linux".into(),
                features: Arc::from([]),
            })
            .collect();
        state.step(
            Event::Submitted {
                wisher: evaluation.into(),
                project,
                priority: Priority::Head,
                roots,
                on: None,
            },
            now,
        );
        // Pairs: every second build waits for the one before it.
        let builds = drvs
            .iter()
            .map(|drv| PlannedBuild {
                drv: *drv,
                inputs: if (drv.0 / PROJECTS) % 2 == 1 {
                    vec![DrvId(drv.0 - PROJECTS)]
                } else {
                    Vec::new()
                },
                known_failure: None,
            })
            .collect();
        let plan = Planned {
            builds,
            valid: Vec::new(),
        };
        let began = Instant::now();
        let (actions, _) = state.step(
            Event::Planned {
                wisher: evaluation.into(),
                store: STORE,
                roots: drvs,
                plan,
            },
            now,
        );
        planning += began.elapsed().as_secs_f64();
        running.extend(builds_of(&actions));
    }
    let mut times: Vec<f64> = Vec::with_capacity(CHOICES);
    for _ in 0..CHOICES {
        let Some(drv) = running.pop() else { break };
        let event = Event::Ended {
            drv,
            store: STORE,
            end: End::Succeeded(Success::Built),
        };
        let began = Instant::now();
        let (actions, _) = state.step(event, now);
        times.push(began.elapsed().as_secs_f64());
        running.extend(builds_of(&actions));
    }
    times.sort_by(f64::total_cmp);
    let at = |share: f64| {
        times
            .get(((times.len() - 1) as f64 * share) as usize)
            .copied()
            .unwrap_or_default()
    };
    let report = serde_json::json!([
        { "name": "choose-next p50", "nixci": { "wall_s": at(0.5) } },
        { "name": "choose-next p99", "nixci": { "wall_s": at(0.99) } },
        { "name": "choose-next max", "nixci": { "wall_s": at(1.0) } },
        { "name": "take in 140,000 planned builds", "nixci": { "wall_s": planning } },
    ]);
    let text = serde_json::to_string_pretty(&report)?;
    println!("{text}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("scheduler.json"), text)?;
    Ok(())
}

fn builds_of(actions: &[Action]) -> Vec<DrvId> {
    let build = |action: &Action| {
        if let Action::Build { drv, .. } = action {
            Some(*drv)
        } else {
            None
        }
    };
    actions.iter().filter_map(build).collect()
}
