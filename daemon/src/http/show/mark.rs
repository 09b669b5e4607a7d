//! The mark of a state: a colour's class, a glyph and words, so that no state is told by colour alone.

use nixci_protocol::nixci::control::EvaluationSummary;
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::nixci::report::StatusState;
use nixci_protocol::nixci::verdict::{Bucket, Conclusion};

/// A state as it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mark {
    /// The class that colours it.
    pub(crate) class: &'static str,
    /// One character.
    pub(crate) glyph: &'static str,
    /// A word or a few.
    pub(crate) words: &'static str,
}

const FINE: (&str, &str) = ("ok", "✓");
const BAD: (&str, &str) = ("bad", "✕");
const OLD: (&str, &str) = ("old", "✕");
const BLOCKED: (&str, &str) = ("bad", "⊘");
const NO_ANSWER: (&str, &str) = ("na", "?");
const RUNS: (&str, &str) = ("run", "◐");
const WAITS: (&str, &str) = ("wait", "○");
const GONE: (&str, &str) = ("wait", "−");

fn mark((class, glyph): (&'static str, &'static str), words: &'static str) -> Mark {
    Mark { class, glyph, words }
}

impl From<&Outcome> for Mark {
    fn from(outcome: &Outcome) -> Self {
        let look = match outcome {
            Outcome::Queued { .. } => WAITS,
            Outcome::Forwarding | Outcome::Building => RUNS,
            Outcome::Succeeded { .. } => FINE,
            Outcome::Failed { class } if class.is_remembered() => BAD,
            Outcome::Failed { .. } | Outcome::Cancelled => NO_ANSWER,
            Outcome::Blocked { .. } => BLOCKED,
            Outcome::EvaluationError { .. } => BAD,
        };
        mark(look, outcome.words())
    }
}

impl From<StatusState> for Mark {
    fn from(state: StatusState) -> Self {
        match state {
            StatusState::Queued => mark(WAITS, "queued"),
            StatusState::Running => mark(RUNS, "running"),
            StatusState::Success => mark(FINE, "success"),
            StatusState::Failure => mark(BAD, "failure"),
            StatusState::Error => mark(NO_ANSWER, "error"),
            StatusState::Cancelled => mark(NO_ANSWER, "cancelled"),
            StatusState::ActionRequired => mark(NO_ANSWER, "action required"),
            StatusState::Neutral => mark(GONE, "neutral"),
        }
    }
}

impl From<Bucket> for Mark {
    fn from(bucket: Bucket) -> Self {
        let look = match bucket {
            Bucket::NewlyFailing | Bucket::AddedFailing | Bucket::Failing => BAD,
            Bucket::StillFailing => OLD,
            Bucket::Fixed | Bucket::Ok | Bucket::StillOk | Bucket::AddedOk | Bucket::Unchanged => FINE,
            Bucket::NotAnswered => NO_ANSWER,
            Bucket::Running => RUNS,
            Bucket::Removed => GONE,
        };
        mark(look, bucket.words())
    }
}

impl From<Conclusion> for Mark {
    fn from(conclusion: Conclusion) -> Self {
        let look = match conclusion {
            Conclusion::Success => FINE,
            Conclusion::Failure => BAD,
            Conclusion::Incomplete => NO_ANSWER,
            Conclusion::Running => RUNS,
        };
        mark(look, conclusion.words())
    }
}

impl From<&EvaluationSummary> for Mark {
    /// What the counts alone say, without a base.
    fn from(summary: &EvaluationSummary) -> Self {
        let counts = &summary.counts;
        let conclusion = if summary.error.is_some() {
            Conclusion::Failure
        } else if summary.ended.is_none() {
            Conclusion::Running
        } else if counts.failed + counts.blocked + counts.evaluation_errors > 0 {
            Conclusion::Failure
        } else if counts.succeeded < counts.jobs {
            Conclusion::Incomplete
        } else {
            Conclusion::Success
        };
        conclusion.into()
    }
}
