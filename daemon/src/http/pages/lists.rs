//! Evaluations in a list.

use nixci_protocol::nixci::control::{EvaluationState, EvaluationSummary, Millis};

use super::evaluation_name;
use crate::http::show::bar::{Segment, segments};
use crate::http::show::mark::Mark;
use crate::http::show::time::{When, duration};
use crate::http::show::{count, shorten};

/// One evaluation in a list.
pub(super) struct Listed {
    pub(super) url: String,
    pub(super) name: String,
    pub(super) mark: Mark,
    pub(super) words: String,
    pub(super) pull_request: Option<u64>,
    pub(super) git_ref: Option<String>,
    pub(super) source: String,
    pub(super) bar: Vec<Segment>,
    /// The counts in words, for those who do not see the bar.
    pub(super) counts: String,
    pub(super) fine: String,
    pub(super) bad: String,
    pub(super) jobs: String,
    pub(super) created: When,
    pub(super) took: Option<String>,
}

pub(super) fn listed(summary: &EvaluationSummary, now: Millis) -> Listed {
    let counts = &summary.counts;
    let bad = counts.failed + counts.blocked + counts.evaluation_errors;
    let mark = Mark::from(summary);
    let words = match (summary.state, &summary.error) {
        (_, Some(_)) => "evaluation failed",
        (EvaluationState::Receiving, None) => "receiving jobs",
        (EvaluationState::Building, None) => "building",
        (EvaluationState::Cancelled, None) => "cancelled",
        (EvaluationState::Abandoned, None) => "abandoned",
        (EvaluationState::Done, None) => mark.words,
    };
    Listed {
        url: format!("/e/{}", summary.evaluation.0),
        name: evaluation_name(summary.commit.as_deref(), summary.evaluation.0),
        mark,
        words: words.to_owned(),
        pull_request: summary.pull_request,
        git_ref: summary.git_ref.as_deref().map(|git_ref| shorten(git_ref, 60)),
        source: shorten(&summary.source, 80),
        bar: segments(&[
            ("ok", "fine", counts.succeeded),
            ("bad", "failed", counts.failed + counts.evaluation_errors),
            ("old", "blocked", counts.blocked),
            ("na", "cancelled", counts.cancelled),
            ("run", "building", counts.building),
            ("wait", "queued", counts.queued),
        ]),
        counts: format!("{} of {} fine, {bad} not", counts.succeeded, counts.jobs),
        fine: count(counts.succeeded),
        bad: count(bad),
        jobs: count(counts.jobs),
        created: When::new(summary.created, now),
        took: summary.ended.map(|ended| duration(ended - summary.created)),
    }
}
