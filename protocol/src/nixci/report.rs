//! What is shown of an evaluation on its commit: the words between the verdict and the forges.
//!
//! A *status* is one line at a commit: a check run on GitHub, a commit status elsewhere. Its *context* is the name it is
//! known by there, which required checks name too, so it never holds a number or a count.

use serde::{Deserialize, Serialize};

use super::attr_path::AttrPath;
use super::control::{EvaluationId, Millis};

/// What a status says. Each forge has fewer words; its client chooses the nearest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusState {
    /// Nothing of it runs yet.
    Queued,
    /// It is being worked on.
    Running,
    /// All is well.
    Success,
    /// A build or an evaluation failed.
    Failure,
    /// It could not be found out: a store failed, a limit was met, the client went away.
    Error,
    /// Somebody cancelled it.
    Cancelled,
    /// Somebody must decide before it goes on.
    ActionRequired,
    /// It says nothing about this commit (any more).
    Neutral,
}

impl StatusState {
    /// Every state.
    pub const ALL: [Self; 8] = [
        Self::Queued,
        Self::Running,
        Self::Success,
        Self::Failure,
        Self::Error,
        Self::Cancelled,
        Self::ActionRequired,
        Self::Neutral,
    ];

    /// Whether nothing more will happen by itself.
    #[must_use]
    pub fn is_final(self) -> bool {
        match self {
            Self::Queued | Self::Running => false,
            Self::Success | Self::Failure | Self::Error | Self::Cancelled | Self::ActionRequired | Self::Neutral => {
                true
            }
        }
    }

    /// Whether it stands in the way of a merge, so that it must be taken back when the reason is gone.
    #[must_use]
    pub fn is_red(self) -> bool {
        match self {
            Self::Failure | Self::Error | Self::Cancelled | Self::ActionRequired => true,
            Self::Queued | Self::Running | Self::Success | Self::Neutral => false,
        }
    }

    /// As columns, JSON and metrics write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Error => "error",
            Self::Cancelled => "cancelled",
            Self::ActionRequired => "action-required",
            Self::Neutral => "neutral",
        }
    }

    /// The state that is written so.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.word() == word)
    }
}

/// Which of an evaluation's statuses this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StatusRole {
    /// The one to require: created first and completed last.
    Summary,
    /// Whether the expressions evaluate.
    Evaluation,
    /// One job.
    Job,
    /// The verdict as JSON, for plain webhooks: the body is [`StatusContent::text`], whole and as it is.
    Verdict,
}

impl StatusRole {
    /// As columns and JSON write it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Summary => "summary",
            Self::Evaluation => "evaluation",
            Self::Job => "job",
            Self::Verdict => "verdict",
        }
    }

    /// The role that is written so.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Summary, Self::Evaluation, Self::Job, Self::Verdict]
            .into_iter()
            .find(|role| role.word() == word)
    }
}

/// A remark on a line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Annotation {
    /// The file, from the top of the repository.
    pub path: String,
    /// The line, from 1.
    pub line: u32,
    /// What it is about, in a few words.
    pub title: String,
    /// What is said.
    pub message: String,
}

/// What a status says, in the longest form any forge can show.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusContent {
    /// What it comes to.
    pub state: StatusState,
    /// One line, at most 140 characters: all that a commit status shows.
    pub description: String,
    /// Markdown that stands first, at most 65,535 characters.
    #[serde(default)]
    pub summary: String,
    /// Markdown below it, at most 65,535 characters; may be empty. Of a verdict its JSON, of any length.
    #[serde(default)]
    pub text: String,
    /// The page with everything.
    pub url: Option<String>,
    /// Remarks on lines.
    #[serde(default)]
    pub annotations: Vec<Annotation>,
    /// When it began.
    pub started: Option<Millis>,
    /// When it became final.
    pub ended: Option<Millis>,
}

/// Answer to [`Request::Report`](super::control::Request::Report): one status, and what its forge has of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusReport {
    /// The forge by its name in the configuration.
    pub forge: String,
    /// The repository there.
    pub repository: String,
    /// The commit.
    pub commit: String,
    /// The name it is known by.
    pub context: String,
    /// Which of the evaluation's statuses it is.
    pub role: StatusRole,
    /// The evaluation it is of.
    pub evaluation: EvaluationId,
    /// Its job, where it is of one.
    pub attr: Option<AttrPath>,
    /// What it is to say.
    pub state: StatusState,
    /// In one line.
    pub description: String,
    /// What the forge has confirmed; none before the first time.
    pub sent_state: Option<StatusState>,
    /// Whether the forge has the newest.
    pub is_sent: bool,
    /// When it confirmed last.
    pub sent: Option<Millis>,
    /// Requests that changed something there.
    pub writes: u64,
    /// Why it is not sent: what went wrong last, or why nothing more is tried until something changes.
    pub error: Option<String>,
    /// Whether nothing more is tried until something changes.
    pub is_refused: bool,
}

/// Answer to [`Request::Forges`](super::control::Request::Forges): one forge, and whether it takes what it is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ForgeStatus {
    /// Its name in the configuration.
    pub name: String,
    /// What it speaks, as the configuration writes it: `github`.
    pub kind: String,
    /// The address people use.
    pub url: String,
    /// Who the daemon is there, in one line; none where it could not be asked.
    pub found: Option<String>,
    /// Why it cannot be told anything, and what to do.
    pub error: Option<String>,
    /// Whether its webhooks are taken: a secret is configured by which they are known. None where it sends none.
    pub takes_webhooks: Option<bool>,
    /// Statuses it is still to be told.
    pub unsent: u64,
    /// When the oldest of them was written.
    pub unsent_since: Option<Millis>,
    /// Statuses it has refused, each for a reason of its own: `nixci report` says which.
    pub refused: u64,
    /// Repositories to which nothing more is sent until something changes.
    pub refused_repositories: Vec<RefusedRepository>,
}

/// A repository that takes nothing from the daemon.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedRepository {
    /// Its name at the forge.
    pub repository: String,
    /// What the forge said, and what to do.
    pub reason: String,
    /// Since when.
    pub since: Millis,
}

/// Why a forge is not told everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ReportTrouble {
    /// The forge by its name in the configuration.
    pub forge: String,
    /// The repository, where it is about one.
    pub repository: Option<String>,
    /// The status, where it is about one.
    pub context: Option<String>,
    /// Of which kind.
    pub kind: ReportTroubleKind,
    /// What the forge said, in one line.
    pub reason: String,
    /// Since when.
    pub since: Millis,
}

/// Kinds of trouble with a forge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReportTroubleKind {
    /// It does not answer, or fails; it is tried again by itself.
    Down,
    /// It takes nothing for some time; it is tried again by itself.
    Limited,
    /// It does not know us. Nothing is sent there before the daemon is started again or somebody asks.
    Stopped,
    /// It takes nothing for this repository. Nothing is sent there before something changes.
    RefusedRepository,
    /// It does not take this status. It is not sent before it changes.
    RefusedStatus,
}
