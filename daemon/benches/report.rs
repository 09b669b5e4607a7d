//! How many writes a forge gets for 300 and 5,000 labels, how many it shows in a minute of its own, and how long after
//! the last build the summary is there.
//!
//! The forge is the strict fake of the tests: it takes 80 writes in a minute and 500 in an hour, and its minutes are
//! shorter than ours; a figure per minute is per minute of the forge. One case has no limits. Prints JSON and writes it to
//! `target/bench/report.json`. There is no stock counterpart.

#[path = "../tests/report/fake.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "it serves the tests, which are told by panics"
)]
mod fake;
#[path = "../tests/report/world.rs"]
#[expect(
    dead_code,
    clippy::unwrap_used,
    reason = "it serves the tests, which are told by panics"
)]
mod world;

use std::time::{Duration, Instant};

use fake::{Fake, Rules};
use nixci_daemon::config::Form;
use nixci_protocol::nixci::report::StatusState::{Failure, Running, Success};
use serde_json::{Value, json};
use world::{REPOSITORY, SUMMARY, World, all_sent, forge, generous, scaled, wanted};

/// Batches in which builds end.
const STEPS: usize = 20;
const STEP: Duration = Duration::from_millis(100);

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let report = json!([
        case("300 labels", 300, Some(Duration::from_millis(600))).await,
        case("5,000 labels", 5_000, Some(Duration::from_millis(25))).await,
        case("300 labels, no limits", 300, None).await,
    ]);
    let text = serde_json::to_string_pretty(&report)?;
    println!("{text}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("report.json"), text)?;
    Ok(())
}

/// An evaluation of so many jobs, of which every seventh fails.
async fn case(name: &str, jobs: usize, minute: Option<Duration>) -> Value {
    let rules = Rules {
        windows: minute.map_or_else(Vec::new, |minute| vec![(80, minute), (500, minute * 60)]),
        per_context: Some(1_000),
        ..Rules::default()
    };
    let fake = Fake::start(rules, 1).await;
    let pace = minute.map_or_else(generous, scaled);
    let world = World::new(|dir| vec![forge(dir, "github", &fake.url, Form::Checks, pace)]);
    let want = |context: &str, version, state| wanted("github", REPOSITORY, context, version, state);
    let began = Instant::now();
    world.want(vec![want(SUMMARY, 1, Running)]).await;
    let mut pace = tokio::time::interval(STEP);
    for step in 0..STEPS {
        let some = (step * jobs / STEPS)..((step + 1) * jobs / STEPS);
        let name = |job: usize| format!("job{job}");
        world
            .want(some.clone().map(|job| want(&name(job), 1, Running)).collect())
            .await;
        pace.tick().await;
        let end = |job: usize| want(&name(job), 2, if job % 7 == 6 { Failure } else { Success });
        world.want(some.map(end).collect()).await;
    }
    world.want(vec![want(SUMMARY, 2, Failure)]).await;
    let ended = Instant::now();
    world.until("all is sent", all_sent).await;
    let wall = began.elapsed();
    let (writes, limited, summary) = {
        let seen = fake.seen();
        let of_summary = seen.told_at.iter().find(|((_, context), _)| context == SUMMARY);
        let at = of_summary.map_or(ended, |(_, at)| *at);
        (seen.writes.len(), seen.limited, at.saturating_duration_since(ended))
    };
    world.outbox.stop().await;
    let minutes = wall.as_secs_f64() / minute.unwrap_or(Duration::from_mins(1)).as_secs_f64();
    json!({
        "name": name,
        "nixci": {
            "writes": writes,
            "writes_per_job": writes as f64 / jobs as f64,
            "refused_for_now": limited,
            "summary_after_last_build_s": summary.as_secs_f64(),
            "statuses_per_minute": writes as f64 / minutes,
            "wall_s": wall.as_secs_f64(),
        },
    })
}
