//! GitLab's events, as its documentation describes them under "Webhook events". Which one it is stands in the body as
//! `object_kind`; system hooks have the same bodies under another header.

use serde::Deserialize;

use super::ask::{Ask, Malformed, PullRequest, Push, Reading, Repository, commit, commit_or_none, json, name, time};

/// What the header says of events that are looked at.
const READ: [&str; 4] = ["Push Hook", "Tag Push Hook", "Merge Request Hook", "System Hook"];

#[derive(Deserialize)]
struct Kind {
    object_kind: Option<String>,
}

#[derive(Deserialize)]
struct Project {
    id: u64,
    path_with_namespace: String,
}

#[derive(Deserialize)]
struct PushEvent {
    #[serde(rename = "ref")]
    git_ref: String,
    before: Option<String>,
    after: Option<String>,
    project: Project,
}

#[derive(Deserialize)]
struct MergeRequestEvent {
    project: Project,
    object_attributes: MergeRequest,
}

#[derive(Deserialize)]
struct MergeRequest {
    iid: u64,
    state: String,
    action: Option<String>,
    oldrev: Option<String>,
    updated_at: Option<String>,
    source_branch: String,
    target_branch: String,
    source_project_id: Option<u64>,
    target_project_id: u64,
    /// None where the branch is gone.
    last_commit: Option<LastCommit>,
}

#[derive(Deserialize)]
struct LastCommit {
    id: String,
}

/// What an event asks for.
pub(super) fn read(event: &str, body: &[u8]) -> Result<Reading, Malformed> {
    if !READ.contains(&event) {
        return Ok(Reading::Nothing("nothing is done for such events".to_owned()));
    }
    let kind: Kind = json(body)?;
    match kind.object_kind.as_deref() {
        Some("push" | "tag_push") => push(body),
        Some("merge_request") => merge_request(body),
        Some(_) | None => Ok(Reading::Nothing("nothing is done for such events".to_owned())),
    }
}

fn push(body: &[u8]) -> Result<Reading, Malformed> {
    let told: PushEvent = json(body)?;
    Ok(Reading::Ask(Ask::Push(Push {
        repository: repository(told.project)?,
        git_ref: name("ref", told.git_ref)?,
        old: commit_or_none("before", told.before)?,
        new: commit_or_none("after", told.after)?,
    })))
}

fn merge_request(body: &[u8]) -> Result<Reading, Malformed> {
    let told: MergeRequestEvent = json(body)?;
    let request = told.object_attributes;
    let Some(last) = request.last_commit else {
        return Ok(Reading::Nothing("the merge request has no commit".to_owned()));
    };
    Ok(Reading::Ask(Ask::PullRequest(PullRequest {
        repository: repository(told.project)?,
        number: request.iid,
        head: commit("object_attributes.last_commit.id", &last.id)?,
        head_ref: Some(name("object_attributes.source_branch", request.source_branch)?),
        base: None,
        base_ref: Some(name("object_attributes.target_branch", request.target_branch)?),
        // Others are `closed`, `merged`, and `locked` while it is being merged.
        is_open: request.state == "opened",
        is_fork: request.source_project_id != Some(request.target_project_id),
        changed: request.updated_at.as_deref().and_then(time),
        before: commit_or_none("object_attributes.oldrev", request.oldrev)?,
        is_new: request.action.as_deref() == Some("open"),
    })))
}

fn repository(project: Project) -> Result<Repository, Malformed> {
    Ok(Repository {
        name: name("project.path_with_namespace", project.path_with_namespace)?,
        id: project.id,
    })
}
