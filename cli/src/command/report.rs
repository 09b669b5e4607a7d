//! `nixci report`: what forges were told of an evaluation, and whether they took it.

use nixci_protocol::nixci::control::{EvaluationId, EvaluationSummary, Request, Selector};
use nixci_protocol::nixci::report::StatusReport;

use super::{daemon, print, print_json};
use crate::args::{Global, Report};
use crate::exit::{Exit, Problem};
use crate::render::{self, Progress};
use crate::select;

/// Runs the command. Ends fine when forges have everything, unfinished while something is on its way, and as failed when
/// something was refused. With `--again` the answer is how it stands before anything could be sent.
pub(crate) async fn run(global: &Global, args: &Report) -> Result<Exit, Problem> {
    let which = select::evaluation(args.which.as_deref(), args.project.as_deref())?;
    let mut daemon = daemon(global).await?;
    let summary: EvaluationSummary = daemon.ask(&Request::Status { which }).await?;
    // By its number: what is newest may be another one by now.
    let which = Selector::Evaluation(summary.evaluation);
    let again = args.again;
    let statuses: Vec<StatusReport> = daemon.ask(&Request::Report { which, again }).await?;
    if global.json {
        print_json(&statuses)?;
    } else if statuses.is_empty() {
        print(&none(summary.evaluation))?;
    } else {
        print(&render::report(&statuses, render::now()))?;
    }
    Ok(exit(&statuses))
}

fn none(evaluation: EvaluationId) -> String {
    format!(
        "nothing of evaluation #{} is shown on a forge: it has no commit, or no [[project]] of the daemon's \
         configuration has it\n",
        evaluation.0
    )
}

fn exit(statuses: &[StatusReport]) -> Exit {
    let is_any = |progress: Progress| statuses.iter().any(|status| Progress::of(status) == progress);
    if is_any(Progress::Refused) {
        Exit::Failed
    } else if is_any(Progress::Waiting) {
        Exit::Unfinished
    } else {
        Exit::Fine
    }
}

#[cfg(test)]
mod tests {
    use nixci_protocol::nixci::report::{StatusRole, StatusState};

    use super::*;

    fn status(is_sent: bool, is_refused: bool) -> StatusReport {
        StatusReport {
            forge: "f".into(),
            repository: "o/n".into(),
            commit: "1".repeat(40),
            context: "nixci".into(),
            role: StatusRole::Summary,
            evaluation: EvaluationId(1),
            attr: None,
            state: StatusState::Success,
            description: String::new(),
            sent_state: None,
            is_sent,
            sent: None,
            writes: 0,
            error: None,
            is_refused,
        }
    }

    #[test]
    fn the_exit_code_says_what_is_left_to_do() {
        let (sent, waiting, refused) = (status(true, false), status(false, false), status(false, true));
        assert_eq!(exit(&[]), Exit::Fine);
        assert_eq!(exit(std::slice::from_ref(&sent)), Exit::Fine);
        assert_eq!(exit(&[sent.clone(), waiting.clone()]), Exit::Unfinished);
        assert_eq!(exit(&[refused, waiting, sent]), Exit::Failed);
    }
}
