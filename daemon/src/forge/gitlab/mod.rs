//! GitLab: commit statuses, which are external jobs of a pipeline there. Checked against its documents and sources, not
//! against a server.
//!
//! What is seen there: a stage `external` in the commit's newest pipeline (a pipeline is made where there is none), with
//! one job per context that has an icon, a link, and the description as a hint. No text, no annotations, no buttons. What
//! a merge needs is a pipeline that has passed ("Pipelines must succeed"); single jobs cannot be required. A merge request
//! from a fork shows the pipelines of the fork, so nothing is seen on it unless the token may write there.
//!
//! A status is a job with states: it goes from pending to running to its end and never back. What that means here:
//!
//! - What is already so is answered with 400, `Cannot transition status via :run from :running`. That is a success. So is
//!   `pending` for a job that runs: there it goes on running, and only its end is told. A new description of a job that
//!   has not ended may be dropped.
//! - A restart begins a new job of the same name, which hides the old one; that is what GitLab does by itself with a
//!   status that comes after an end. For the same reason a repeated end would be a second job, so after a lost answer the
//!   statuses are read before anything is sent.
//! - All contexts of a commit go into one pipeline: the one of the first answer, whose number is sent from then on. Where
//!   it is gone or archived the newest one is taken.
//!
//! | Ours | There | Why |
//! |---|---|---|
//! | queued, action required | `pending` | a pipeline waits for it |
//! | running | `running` | |
//! | success, neutral | `success` | a pipeline of nothing but `skipped` jobs does not pass |
//! | failure, error | `failed` | |
//! | cancelled | `canceled` | |
//!
//! The token is a project, group or personal access token with the scope `api`, of somebody who is at least Developer, and
//! who may push or merge to the branch where it is protected.

mod refusal;
mod status;

use std::time::Duration;

use moka::sync::Cache;
use reqwest::header::HeaderName;
use reqwest::{Method, StatusCode};
use serde::Deserialize;
use tokio::sync::Semaphore;

use self::status::{Place, Row, Status};
use super::http::Answer;
use super::text::{line, segment};
use super::token::Api;
use super::{Found, OpenError, Outgoing, PullRequest, Scope, SendError, Sent};
use crate::config;

/// The header that carries a token.
const TOKEN: &str = "private-token";
/// How many commits' pipelines are remembered, and for how long after the last use.
const PIPELINES: u64 = 4096;
const PIPELINE_TIME: Duration = Duration::from_hours(24);
/// The access level of a Developer, who may write statuses.
const DEVELOPER: u64 = 30;

/// A client of one GitLab.
#[derive(Debug)]
pub struct GitLab {
    api: Api,
    /// The pipeline of each place, so that all its contexts go into the same.
    pipelines: Cache<Place, u64>,
    /// What goes into no certain pipeline is sent one at a time: of two first ones each might make its own.
    first: Semaphore,
}

impl GitLab {
    /// Reads its token. Blocks.
    pub fn open(forge: &config::Forge) -> Result<Self, OpenError> {
        Ok(Self {
            api: Api::open(forge, HeaderName::from_static(TOKEN), "")?,
            pipelines: Cache::builder()
                .max_capacity(PIPELINES)
                .time_to_idle(PIPELINE_TIME)
                .build(),
            first: Semaphore::new(1),
        })
    }

    /// Makes the external job of this name be in this state.
    pub async fn send(&self, status: &Outgoing) -> Result<Sent, SendError> {
        let place = Place::of(self.api.http.forge(), status)?;
        if let Some(pipeline) = self.pipeline(status, &place) {
            return self.set(status, &place, Some(pipeline)).await;
        }
        // It is never closed; without it two pipelines might be made, and nothing else be wrong.
        let _one_at_a_time = self.first.acquire().await.ok();
        self.set(status, &place, self.pipelines.get(&place)).await
    }

    /// The pipeline that a status is in, or that the others of its place are in.
    fn pipeline(&self, status: &Outgoing, place: &Place) -> Option<u64> {
        let own = status.remote_id.as_deref().and_then(|id| id.parse().ok());
        own.or_else(|| self.pipelines.get(place))
    }

    async fn set(&self, status: &Outgoing, place: &Place, pipeline: Option<u64>) -> Result<Sent, SendError> {
        let mut body = Status::of(status, place, pipeline);
        let path = format!("{}/statuses/{}", place.project, place.commit);
        let mut answer = self.api.ask(Method::POST, &path, Some(&body)).await?;
        if answer.status == StatusCode::NOT_FOUND && body.pipeline_id.is_some() && refusal::is_about_pipeline(&answer) {
            // It was deleted or archived; the newest is taken.
            self.pipelines.invalidate(place);
            body.in_newest();
            answer = self.api.ask(Method::POST, &path, Some(&body)).await?;
        }
        if !answer.status.is_success() {
            if !refusal::is_already_so(&answer, body.state) {
                return Err(self.why_not(status, &body, &answer));
            }
            return Ok(self.sent(place, body.pipeline_id, &answer));
        }
        // It was taken, whatever the answer says about it. Old versions do not tell the pipeline.
        let pipeline = answer.json::<Row>().ok().and_then(|row| row.pipeline_id);
        Ok(self.sent(place, pipeline.or(body.pipeline_id), &answer))
    }

    /// The newest job of this name.
    pub async fn look_up(&self, status: &Outgoing) -> Result<Option<Found>, SendError> {
        let place = Place::of(self.api.http.forge(), status)?;
        let body = Status::of(status, &place, self.pipeline(status, &place));
        let path = format!(
            "{}/repository/commits/{}/statuses?per_page=100&name={}",
            place.project,
            place.commit,
            segment(&body.name)
        );
        let answer = self.api.ask(Method::GET, &path, None::<&()>).await?;
        // Of a commit that is not there nothing is shown; what is sent then says so.
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !answer.status.is_success() {
            return Err(self.why_not(status, &body, &answer));
        }
        let rows: Vec<Row> = self.api.read(&answer)?;
        // One of each pipeline, and those that were retried are left out.
        let newest = rows.into_iter().filter(|row| row.is_of(&body)).max_by_key(|row| row.id);
        Ok(newest.map(|row| Found {
            state: row.state(),
            is_same: row.says(&body),
            remote_id: self.sent(&place, row.pipeline_id, &answer).remote_id,
            quota: answer.quota(),
        }))
    }

    /// A merge request as it is now; none where there is no such.
    pub async fn pull_request(&self, repository: &str, number: u64) -> Result<Option<PullRequest>, SendError> {
        #[derive(Deserialize)]
        struct MergeRequest {
            iid: u64,
            sha: Option<String>,
            state: String,
            source_branch: Option<String>,
            target_branch: Option<String>,
            source_project_id: Option<i64>,
            target_project_id: Option<i64>,
            diff_refs: Option<DiffRefs>,
        }
        #[derive(Deserialize)]
        struct DiffRefs {
            /// The head of the target branch when the newest commits came.
            start_sha: Option<String>,
        }

        let project = status::project(self.api.http.forge(), repository)?;
        let path = format!("{project}/merge_requests/{number}");
        let answer = self.api.ask(Method::GET, &path, None::<&()>).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        if !answer.status.is_success() {
            let what = format!("the question for merge request {number}");
            return Err(self.refused(&answer, repository, &what));
        }
        let found: MergeRequest = self.api.read(&answer)?;
        // One without commits has no head.
        let Some(head) = found.sha.filter(|sha| !sha.is_empty()) else {
            return Ok(None);
        };
        Ok(Some(PullRequest {
            number: found.iid,
            head,
            head_ref: found.source_branch,
            base: found.diff_refs.and_then(|refs| refs.start_sha),
            base_ref: found.target_branch,
            is_open: found.state == "opened",
            // The project of a source is gone where the fork was deleted.
            is_fork: found.source_project_id != found.target_project_id,
            // Only the number of its project is told.
            head_owner: None,
        }))
    }

    /// Who we are there, and whether the token may write.
    pub async fn check(&self) -> Result<String, SendError> {
        #[derive(Deserialize)]
        struct User {
            username: String,
        }
        #[derive(Deserialize)]
        struct Token {
            #[serde(default)]
            scopes: Vec<String>,
            expires_at: Option<String>,
        }

        if self.api.token.is_none() {
            return Err(self.api.no_token());
        }
        let answer = self.api.ask(Method::GET, "/user", None::<&()>).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer, "", "the question who we are"));
        }
        let User { username } = self.api.read(&answer)?;
        let username = line(&username, 60);
        let answer = self
            .api
            .ask(Method::GET, "/personal_access_tokens/self", None::<&()>)
            .await?;
        if !answer.status.is_success() {
            // Versions before 15.5 do not tell of tokens.
            return Ok(format!(
                "GitLab as `{username}`; it does not tell what the token may do"
            ));
        }
        let token: Token = self.api.read(&answer)?;
        if !token.scopes.iter().any(|scope| scope == "api") {
            let scopes = line(&token.scopes.join(", "), 120);
            return Err(SendError::Refused {
                scope: Scope::Forge,
                why: format!(
                    "the token for `{}` has the scopes {scopes}; make one with the scope `api`, which statuses need",
                    self.api.http.forge()
                ),
            });
        }
        let until = token
            .expires_at
            .map_or_else(String::new, |date| format!(" until {}", line(&date, 30)));
        Ok(format!("GitLab as `{username}` with a token for `api`{until}"))
    }

    /// Whether we may write statuses in a project: a line for `nixci doctor`.
    pub async fn check_repository(&self, repository: &str) -> Result<String, SendError> {
        #[derive(Deserialize)]
        struct Project {
            permissions: Option<Permissions>,
        }
        #[derive(Deserialize)]
        struct Permissions {
            project_access: Option<Access>,
            group_access: Option<Access>,
        }
        #[derive(Deserialize)]
        struct Access {
            access_level: u64,
        }

        let path = status::project(self.api.http.forge(), repository)?;
        let answer = self.api.ask(Method::GET, &path, None::<&()>).await?;
        if !answer.status.is_success() {
            let what = format!("the question for `{repository}`");
            return Err(self.refused(&answer, repository, &what));
        }
        let project: Project = self.api.read(&answer)?;
        let level = project.permissions.and_then(|may| {
            let levels = [may.project_access, may.group_access].into_iter().flatten();
            levels.map(|access| access.access_level).max()
        });
        if level >= Some(DEVELOPER) {
            return Ok(format!("`{repository}` may be written"));
        }
        Err(SendError::Refused {
            scope: Scope::Repository,
            why: format!(
                "our user may not write statuses of `{repository}` at `{}`; make it a Developer there",
                self.api.http.forge()
            ),
        })
    }

    /// What was sent is there, in this pipeline.
    fn sent(&self, place: &Place, pipeline: Option<u64>, answer: &Answer) -> Sent {
        if let Some(pipeline) = pipeline {
            self.pipelines.insert(place.clone(), pipeline);
        }
        Sent {
            remote_id: pipeline.map(|id| id.to_string()),
            quota: answer.quota(),
        }
    }
}
