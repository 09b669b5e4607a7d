//! Commit statuses as requests and answers carry them.

use std::fmt;

use nixci_protocol::nixci::report::StatusState;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::super::text::{line, segment};
use super::super::{Outgoing, Scope, SendError};

/// Characters of a description: the column took no more in old versions, and nobody sees more.
const DESCRIPTION_CHARS: usize = 255;

/// Where a status stands, as paths of requests.
#[derive(Debug)]
pub(super) struct Place {
    /// `/repos/OWNER/NAME`.
    pub(super) repository: String,
    pub(super) commit: String,
}

/// A status to be added: `CreateStatusOption`.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    state: &'static str,
    context: String,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_url: Option<String>,
}

/// A status that is there: `CommitStatus`.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    /// Called `state` in requests.
    #[serde(default)]
    status: String,
    #[serde(default)]
    context: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    target_url: String,
}

/// The path of a repository.
pub(super) fn repository(forge: &str, repository: &str) -> Result<String, SendError> {
    let is_name = |name: &str| !matches!(name, "" | "." | "..");
    match repository.split_once('/') {
        Some((owner, name)) if is_name(owner) && is_name(name) && !name.contains('/') => {
            Ok(format!("/repos/{}/{}", segment(owner), segment(name)))
        }
        _ => Err(SendError::Refused {
            scope: Scope::Repository,
            why: format!(
                "`{repository}` names no repository at `{forge}`; set `repository` of the project to `owner/name`"
            ),
        }),
    }
}

impl Place {
    /// Fails where the names could not be those of a repository and a commit.
    pub(super) fn of(forge: &str, status: &Outgoing) -> Result<Self, SendError> {
        let commit = &status.commit;
        if commit.is_empty() || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(SendError::Refused {
                scope: Scope::Status,
                why: format!("`{}` is no commit, so `{forge}` cannot be told of it", line(commit, 80)),
            });
        }
        Ok(Self {
            repository: repository(forge, &status.repository)?,
            commit: commit.clone(),
        })
    }
}

impl Status {
    pub(super) fn of(status: &Outgoing) -> Self {
        Self {
            state: word(status.content.state),
            context: status.context.clone(),
            description: line(&status.content.description, DESCRIPTION_CHARS),
            target_url: status.content.url.clone(),
        }
    }
}

impl Status {
    /// What it says, to be compared.
    pub(super) fn digest(&self) -> String {
        digest(
            self.state,
            &self.description,
            self.target_url.as_deref().unwrap_or_default(),
        )
    }
}

impl Row {
    /// Whether it stands where the other would stand.
    pub(super) fn is_of(&self, wanted: &Status) -> bool {
        self.context.trim() == wanted.context.trim()
    }

    /// What it says, to be compared.
    pub(super) fn digest(&self) -> String {
        digest(&self.status, &self.description, &self.target_url)
    }

    /// What it says, as near as we have a word for it.
    pub(super) fn state(&self) -> Option<StatusState> {
        Some(match self.status.as_str() {
            "pending" => StatusState::Queued,
            "success" => StatusState::Success,
            "failure" => StatusState::Failure,
            "error" => StatusState::Error,
            "warning" | "skipped" => StatusState::Neutral,
            _ => return None,
        })
    }
}

/// White space around texts is dropped there.
fn digest(state: &str, description: &str, url: &str) -> String {
    let mut digest = Sha256::new();
    for text in [state, description, url] {
        digest.update(text.trim());
        digest.update([0]);
    }
    data_encoding::HEXLOWER.encode(&digest.finalize()[..8])
}

/// What is kept of a status: a digest of what it said last, and the number of its comment, `DIGEST/COMMENT`.
#[derive(Debug, Default)]
pub(super) struct Remote {
    pub(super) said: Option<String>,
    pub(super) comment: Option<u64>,
}

impl Remote {
    pub(super) fn of(status: &Outgoing) -> Self {
        let text = status.remote_id.as_deref().unwrap_or_default();
        let (said, comment) = text.split_once('/').unwrap_or((text, ""));
        Self {
            said: Some(said.to_owned()).filter(|said| !said.is_empty()),
            comment: comment.parse().ok(),
        }
    }
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.said.as_deref().unwrap_or_default())?;
        match self.comment {
            Some(comment) => write!(f, "/{comment}"),
            None => Ok(()),
        }
    }
}

/// What our states are called there. The reasons are in the text of the module above.
fn word(state: StatusState) -> &'static str {
    match state {
        StatusState::Queued | StatusState::Running | StatusState::ActionRequired => "pending",
        StatusState::Success | StatusState::Neutral => "success",
        StatusState::Failure => "failure",
        StatusState::Error | StatusState::Cancelled => "error",
    }
}
