//! Buttons that check runs have.

use nixci_protocol::nixci::report::{StatusRole, StatusState};
use serde::Serialize;

/// A button of a check run. A click comes back as the webhook `check_run` with the action `requested_action`, and
/// [`Button::identifier`] in it. GitHub's own "Re-run" is beside them on every run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Button {
    /// Build again what failed, of the whole evaluation: the same as GitHub's "Re-run" of the summary, in plain words.
    Rerun,
    /// Stop what is not built yet.
    Cancel,
}

/// A button as GitHub takes it: at most 20 characters of label, 40 of description, 20 of identifier.
#[derive(Debug, Serialize)]
pub(super) struct Action {
    label: &'static str,
    description: &'static str,
    identifier: &'static str,
}

impl Button {
    /// Every button.
    pub const ALL: [Self; 2] = [Self::Rerun, Self::Cancel];

    /// What tells it apart in the webhook.
    #[must_use]
    pub fn identifier(self) -> &'static str {
        match self {
            Self::Rerun => "rerun",
            Self::Cancel => "cancel",
        }
    }

    /// The button of an identifier.
    #[must_use]
    pub fn from_identifier(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|button| button.identifier() == text)
    }

    fn action(self) -> Action {
        let (label, description) = match self {
            Self::Rerun => ("Re-run failed jobs", "Build again what failed"),
            Self::Cancel => ("Cancel", "Stop what is not built yet"),
        };
        Action {
            label,
            description,
            identifier: self.identifier(),
        }
    }
}

/// The buttons of a status, at most three: the summary's are about the whole evaluation. A job has GitHub's "Re-run", and
/// expressions are evaluated by whoever submits them.
pub(super) fn buttons(role: StatusRole, state: StatusState) -> Vec<Action> {
    let button = match (role, state) {
        (StatusRole::Summary, StatusState::Queued | StatusState::Running) => Some(Button::Cancel),
        (StatusRole::Summary, StatusState::Failure | StatusState::Error | StatusState::Cancelled) => {
            Some(Button::Rerun)
        }
        (StatusRole::Summary, StatusState::Success | StatusState::ActionRequired | StatusState::Neutral)
        | (StatusRole::Evaluation | StatusRole::Job | StatusRole::Verdict, _) => None,
    };
    button.into_iter().map(Button::action).collect()
}
