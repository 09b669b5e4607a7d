//! Names as people say them.

use anstyle::Style;
use nixci_protocol::nixci::outcome::{FailureClass, Outcome};

use super::{BAD, BUSY, DIM, GOOD, WARN};

/// The first twelve digits of a commit.
pub(crate) fn commit(full: &str) -> &str {
    full.get(..12).unwrap_or(full)
}

/// The glyph of an outcome and its colour.
pub(crate) fn mark(outcome: &Outcome) -> (&'static str, Style) {
    match outcome {
        Outcome::Queued { .. } => ("·", DIM),
        Outcome::Forwarding => ("↑", BUSY),
        Outcome::Building => ("▸", BUSY),
        Outcome::Succeeded { .. } => ("✓", GOOD),
        Outcome::Failed { class } => match class {
            FailureClass::Build | FailureClass::HashMismatch => ("✕", BAD),
            FailureClass::Timeout | FailureClass::LogLimit | FailureClass::Unsupported | FailureClass::Store => {
                ("!", WARN)
            }
        },
        Outcome::Blocked { .. } => ("◌", BAD),
        Outcome::Cancelled => ("–", DIM),
        Outcome::EvaluationError { .. } => ("✕", BAD),
    }
}
