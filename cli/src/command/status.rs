//! `nixci status`: the newest evaluations, or one of them with its verdict.

use nixci_protocol::nixci::control::{EvaluationSummary, Request, Selector};
use nixci_protocol::nixci::verdict::Verdict;
use serde::Serialize;

use super::{daemon, exit_of, print, print_json};
use crate::args::{Global, Status};
use crate::exit::{Exit, Problem};
use crate::render::{self, Detail};
use crate::select;

/// One evaluation as `--json` prints it.
#[derive(Serialize)]
struct One {
    summary: EvaluationSummary,
    verdict: Verdict,
}

/// Runs the command. A list always ends fine; one evaluation ends as its verdict says.
pub(crate) async fn run(global: &Global, args: &Status) -> Result<Exit, Problem> {
    let Some(which) = &args.which else {
        let request = Request::Evaluations {
            project: args.project.clone(),
            limit: args.limit,
        };
        let evaluations: Vec<EvaluationSummary> = daemon(global).await?.ask(&request).await?;
        if global.json {
            print_json(&evaluations)?;
        } else {
            print(&render::list(&evaluations, render::now()))?;
        }
        return Ok(Exit::Fine);
    };
    let which = select::evaluation(Some(which), args.project.as_deref())?;
    let mut daemon = daemon(global).await?;
    let summary: EvaluationSummary = daemon.ask(&Request::Status { which }).await?;
    let head = Selector::Evaluation(summary.evaluation);
    // Against the commit that the submission named, where that is known there.
    let verdict: Verdict = daemon.ask(&Request::Verdict { head, base: None }).await?;
    let exit = exit_of(&verdict);
    if global.json {
        print_json(&One { summary, verdict })?;
    } else {
        let detail = if global.verbose > 0 {
            Detail::Full
        } else {
            Detail::Short
        };
        let page = summary
            .page
            .as_ref()
            .map(|page| format!("\n  {}\n", render::paint(render::DIM, page)));
        print(&format!(
            "{}\n{}{}",
            render::headline(&summary, render::now()),
            render::verdict(&verdict, detail),
            page.unwrap_or_default()
        ))?;
    }
    Ok(exit)
}
