//! The jobs of an evaluation.

use nixci_protocol::nixci::control::JobStatus;
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::nixci::verdict::derivation_name;

use super::table::{Grid, cell, dim, number, painted};
use super::{ansi, duration, mark};

/// A line per job: state, attribute, words, time, derivation.
pub(crate) fn jobs(jobs: &[JobStatus]) -> String {
    let mut grid = Grid::new(&["", "job", "outcome", "time", "attempt", "derivation"]);
    for job in jobs {
        let (glyph, style) = mark(&job.outcome);
        grid.row(vec![
            painted(style, glyph),
            cell(&job.attr),
            painted(style, words(&job.outcome)),
            number(job.duration_ms.map(duration).unwrap_or_default()),
            number(job.attempt.map(|attempt| attempt.0.to_string()).unwrap_or_default()),
            dim(job.drv_path.as_deref().map(derivation_name).unwrap_or_default()),
        ]);
    }
    grid.text()
}

/// The outcome in words, with what is behind it.
pub(crate) fn words(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Queued { reason } => format!("queued: {}", ansi::plain(reason)),
        Outcome::Blocked { by } => match by.as_slice() {
            [] => outcome.words().to_owned(),
            [one] => format!("blocked by {}", derivation_name(one)),
            [first, rest @ ..] => format!("blocked by {} and {} more", derivation_name(first), rest.len()),
        },
        Outcome::EvaluationError { message } => {
            format!("evaluation error: {}", super::first_line(message))
        }
        Outcome::Forwarding
        | Outcome::Building
        | Outcome::Succeeded { .. }
        | Outcome::Failed { .. }
        | Outcome::Cancelled => outcome.words().to_owned(),
    }
}
