//! Commit statuses: one line each, of which the newest of a context counts. They are only ever added, at most 1,000 for a
//! commit and context; after that GitHub answers 422.

use nixci_protocol::nixci::report::StatusState;
use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};

use super::api::Api;
use super::checks::{commit_of, web};
use super::output::line;
use super::refusal::{Tried, nothing_done};
use super::repository::Repository;
use crate::forge::{Found, Outgoing, Quota, SendError, Sent};

const NEEDS: &str = "statuses: write";
/// Characters of a description.
const DESCRIPTION_CHARS: usize = 140;
/// Characters of a context.
const CONTEXT_CHARS: usize = 255;
/// Statuses of one page of a list, the most there can be.
const PAGE: usize = 100;
/// Pages that are read. A status that is further down was followed by hundreds of others; adding it again does no harm.
const PAGES: usize = 5;

#[derive(Serialize)]
struct Body<'a> {
    state: &'static str,
    context: String,
    description: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_url: Option<&'a str>,
}

#[derive(Deserialize)]
struct Listed {
    state: String,
    context: String,
    description: Option<String>,
    target_url: Option<String>,
}

impl<'a> Body<'a> {
    fn new(status: &'a Outgoing) -> Self {
        let content = &status.content;
        Self {
            state: word(content.state),
            context: line(&status.context, CONTEXT_CHARS),
            description: line(&content.description, DESCRIPTION_CHARS),
            target_url: web(content.url.as_deref()),
        }
    }
}

/// Adds a status.
pub(super) async fn send(api: &Api, repository: &Repository<'_>, status: &Outgoing) -> Result<Sent, SendError> {
    let path = format!("/statuses/{}", commit_of(api.forge(), status)?);
    let answer = api
        .ask(repository, Method::POST, &path, Some(&Body::new(status)))
        .await?;
    if !answer.status.is_success() {
        let tried = Tried {
            repository,
            what: "a commit status",
            needs: Some(NEEDS),
        };
        return Err(api.refused(&answer, &tried));
    }
    Ok(Sent {
        // Nothing can be done with a status that is there.
        remote_id: None,
        quota: answer.quota(),
    })
}

/// The newest status of this context.
pub(super) async fn look_up(
    api: &Api,
    repository: &Repository<'_>,
    status: &Outgoing,
) -> Result<Option<Found>, SendError> {
    let body = Body::new(status);
    let commit = commit_of(api.forge(), status)?;
    for page in 1..=PAGES {
        let path = format!("/commits/{commit}/statuses?per_page={PAGE}&page={page}");
        let answer = api.get(repository, &path).await?;
        // A commit that is not there has no statuses.
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY) {
            return Ok(None);
        }
        if !answer.status.is_success() {
            let tried = Tried {
                repository,
                what: "a question for commit statuses",
                needs: Some(NEEDS),
            };
            return Err(nothing_done(api.refused(&answer, &tried)));
        }
        let quota: Quota = answer.quota();
        let list: Vec<Listed> = api.read(&answer, "a list of commit statuses")?;
        let is_last = list.len() < PAGE;
        // The newest is first, and a context is the same in capitals.
        let found = list
            .into_iter()
            .find(|listed| listed.context.to_lowercase() == body.context.to_lowercase());
        if let Some(found) = found {
            return Ok(Some(Found {
                remote_id: None,
                is_same: found.state == body.state
                    && found.description.as_deref().unwrap_or_default() == body.description
                    && found.target_url.as_deref().filter(|url| !url.is_empty()) == body.target_url,
                state: state_of(&found.state),
                quota,
            }));
        }
        if is_last {
            break;
        }
    }
    Ok(None)
}

/// The nearest of GitHub's four words.
fn word(state: StatusState) -> &'static str {
    match state {
        // What waits for somebody is not wrong, and blocks.
        StatusState::Queued | StatusState::Running | StatusState::ActionRequired => "pending",
        // Nothing else would not block.
        StatusState::Success | StatusState::Neutral => "success",
        StatusState::Failure => "failure",
        StatusState::Error | StatusState::Cancelled => "error",
    }
}

fn state_of(word: &str) -> Option<StatusState> {
    Some(match word {
        "pending" => StatusState::Running,
        "success" => StatusState::Success,
        "failure" => StatusState::Failure,
        "error" => StatusState::Error,
        _ => return None,
    })
}
