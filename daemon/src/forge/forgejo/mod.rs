//! Forgejo and Gitea: commit statuses, and one comment on the pull request where it is wanted.
//!
//! What is seen there: one line per context with an icon, the description and a link; no text, no annotations, no
//! buttons. Required checks are patterns of contexts, one per line, so that `nixci` alone asks for the summary and
//! `nixci*` for all. A commit status is added and never changed: of a context the newest counts, so a repeat would be a
//! second line in the history, and after a lost answer the statuses are read before anything is sent.
//!
//! | Ours | There | Why |
//! |---|---|---|
//! | queued, running | `pending` | |
//! | success, neutral | `success` | `warning` and `skipped` let a required check pass in some versions and not in others |
//! | failure | `failure` | |
//! | error, cancelled | `error` | it was not found out, so it must not let a merge pass |
//! | action required | `pending` | somebody still decides; a required check waits |
//!
//! All of them combine to one icon: in old versions the worst one (error, failure, warning, pending, success), since
//! Gitea 1.24 `failure` where one is `failure` or `error`.
//!
//! The token belongs to a user who may write the repository's code, with the scopes `write:repository`, and
//! `write:issue` for comments. `read:user` lets `nixci doctor` name that user.

mod comment;
mod refusal;
mod status;

use std::sync::OnceLock;

use reqwest::header::AUTHORIZATION;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::Semaphore;

use self::status::{Place, Remote, Status};
use super::token::Api;
use super::{Found, OpenError, Outgoing, PullRequest, Scope, SendError, Sent, owner};
use crate::config;

/// Statuses on one page of a list; `MAX_RESPONSE_ITEMS` is 50 where nobody changed it.
const PAGE: usize = 50;
/// Pages of statuses that are read for one that was sent just now.
const PAGES: usize = 20;

/// A client of one forge.
#[derive(Debug)]
pub struct Forgejo {
    api: Api,
    /// One comment is looked for and written at a time: two that look at once would both find none.
    commenting: Semaphore,
    /// Who we are there, as soon as an answer has told.
    user: OnceLock<String>,
}

/// What a status is answered with.
#[derive(Debug, Default, Deserialize)]
struct Created {
    creator: Option<User>,
}

#[derive(Debug, Deserialize)]
struct User {
    #[serde(default)]
    login: String,
}

impl Forgejo {
    /// Reads its token. Blocks.
    pub fn open(forge: &config::Forge) -> Result<Self, OpenError> {
        Ok(Self {
            api: Api::open(forge, AUTHORIZATION, "token ")?,
            commenting: Semaphore::new(1),
            user: OnceLock::new(),
        })
    }

    /// Adds a commit status, and writes the comment that goes with a summary.
    ///
    /// A comment that is refused does not hold up the status: it is only logged. One that fails for now makes this
    /// [`SendError::Lost`]; what is looked up and sent then writes the comment, and adds no second status.
    pub async fn send(&self, status: &Outgoing) -> Result<Sent, SendError> {
        let place = Place::of(self.api.http.forge(), status)?;
        let wanted = Status::of(status);
        let mut remote = Remote::of(status);
        let mut sent = Sent::default();
        let is_there = comment::is_wanted(status) && remote.said.as_ref() == Some(&wanted.digest());
        if !is_there {
            let path = format!("{}/statuses/{}", place.repository, place.commit);
            let answer = self.api.ask(Method::POST, &path, Some(&wanted)).await?;
            if !answer.status.is_success() {
                return Err(self.why_not(&place, status, &answer).await);
            }
            // It was taken, whatever the answer says about it.
            let created: Created = answer.json().unwrap_or_default();
            if let Some(user) = created.creator {
                self.user.get_or_init(|| user.login);
            }
            sent.quota = answer.quota();
            remote.said = Some(wanted.digest());
        }
        if comment::is_wanted(status) {
            self.write_comment(&place, status, &mut remote).await?;
        }
        sent.remote_id = Some(remote.to_string());
        Ok(sent)
    }

    /// The newest status of the context. One with a comment is never the same here, as the comment is looked at when it
    /// is sent again, and only then.
    pub async fn look_up(&self, status: &Outgoing) -> Result<Option<Found>, SendError> {
        let place = Place::of(self.api.http.forge(), status)?;
        let wanted = Status::of(status);
        for page in 1..=PAGES {
            let path = format!(
                "{}/commits/{}/statuses?sort=highestindex&page={page}&limit={PAGE}",
                place.repository, place.commit
            );
            let answer = self.api.ask(Method::GET, &path, None::<&()>).await?;
            // Of a commit that is not there nothing is shown; what is sent then says so.
            if answer.status == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            if !answer.status.is_success() {
                return Err(self.why_not(&place, status, &answer).await);
            }
            let rows: Vec<status::Row> = self.api.read(&answer)?;
            if let Some(row) = rows.iter().find(|row| row.is_of(&wanted)) {
                let mut remote = Remote::of(status);
                remote.said = Some(row.digest());
                return Ok(Some(Found {
                    remote_id: Some(remote.to_string()),
                    state: row.state(),
                    is_same: row.digest() == wanted.digest() && !comment::is_wanted(status),
                    quota: answer.quota(),
                }));
            }
            if rows.len() < PAGE {
                break;
            }
        }
        Ok(None)
    }

    /// A pull request as it is now; none where there is no such.
    pub async fn pull_request(&self, repository: &str, number: u64) -> Result<Option<PullRequest>, SendError> {
        #[derive(Deserialize)]
        struct Pull {
            number: u64,
            state: String,
            head: Branch,
            base: Branch,
        }
        #[derive(Deserialize)]
        struct Branch {
            sha: String,
            #[serde(rename = "ref")]
            name: Option<String>,
            #[serde(default)]
            repo_id: i64,
            repo: Option<Repo>,
        }
        #[derive(Deserialize)]
        struct Repo {
            full_name: Option<String>,
        }

        let path = format!(
            "{}/pulls/{number}",
            status::repository(self.api.http.forge(), repository)?
        );
        let answer = self.api.ask(Method::GET, &path, None::<&()>).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !answer.status.is_success() {
            return Err(self.refused(&answer, repository, &format!("the question for pull request {number}")));
        }
        let pull: Pull = self.api.read(&answer)?;
        Ok(Some(PullRequest {
            number: pull.number,
            head: pull.head.sha,
            head_ref: pull.head.name,
            base: Some(pull.base.sha).filter(|sha| !sha.is_empty()),
            base_ref: pull.base.name,
            is_open: pull.state == "open",
            // The repository of a head is gone where the fork was deleted.
            is_fork: pull.head.repo_id != pull.base.repo_id,
            head_owner: pull.head.repo.and_then(|repo| owner(&repo.full_name?)),
        }))
    }

    /// Which version it is, and who we are there.
    pub async fn check(&self) -> Result<String, SendError> {
        #[derive(Deserialize)]
        struct Version {
            version: String,
        }

        let answer = self.api.ask(Method::GET, "/version", None::<&()>).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer, "", "the question for its version"));
        }
        let Version { version } = self.api.read(&answer)?;
        let version = super::text::line(&version, 60);
        // Forgejo says which Gitea it is compatible with.
        let kind = if version.contains("gitea") { "Forgejo" } else { "Gitea" };
        if self.api.token.is_none() {
            return Err(self.api.no_token());
        }
        let answer = self.api.ask(Method::GET, "/user", None::<&()>).await?;
        match answer.status.as_u16() {
            200 => {
                let user: User = self.api.read(&answer)?;
                Ok(format!("{kind} {version} as `{}`", super::text::line(&user.login, 60)))
            }
            // Its scopes do not hold `read:user`, which is not needed to write.
            403 if answer.wait().is_none() => Ok(format!("{kind} {version} with a token that is known there")),
            _ => Err(self.refused(&answer, "", "the question who we are")),
        }
    }

    /// Whether we may write statuses in a repository: a line for `nixci doctor`.
    pub async fn check_repository(&self, repository: &str) -> Result<String, SendError> {
        #[derive(Deserialize)]
        struct Repository {
            permissions: Option<Permissions>,
            #[serde(default)]
            archived: bool,
        }
        #[derive(Deserialize)]
        struct Permissions {
            #[serde(default)]
            push: bool,
        }

        let path = status::repository(self.api.http.forge(), repository)?;
        let answer = self.api.ask(Method::GET, &path, None::<&()>).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer, repository, &format!("the question for `{repository}`")));
        }
        let found: Repository = self.api.read(&answer)?;
        let why = if found.archived {
            "is archived, so nothing can be written there; leave it out of the configuration"
        } else if found.permissions.is_some_and(|may| !may.push) {
            "may not be written by our user; give that user write access to its code"
        } else {
            return Ok(format!("`{repository}` may be written"));
        };
        Err(SendError::Refused {
            scope: Scope::Repository,
            why: format!("repository `{repository}` at `{}` {why}", self.api.http.forge()),
        })
    }

    /// Who we are there; none where the token may not ask, for lack of `read:user`.
    async fn user(&self) -> Result<Option<&str>, SendError> {
        if self.user.get().is_none() {
            let answer = self.api.ask(Method::GET, "/user", None::<&()>).await?;
            match answer.status.as_u16() {
                200 => {
                    let user: User = self.api.read(&answer)?;
                    self.user.get_or_init(|| user.login);
                }
                403 if answer.wait().is_none() => {}
                _ => return Err(self.refused(&answer, "", "the question who we are")),
            }
        }
        Ok(self.user.get().map(String::as_str))
    }
}
