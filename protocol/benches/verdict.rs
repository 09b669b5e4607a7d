//! The verdict on 100,000 jobs against a base of as many.

use std::time::Instant;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{EvaluationId, EvaluationState};
use nixci_protocol::nixci::outcome::{FailureClass, Outcome, Success};
use nixci_protocol::nixci::verdict::{Cause, JobInput, SideInput, to_markdown, verdict};

const JOBS: usize = 100_000;
/// Every so many derivations one fails, and as many are blocked by it.
const FAILS: usize = 100;
const BLOCKED: usize = 20;
const ROUNDS: usize = 9;

fn drv(side: &str, job: usize) -> String {
    format!("/nix/store/{job:0>32}-{side}-package-{job}.drv")
}

fn outcome(side: &str, job: usize) -> Outcome {
    let root = job - job % FAILS;
    match job % FAILS {
        0 => Outcome::Failed {
            class: FailureClass::Build,
        },
        1..BLOCKED => Outcome::Blocked {
            by: vec![drv(side, root)],
        },
        _ => Outcome::Succeeded { how: Success::Built },
    }
}

fn side(name: &str, breaks: bool) -> SideInput {
    let jobs = (0..JOBS).map(|job| JobInput {
        attr: AttrPath::new(vec!["packages".into(), "x86_64-linux".into(), format!("package-{job}")]),
        drv_path: Some(drv(name, job)),
        outcome: if breaks {
            outcome(name, job)
        } else {
            Outcome::Succeeded { how: Success::Built }
        },
    });
    SideInput {
        evaluation: EvaluationId(1),
        project: "owner/project".into(),
        commit: None,
        state: EvaluationState::Done,
        error: None,
        jobs: jobs.collect(),
    }
}

fn median(mut work: impl FnMut() -> usize) -> f64 {
    let mut times: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let began = Instant::now();
            std::hint::black_box(work());
            began.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[ROUNDS / 2]
}

fn main() -> std::io::Result<()> {
    let (base, head) = (side("base", false), side("head", true));
    let causes: Vec<Cause> = (0..JOBS)
        .step_by(FAILS)
        .map(|job| Cause {
            drv_path: drv("head", job),
            class: FailureClass::Build,
            message: "builder failed with exit code 2".into(),
            log_tail: vec!["a line of the log, as long as such lines are on the whole".into(); 20],
            attempt: None,
        })
        .collect();
    let decided = verdict(&head, Some(&base), &causes);
    println!("{}", decided.sentence);
    let report = serde_json::json!([
        { "name": "verdict of 100,000 jobs against a base",
          "nixci": { "wall_s": median(|| verdict(&head, Some(&base), &causes).rows.len()) } },
        { "name": "the same as Markdown", "nixci": { "wall_s": median(|| to_markdown(&decided, 60_000).len()) } },
    ]);
    let text = serde_json::to_string_pretty(&report)?;
    println!("{text}");
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/bench");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("verdict.json"), text)
}
