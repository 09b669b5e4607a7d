//! Pull requests, and runs of workflows.

use reqwest::StatusCode;
use serde::Deserialize;

use super::api::Api;
use super::refusal::{Tried, nothing_done};
use super::repository::Repository;
use crate::forge::{PullRequest, SendError, WorkflowRun, owner};

#[derive(Deserialize)]
struct Pull {
    number: u64,
    state: String,
    head: End,
    base: End,
}

#[derive(Deserialize)]
struct End {
    sha: String,
    #[serde(rename = "ref")]
    name: String,
    /// None where the fork was deleted.
    repo: Option<Numbered>,
}

#[derive(Deserialize)]
struct Numbered {
    id: u64,
    full_name: Option<String>,
}

impl Numbered {
    fn owner(&self) -> Option<String> {
        self.full_name.as_deref().and_then(owner)
    }
}

#[derive(Deserialize)]
struct Run {
    head_sha: String,
    event: String,
    head_branch: Option<String>,
    repository: Option<Numbered>,
    /// None where the fork was deleted.
    head_repository: Option<Numbered>,
    #[serde(default)]
    pull_requests: Option<Vec<RunPull>>,
}

#[derive(Deserialize)]
struct RunPull {
    number: u64,
}

pub(super) async fn pull_request(
    api: &Api,
    repository: &Repository<'_>,
    number: u64,
) -> Result<Option<PullRequest>, SendError> {
    let answer = api.get(repository, &format!("/pulls/{number}")).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !answer.status.is_success() {
        let tried = Tried {
            repository,
            what: "a question for a pull request",
            needs: Some("pull_requests: read"),
        };
        return Err(nothing_done(api.refused(&answer, &tried)));
    }
    let pull: Pull = api.read(&answer, "a pull request")?;
    let base = pull.base.repo.map(|repo| repo.id);
    Ok(Some(PullRequest {
        number: pull.number,
        is_open: pull.state == "open",
        is_fork: pull.head.repo.as_ref().is_none_or(|repo| Some(repo.id) != base),
        head_owner: pull.head.repo.as_ref().and_then(Numbered::owner),
        head: pull.head.sha,
        head_ref: Some(pull.head.name),
        base: Some(pull.base.sha),
        base_ref: Some(pull.base.name),
    }))
}

pub(super) async fn workflow_run(
    api: &Api,
    repository: &Repository<'_>,
    number: u64,
) -> Result<Option<WorkflowRun>, SendError> {
    let answer = api.get(repository, &format!("/actions/runs/{number}")).await?;
    if answer.status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    if !answer.status.is_success() {
        let tried = Tried {
            repository,
            what: "a question for a run of a workflow",
            needs: Some("actions: read"),
        };
        return Err(nothing_done(api.refused(&answer, &tried)));
    }
    let run: Run = api.read(&answer, "a run of a workflow")?;
    let base = run.repository.map(|repo| repo.id);
    Ok(Some(WorkflowRun {
        is_fork: run.head_repository.as_ref().is_none_or(|repo| Some(repo.id) != base),
        head_owner: run.head_repository.as_ref().and_then(Numbered::owner),
        head: run.head_sha,
        event: run.event,
        head_branch: run.head_branch,
        pull_requests: run
            .pull_requests
            .unwrap_or_default()
            .into_iter()
            .map(|pull| pull.number)
            .collect(),
    }))
}
