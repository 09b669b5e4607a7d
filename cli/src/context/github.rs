//! GitHub Actions, and Forgejo and Gitea Actions, which set the same variables.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Context, Env, real_commit, short_ref};

/// What we read of the event that started the workflow.
#[derive(Debug, Default, Deserialize)]
struct EventFile {
    pull_request: Option<PullRequest>,
    merge_group: Option<MergeGroup>,
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

/// What the environment and the event file say.
///
/// In a pull request the checked-out commit is a merge that lives nowhere else; the commit whose checks
/// these are is the head, and the merge becomes the label `merge`.
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
