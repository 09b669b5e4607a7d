//! `nixci jobs`: the jobs of an evaluation.

use nixci_protocol::nixci::control::{JobStatus, Request};

use super::{daemon, print, print_json};
use crate::args::{Global, Jobs};
use crate::exit::{Exit, Problem};
use crate::render;
use crate::select;

/// Runs the command.
pub(crate) async fn run(global: &Global, args: &Jobs) -> Result<Exit, Problem> {
    let which = select::evaluation(args.which.as_deref(), args.project.as_deref())?;
    let mut jobs: Vec<JobStatus> = daemon(global).await?.ask(&Request::Jobs { which }).await?;
    let all = jobs.len() as u64;
    if args.failed {
        jobs.retain(|job| render::is_failure(&job.outcome));
    }
    if global.json {
        print_json(&jobs)?;
    } else if jobs.is_empty() {
        let none = if args.failed { "none failed of " } else { "" };
        print(&format!("{none}{}\n", render::plural(all, "job")))?;
    } else {
        print(&render::jobs(&jobs))?;
    }
    Ok(Exit::Fine)
}
