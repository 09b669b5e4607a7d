//! Forges: one folder each. A client here sends what it is given and says what came of it; what is sent when, and what
//! is done after an error, is decided in [`report`](crate::report).

pub mod forgejo;
pub mod github;
pub mod gitlab;
pub(crate) mod health;
mod http;
mod text;
mod token;
pub mod webhook;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::EvaluationId;
use nixci_protocol::nixci::report::{StatusContent, StatusRole, StatusState};

use secrecy::ExposeSecret as _;
use sha2::{Digest as _, Sha256};

use crate::config::{self, ForgeAuth, ForgeKind, SecretError};

pub(crate) use http::Http;

/// What our own names of statuses begin with; the number of the row follows. See [`Outgoing::external_id`].
pub const EXTERNAL_ID: &str = "nixci-";

/// One status on its way to a forge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    /// The repository: `owner/name`, `group/subgroup/name`.
    pub repository: String,
    /// The commit, all its digits.
    pub commit: String,
    /// The name it is known by.
    pub context: String,
    /// Which of an evaluation's statuses it is.
    pub role: StatusRole,
    /// The evaluation it is of.
    pub evaluation: EvaluationId,
    /// Its job, where it is of one.
    pub attr: Option<AttrPath>,
    /// What it says.
    pub content: StatusContent,
    /// Our own name of it, which a forge that takes one gives back: the same for every content of this status.
    pub external_id: String,
    /// The forge's number of it, where it told one before.
    pub remote_id: Option<String>,
    /// What the forge has confirmed last.
    pub sent_state: Option<StatusState>,
    /// The branch, where it is known.
    pub git_ref: Option<String>,
    /// The number of the pull request, where there is one.
    pub pull_request: Option<u64>,
    /// Whether the verdict shall be a comment on it too.
    pub comment: bool,
}

/// A forge took a status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sent {
    /// Its number there, for the next time.
    pub remote_id: Option<String>,
    /// What it said of how much more it takes.
    pub quota: Quota,
}

/// What a forge has of a status whose answer was lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Its number there. It is kept where the content is another too: then that is changed, and nothing is made twice.
    pub remote_id: Option<String>,
    /// What it says there, as near as the forge's words tell.
    pub state: Option<StatusState>,
    /// Whether it says exactly what was to be sent. If not, it is to be sent again, after [`Found::adopt`].
    pub is_same: bool,
    /// What the forge said of how much more it takes.
    pub quota: Quota,
}

impl Found {
    /// Makes a status that is to be sent again change what was found, rather than make another.
    pub fn adopt(&self, status: &mut Outgoing) {
        status.remote_id.clone_from(&self.remote_id);
        status.sent_state = self.state;
    }
}

/// What a forge said of how much more it takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Requests that are left.
    pub remaining: Option<u64>,
    /// When there are more.
    pub reset_in: Option<Duration>,
}

/// Why a status was not taken. Every text names the forge and what to do, in one line, and no secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too much was asked of it; nothing more is taken before this time is over.
    #[error("{why}")]
    Limited {
        /// How long to wait; none where it did not say.
        wait: Option<Duration>,
        /// In words.
        why: String,
    },
    /// It did not happen, and may work later: no connection, 5xx before anything was done.
    #[error("{why}")]
    Failed {
        /// In words.
        why: String,
    },
    /// It may have happened: the answer was lost. Look before it is sent again.
    #[error("{why}")]
    Lost {
        /// In words.
        why: String,
    },
    /// It will not happen before something changes.
    #[error("{why}")]
    Refused {
        /// What else would be refused for the same reason.
        scope: Scope,
        /// In words.
        why: String,
    },
}

/// What a refusal is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scope {
    /// This status alone: a 422 for its name, its number, its length.
    Status,
    /// Everything of this repository: it is not there, or we may not write to it.
    Repository,
    /// Everything at this forge: it does not know us.
    Forge,
}

/// A pull request as its forge knows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullRequest {
    /// Its number.
    pub number: u64,
    /// The commit at its head.
    pub head: String,
    /// Its branch.
    pub head_ref: Option<String>,
    /// The commit it is to be merged into.
    pub base: Option<String>,
    /// The branch it is to be merged into.
    pub base_ref: Option<String>,
    /// Whether it is open.
    pub is_open: bool,
    /// Whether its head is in another repository.
    pub is_fork: bool,
    /// Whose that repository is, where the forge tells.
    pub head_owner: Option<String>,
}

/// A run of a workflow as its forge knows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkflowRun {
    /// The commit it runs for; of a pull request its head.
    pub head: String,
    /// What started it.
    pub event: String,
    /// Its branch.
    pub head_branch: Option<String>,
    /// Whether that branch is in another repository.
    pub is_fork: bool,
    /// Whose that repository is, where the forge tells.
    pub head_owner: Option<String>,
    /// Pull requests it is for, as far as the forge tells: none of forks.
    pub pull_requests: Vec<u64>,
}

impl PullRequest {
    /// Its branch as people write it.
    #[must_use]
    pub fn branch(&self) -> Option<String> {
        branch(self.head_ref.as_deref(), self.is_fork, self.head_owner.as_deref())
    }
}

impl WorkflowRun {
    /// Its branch as people write it.
    #[must_use]
    pub fn branch(&self) -> Option<String> {
        branch(self.head_branch.as_deref(), self.is_fork, self.head_owner.as_deref())
    }
}

/// A branch; that of a fork as `owner:branch`, for its `main` is not ours, and none where nobody says whose it is.
fn branch(name: Option<&str>, is_fork: bool, owner: Option<&str>) -> Option<String> {
    match (is_fork, owner) {
        (false, _) => name.map(str::to_owned),
        (true, Some(owner)) => Some(format!("{owner}:{}", name?)),
        (true, None) => None,
    }
}

/// Whose a repository is: `owner` of `owner/name`.
fn owner(full_name: &str) -> Option<String> {
    full_name.split_once('/').map(|(owner, _)| owner.to_owned())
}

/// Why a forge cannot be used as it is configured.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A file with a secret cannot be used.
    #[error("forge `{forge}`: {what} {path}: {source}", path = .path.display())]
    Secret {
        /// The forge.
        forge: String,
        /// What the file is to hold.
        what: &'static str,
        /// The file.
        path: std::path::PathBuf,
        /// Why.
        source: SecretError,
    },
    /// Something else.
    #[error("forge `{forge}`: {why}")]
    Other {
        /// The forge.
        forge: String,
        /// Why, and what to do.
        why: String,
    },
}

/// A forge that can be talked to.
#[derive(Debug)]
pub enum Client {
    /// GitHub.
    GitHub(github::GitHub),
    /// Forgejo and Gitea.
    Forgejo(forgejo::Forgejo),
    /// GitLab.
    GitLab(gitlab::GitLab),
    /// Anybody who takes the verdict as JSON.
    Webhook(webhook::Webhook),
}

impl Client {
    /// Reads the secrets it needs; asks nobody. Blocks.
    pub fn open(forge: &config::Forge) -> Result<Self, OpenError> {
        Ok(match forge.kind {
            ForgeKind::GitHub => Self::GitHub(github::GitHub::open(forge)?),
            ForgeKind::Forgejo | ForgeKind::Gitea => Self::Forgejo(forgejo::Forgejo::open(forge)?),
            ForgeKind::GitLab => Self::GitLab(gitlab::GitLab::open(forge)?),
            ForgeKind::Webhook => Self::Webhook(webhook::Webhook::open(forge)?),
        })
    }

    /// Makes a status say what it is to say. May be repeated with the same content. Cancelling leaves open whether it
    /// happened.
    pub async fn send(&self, status: &Outgoing) -> Result<Sent, SendError> {
        match self {
            Self::GitHub(forge) => forge.send(status).await,
            Self::Forgejo(forge) => forge.send(status).await,
            Self::GitLab(forge) => forge.send(status).await,
            Self::Webhook(forge) => forge.send(status).await,
        }
    }

    /// What the forge has of a status, after an answer was lost; none: nothing, and it is to be sent again. Changes
    /// nothing.
    pub async fn look_up(&self, status: &Outgoing) -> Result<Option<Found>, SendError> {
        match self {
            Self::GitHub(forge) => forge.look_up(status).await,
            Self::Forgejo(forge) => forge.look_up(status).await,
            Self::GitLab(forge) => forge.look_up(status).await,
            Self::Webhook(forge) => forge.look_up(status).await,
        }
    }

    /// A pull request as it is now; none where there is no such.
    pub async fn pull_request(&self, repository: &str, number: u64) -> Result<Option<PullRequest>, SendError> {
        match self {
            Self::GitHub(forge) => forge.pull_request(repository, number).await,
            Self::Forgejo(forge) => forge.pull_request(repository, number).await,
            Self::GitLab(forge) => forge.pull_request(repository, number).await,
            Self::Webhook(_) => Ok(None),
        }
    }

    /// A run of a workflow; none where there is no such, or the forge has none.
    pub async fn workflow_run(&self, repository: &str, run: u64) -> Result<Option<WorkflowRun>, SendError> {
        match self {
            Self::GitHub(forge) => forge.workflow_run(repository, run).await,
            Self::Forgejo(_) | Self::GitLab(_) | Self::Webhook(_) => Ok(None),
        }
    }

    /// Asks the forge who we are there, and whether we may do what is configured: a line for `nixci doctor`.
    pub async fn check(&self) -> Result<String, SendError> {
        match self {
            Self::GitHub(forge) => forge.check().await,
            Self::Forgejo(forge) => forge.check().await,
            Self::GitLab(forge) => forge.check().await,
            Self::Webhook(forge) => forge.check().await,
        }
    }

    /// Asks whether we may write statuses in a repository: a line for `nixci doctor`; none where the forge cannot tell
    /// before it is done.
    pub async fn check_repository(&self, repository: &str) -> Result<Option<String>, SendError> {
        match self {
            Self::Forgejo(forge) => forge.check_repository(repository).await.map(Some),
            Self::GitLab(forge) => forge.check_repository(repository).await.map(Some),
            Self::GitHub(_) | Self::Webhook(_) => Ok(None),
        }
    }
}

/// All forges, by their names in the configuration.
#[derive(Debug, Clone, Default)]
pub struct Forges {
    known: Arc<BTreeMap<String, Arc<Known>>>,
}

#[derive(Debug)]
struct Known {
    forge: config::Forge,
    client: Client,
    made_of: Option<MadeOf>,
}

/// What tells that a client would be the same if it were made again: how its forge is configured, and digests of the
/// secrets in its files.
#[derive(Debug, PartialEq, Eq)]
struct MadeOf {
    forge: config::Forge,
    secrets: Vec<[u8; 32]>,
}

impl MadeOf {
    /// None where a secret cannot be read.
    fn of(forge: &config::Forge) -> Option<Self> {
        let mut forge = forge.clone();
        let files = match &mut forge.auth {
            Some(ForgeAuth::App { key, .. }) => Some(key),
            Some(ForgeAuth::Token(token)) => Some(token),
            None => None,
        };
        let mut secrets = Vec::new();
        for file in files.into_iter().chain(&mut forge.webhook_secret) {
            // Where it stands in the configuration does not matter.
            file.line = None;
            secrets.push(Sha256::digest(file.read().ok()?.expose_secret()).into());
        }
        Some(Self { forge, secrets })
    }
}

impl Forges {
    /// Opens every forge of a configuration. Blocks. All that cannot be used are told.
    pub fn open(forges: &[config::Forge]) -> Result<Self, Vec<OpenError>> {
        Self::open_again(forges, None)
    }

    /// As [`open`](Self::open). A forge that is as it was `before`, with the same secrets, keeps its client.
    pub(crate) fn open_again(forges: &[config::Forge], before: Option<&Self>) -> Result<Self, Vec<OpenError>> {
        let mut known = BTreeMap::new();
        let mut errors = Vec::new();
        for forge in forges {
            let made_of = MadeOf::of(forge);
            let same = before
                .and_then(|before| before.known.get(&forge.name))
                .filter(|same| made_of.is_some() && same.made_of == made_of);
            if let Some(same) = same {
                known.insert(forge.name.clone(), same.clone());
                continue;
            }
            match Client::open(forge) {
                Ok(client) => {
                    let forge = forge.clone();
                    known.insert(forge.name.clone(), Arc::new(Known { forge, client, made_of }));
                }
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() {
            Ok(Self { known: Arc::new(known) })
        } else {
            Err(errors)
        }
    }

    /// The client of a forge.
    #[must_use]
    pub fn client(&self, name: &str) -> Option<&Client> {
        self.known.get(name).map(|known| &known.client)
    }

    /// How a forge is configured.
    #[must_use]
    pub fn config(&self, name: &str) -> Option<&config::Forge> {
        self.known.get(name).map(|known| &known.forge)
    }

    /// All of them, by name.
    pub fn all(&self) -> impl Iterator<Item = (&config::Forge, &Client)> {
        self.known.values().map(|known| (&known.forge, &known.client))
    }

    /// Whether a forge is the same in both, or in neither.
    pub(crate) fn agrees(&self, other: &Self, name: &str) -> bool {
        match (self.known.get(name), other.known.get(name)) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Status => "status",
            Self::Repository => "repository",
            Self::Forge => "forge",
        })
    }
}
