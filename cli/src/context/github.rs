//! GitHub Actions, and Forgejo and Gitea Actions, which set the same variables.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{AGAIN, Context, Env, real_commit, short_ref};

/// What we read of the event that started the workflow.
#[derive(Debug, Default, Deserialize)]
struct EventFile {
    pull_request: Option<PullRequest>,
    merge_group: Option<MergeGroup>,
    workflow_run: Option<WorkflowRun>,
    before: Option<String>,
}

#[derive(Debug, Deserialize)]
struct PullRequest {
    number: u64,
    head: Tip,
    base: Tip,
}

#[derive(Debug, Deserialize)]
struct Tip {
    #[serde(rename = "ref")]
    name: String,
    sha: String,
}

#[derive(Debug, Deserialize)]
struct MergeGroup {
    head_sha: String,
    head_ref: String,
    base_sha: String,
}

/// The run of another workflow that ended.
#[derive(Debug, Deserialize)]
struct WorkflowRun {
    id: u64,
    head_sha: String,
    head_branch: Option<String>,
    run_attempt: Option<u64>,
    head_repository: Option<Repository>,
    /// Empty for a pull request from a fork.
    #[serde(default)]
    pull_requests: Vec<Numbered>,
}

#[derive(Debug, Deserialize)]
struct Repository {
    full_name: String,
}

#[derive(Debug, Deserialize)]
struct Numbered {
    number: u64,
}

/// The label that names the run of a workflow whose result is submitted by another, for the daemon to ask the forge
/// about.
pub(crate) const RUN_ID: &str = "run-id";

/// What the environment and the event file say.
///
/// In a workflow that runs when another has ended (`workflow_run`) the commit is the one that the other ran on, which the
/// environment does not tell, and the other's number becomes the label [`RUN_ID`].
///
/// In a pull request the checked-out commit is a merge that lives nowhere else; the commit whose checks
/// these are is the head, and the merge becomes the label `merge`.
///
/// Only a person runs a run again: what is not the first attempt gets the label [`AGAIN`].
pub(super) fn context(env: Env<'_>, read: &dyn Fn(&str) -> Option<String>) -> Context {
    let var = |name: &str| env(&format!("GITHUB_{name}")).or_else(|| env(&format!("FORGEJO_{name}")));
    let event: EventFile = var("EVENT_PATH")
        .and_then(|path| read(&path))
        .and_then(|text| serde_json::from_str(&text).ok())
        .unwrap_or_default();
    let project = var("REPOSITORY");
    let sha = var("SHA");
    let mut labels = BTreeMap::new();
    if let (Some(server), Some(project), Some(run)) = (var("SERVER_URL"), &project, var("RUN_ID")) {
        labels.insert("run".to_owned(), format!("{server}/{project}/actions/runs/{run}"));
    }
    let attempt = var("RUN_ATTEMPT").and_then(|text| text.parse().ok());
    let attempts = [attempt, event.workflow_run.as_ref().and_then(|run| run.run_attempt)];
    if let Some(attempt) = attempts.into_iter().flatten().max().filter(|attempt| *attempt > 1) {
        labels.insert(AGAIN.to_owned(), format!("attempt {attempt}"));
    }
    if let Some(pr) = event.pull_request {
        if let Some(merge) = sha.filter(|sha| *sha != pr.head.sha) {
            labels.insert("merge".to_owned(), merge);
        }
        return Context {
            project,
            commit: Some(pr.head.sha),
            git_ref: Some(pr.head.name),
            base: Some(pr.base.sha),
            pull_request: Some(pr.number),
            labels,
        };
    }
    if let Some(run) = event.workflow_run {
        // A fork's `main` is not ours: as GitHub writes it, `owner:branch`.
        let owner = (run.head_repository.as_ref())
            .filter(|repository| Some(&repository.full_name) != project.as_ref())
            .and_then(|repository| repository.full_name.split('/').next());
        let git_ref = match (run.head_branch, owner) {
            (Some(branch), Some(owner)) => Some(format!("{owner}:{branch}")),
            (branch, _) => branch,
        };
        labels.insert(RUN_ID.to_owned(), run.id.to_string());
        return Context {
            project,
            commit: Some(run.head_sha),
            git_ref,
            base: None,
            pull_request: run.pull_requests.first().map(|pull| pull.number),
            labels,
        };
    }
    if let Some(group) = event.merge_group {
        return Context {
            project,
            commit: Some(group.head_sha),
            git_ref: Some(short_ref(&group.head_ref)),
            base: Some(group.base_sha),
            pull_request: None,
            labels,
        };
    }
    Context {
        project,
        commit: sha.and_then(real_commit),
        git_ref: var("REF").map(|full| short_ref(&full)),
        base: event.before.and_then(real_commit),
        pull_request: None,
        labels,
    }
}
