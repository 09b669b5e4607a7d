//! GitHub and GitHub Enterprise Server: check runs of an App, or commit statuses.
//!
//! Facts about the service are from its REST reference (API version 2022-11-28) and its `OpenAPI` description, which the
//! tests hold every request against.
//!
//! | Ours | Check run | Commit status |
//! |---|---|---|
//! | queued | `queued` | `pending` |
//! | running | `in_progress` | `pending` |
//! | success | `success` | `success` |
//! | failure | `failure` | `failure` |
//! | error | `cancelled` | `error` |
//! | cancelled | `cancelled` | `error` |
//! | action required | `action_required` | `pending` |
//! | neutral | `neutral` | `success` |
//!
//! An error says nothing of the code, so it is no `failure`; of what GitHub has, `cancelled` is what blocks a required check
//! without that word, and the title says why. A commit status that waits for somebody is `pending`, which blocks too.

mod api;
mod app;
mod button;
mod checks;
mod output;
mod pulls;
mod refusal;
mod repository;
mod statuses;
mod tokens;

use reqwest::Method;
use serde::Deserialize;

use super::{Found, OpenError, Outgoing, PullRequest, Scope, SendError, Sent, WorkflowRun};
use crate::config::{self, Form};
use api::Api;
use refusal::nothing_done;
use repository::Repository;

pub use button::Button;

/// One identity at one GitHub.
#[derive(Debug)]
pub struct GitHub {
    api: Api,
    form: Form,
}

impl GitHub {
    /// Reads the private key of the App, or the token. Asks nobody; blocks.
    ///
    /// Fails where that cannot be read, everybody can read it, or the key is not a private RSA key in PEM.
    pub fn open(forge: &config::Forge) -> Result<Self, OpenError> {
        Ok(Self {
            api: Api::open(forge)?,
            form: forge.form,
        })
    }

    /// Makes a status say what it is to say: creates a check run or changes the one that is known, or adds a commit status.
    ///
    /// Cancelling leaves open whether it happened, as [`SendError::Lost`] does.
    pub async fn send(&self, status: &Outgoing) -> Result<Sent, SendError> {
        let repository = Repository::parse(self.api.forge(), &status.repository)?;
        match self.form {
            Form::Checks => checks::send(&self.api, &repository, status).await,
            Form::Statuses => statuses::send(&self.api, &repository, status).await,
        }
    }

    /// What GitHub has of a status whose answer was lost. Changes nothing.
    pub async fn look_up(&self, status: &Outgoing) -> Result<Option<Found>, SendError> {
        let repository = Repository::parse(self.api.forge(), &status.repository)?;
        match self.form {
            Form::Checks => checks::look_up(&self.api, &repository, status).await,
            Form::Statuses => statuses::look_up(&self.api, &repository, status).await,
        }
    }

    /// A pull request as it is now; none where there is no such. Needs `pull_requests: read` where the repository is
    /// private.
    pub async fn pull_request(&self, repository: &str, number: u64) -> Result<Option<PullRequest>, SendError> {
        let repository = Repository::parse(self.api.forge(), repository)?;
        pulls::pull_request(&self.api, &repository, number).await
    }

    /// A run of a workflow; none where there is no such. Needs `actions: read` where the repository is private.
    pub async fn workflow_run(&self, repository: &str, run: u64) -> Result<Option<WorkflowRun>, SendError> {
        let repository = Repository::parse(self.api.forge(), repository)?;
        pulls::workflow_run(&self.api, &repository, run).await
    }

    /// Who we are there, and with which permissions: a line for `nixci doctor`.
    ///
    /// Fails where GitHub does not know us, or where we may not write what is configured.
    pub async fn check(&self) -> Result<String, SendError> {
        match self.api.app_id() {
            Some(id) => self.check_app(id).await,
            None => self.check_token().await,
        }
    }

    async fn check_app(&self, id: u64) -> Result<String, SendError> {
        #[derive(Deserialize)]
        struct App {
            name: String,
            #[serde(default)]
            permissions: std::collections::BTreeMap<String, String>,
            #[serde(default)]
            events: Vec<String>,
            installations_count: Option<u64>,
        }
        let answer = self.api.ask_as_app(Method::GET, "/app").await?;
        if !answer.status.is_success() {
            return Err(nothing_done(answer.refused(self.api.forge(), "a question for the App")));
        }
        let app: App = self.api.read(&answer, "the App")?;
        let has = |name: &str| app.permissions.get(name).map_or("none", String::as_str).to_owned();
        let needed = match self.form {
            Form::Checks => "checks",
            Form::Statuses => "statuses",
        };
        if has(needed) != "write" {
            return Err(SendError::Refused {
                scope: Scope::Forge,
                why: format!(
                    "`{}`: the App `{}` lacks `{needed}: write`; grant it in the App's settings, and accept it where the \
                     App is installed",
                    self.api.forge(),
                    output::line(&app.name, 100)
                ),
            });
        }
        let optional: Vec<String> = ["pull_requests", "actions"]
            .into_iter()
            .map(|name| format!("{name}: {}", has(name)))
            .collect();
        Ok(format!(
            "App `{}` ({id}), {needed}: write, {}; installed {} times; events: {}",
            output::line(&app.name, 100),
            optional.join(", "),
            app.installations_count
                .map_or_else(|| "?".to_owned(), |count| count.to_string()),
            if app.events.is_empty() {
                "none".to_owned()
            } else {
                output::line(&app.events.join(", "), 300)
            }
        ))
    }

    async fn check_token(&self) -> Result<String, SendError> {
        #[derive(Deserialize)]
        struct User {
            login: String,
        }
        let answer = self.api.ask_as_user("/user").await?;
        if !answer.status.is_success() {
            return Err(nothing_done(
                answer.refused(self.api.forge(), "a question for the user of the token"),
            ));
        }
        let user: User = self.api.read(&answer, "the user")?;
        // Only classic tokens have scopes; what a fine-grained one may do is not told by any call.
        let scopes = answer
            .headers
            .get("x-oauth-scopes")
            .and_then(|value| value.to_str().ok());
        if let Some(scopes) = scopes.filter(|scopes| !scopes.trim().is_empty())
            && !scopes
                .split(',')
                .any(|scope| matches!(scope.trim(), "repo" | "repo:status"))
        {
            return Err(SendError::Refused {
                scope: Scope::Forge,
                why: format!(
                    "`{}`: the token of `{}` has the scopes {scopes}; it needs `repo:status`, or `repo` for private \
                     repositories",
                    self.api.forge(),
                    output::line(&user.login, 100)
                ),
            });
        }
        Ok(format!(
            "token of `{}`, scopes: {}",
            output::line(&user.login, 100),
            scopes.map_or_else(|| "not told".to_owned(), |scopes| output::line(scopes, 300))
        ))
    }
}
