//! Commit statuses as requests and answers carry them.

use nixci_protocol::nixci::report::StatusState;
use serde::{Deserialize, Serialize};

use super::super::text::{line, segment};
use super::super::{Outgoing, Scope, SendError};

/// Characters of a name, a description and an address: what validations there allow.
const CHARS: usize = 255;

/// Where a status stands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    /// `/projects/PATH`, as a path of requests.
    pub(super) project: String,
    pub(super) commit: String,
    /// The branch or tag, or what a merge request is known by.
    pub(super) git_ref: Option<String>,
}

/// A status to be set.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    pub(super) state: State,
    pub(super) name: String,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_url: Option<String>,
    /// Not sent together with a pipeline, which has a ref of its own.
    #[serde(rename = "ref", skip_serializing_if = "Option::is_none")]
    git_ref: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pipeline_id: Option<u64>,
    #[serde(skip)]
    place_ref: Option<String>,
}

/// What a job is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    Pending,
    Running,
    Success,
    Failed,
    Canceled,
}

/// A status that is there.
#[derive(Debug, Deserialize)]
pub(super) struct Row {
    #[serde(default)]
    pub(super) id: u64,
    /// Called `state` in requests.
    #[serde(default)]
    status: String,
    #[serde(default)]
    name: String,
    description: Option<String>,
    target_url: Option<String>,
    /// Missing in old versions.
    pub(super) pipeline_id: Option<u64>,
}

/// The path of a project.
pub(super) fn project(forge: &str, project: &str) -> Result<String, SendError> {
    let is_path = project.contains('/') && project.split('/').all(|name| !matches!(name, "" | "." | ".."));
    if !is_path {
        return Err(SendError::Refused {
            scope: Scope::Repository,
            why: format!("`{project}` names no project at `{forge}`; set `repository` of the project to `group/name`"),
        });
    }
    Ok(format!("/projects/{}", segment(project)))
}

impl Place {
    /// Fails where the names could not be those of a project and a commit.
    pub(super) fn of(forge: &str, status: &Outgoing) -> Result<Self, SendError> {
        let commit = &status.commit;
        if commit.is_empty() || !commit.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(SendError::Refused {
                scope: Scope::Status,
                why: format!("`{}` is no commit, so `{forge}` cannot be told of it", line(commit, 80)),
            });
        }
        let branch = status.git_ref.as_deref().map(|name| {
            let name = name.strip_prefix("refs/heads/").unwrap_or(name);
            name.strip_prefix("refs/tags/").unwrap_or(name).to_owned()
        });
        // The commit of a merge request from a fork is on no branch here; without a ref it would be refused.
        let of_merge_request = || Some(format!("refs/merge-requests/{}/head", status.pull_request?));
        Ok(Self {
            project: project(forge, &status.repository)?,
            commit: commit.clone(),
            git_ref: branch.filter(|name| !name.is_empty()).or_else(of_merge_request),
        })
    }
}

impl Status {
    pub(super) fn of(status: &Outgoing, place: &Place, pipeline_id: Option<u64>) -> Self {
        // An address that is cut leads nowhere, and one that is too long is refused with all the rest.
        let fits = |url: &String| url.chars().count() <= CHARS;
        Self {
            state: State::of(status.content.state),
            name: line(&status.context, CHARS),
            description: line(&status.content.description, CHARS),
            target_url: status.content.url.clone().filter(fits),
            git_ref: place.git_ref.clone().filter(|_| pipeline_id.is_none()),
            pipeline_id,
            place_ref: place.git_ref.clone(),
        }
    }

    /// In the newest pipeline instead of a certain one.
    pub(super) fn in_newest(&mut self) {
        self.pipeline_id = None;
        self.git_ref.clone_from(&self.place_ref);
    }
}

impl Row {
    /// Whether it stands where the other would stand.
    pub(super) fn is_of(&self, wanted: &Status) -> bool {
        let is_there = match (self.pipeline_id, wanted.pipeline_id) {
            (Some(a), Some(b)) => a == b,
            _ => true,
        };
        is_there && self.name == wanted.name
    }

    /// Whether it says the same. Of what has not ended only the state is compared, as a new description may have been
    /// dropped there; and what runs stays so when it is to be pending again.
    pub(super) fn says(&self, wanted: &Status) -> bool {
        match wanted.state {
            State::Pending => matches!(self.status.as_str(), "pending" | "running"),
            State::Running => self.status == "running",
            State::Success | State::Failed | State::Canceled => {
                self.status == wanted.state.word()
                    && self.description.as_deref().unwrap_or_default().trim() == wanted.description
                    && self.target_url == wanted.target_url
            }
        }
    }
}

impl Row {
    /// What it says, as near as we have a word for it.
    pub(super) fn state(&self) -> Option<StatusState> {
        Some(match self.status.as_str() {
            "created" | "pending" => StatusState::Queued,
            "running" => StatusState::Running,
            "success" => StatusState::Success,
            "failed" => StatusState::Failure,
            "canceled" => StatusState::Cancelled,
            "skipped" => StatusState::Neutral,
            _ => return None,
        })
    }
}

impl State {
    /// The reasons are in the text of the module above.
    fn of(state: StatusState) -> Self {
        match state {
            StatusState::Queued | StatusState::ActionRequired => Self::Pending,
            StatusState::Running => Self::Running,
            StatusState::Success | StatusState::Neutral => Self::Success,
            StatusState::Failure | StatusState::Error => Self::Failed,
            StatusState::Cancelled => Self::Canceled,
        }
    }

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }
}
