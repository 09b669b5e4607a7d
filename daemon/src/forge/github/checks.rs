//! Check runs.
//!
//! A run is changed by its number as long as it is not completed. What begins anew after that (somebody asked for it
//! again) is a new run of the same name: GitHub shows "Re-run" on new runs only, and counts the newest of a name.

mod body;

use std::fmt::Write as _;

use nixci_protocol::nixci::report::StatusState;
use reqwest::{Method, StatusCode};
use serde::Deserialize;

use self::body::Body;
pub(super) use self::body::{commit_of, web};
use super::api::Api;
use super::refusal::{Tried, nothing_done};
use super::repository::Repository;
use crate::forge::{Found, Outgoing, Quota, SendError, Sent};

const NEEDS: &str = "checks: write";
/// Runs of one page of a list, the most there can be.
const PAGE: usize = 100;
/// Pages of a list that are read: GitHub keeps at most 1,000 runs of one name in a suite.
const PAGES: usize = 10;

#[derive(Deserialize)]
struct Made {
    id: u64,
}

/// Creates a run, completed at once where that is what is to be said, or changes the one that is known. One that GitHub has
/// removed is created again.
///
/// At most 50 annotations go with it; more follow in further requests, after the run says what it is to say. Where one of
/// those fails the rest is left out, with a warning: the verdict is there, and nothing of it is repeated for a remark.
pub(super) async fn send(api: &Api, repository: &Repository<'_>, status: &Outgoing) -> Result<Sent, SendError> {
    let body = Body::new(api.forge(), status)?;
    let tried = Tried {
        repository,
        what: "a check run",
        needs: Some(NEEDS),
    };
    let known = status.remote_id.as_deref().and_then(|id| id.parse::<u64>().ok());
    let changed = match known.filter(|_| !begins_anew(status)) {
        Some(id) => {
            let path = format!("/check-runs/{id}");
            let answer = api.ask(repository, Method::PATCH, &path, Some(&body.change())).await?;
            match answer.status {
                StatusCode::NOT_FOUND | StatusCode::GONE => None,
                _ => Some(answer),
            }
        }
        None => None,
    };
    let answer = match changed {
        Some(answer) => answer,
        None => {
            api.ask(repository, Method::POST, "/check-runs", Some(&body.create()))
                .await?
        }
    };
    if !answer.status.is_success() {
        return Err(api.refused(&answer, &tried));
    }
    // It happened. An answer that cannot be read must not make it happen twice.
    let made: Made = answer.json().map_err(|_| SendError::Lost {
        why: format!("`{}` took a check run and did not tell its number", api.forge()),
    })?;
    let mut quota = answer.quota();
    for more in body.more_annotations() {
        let path = format!("/check-runs/{}", made.id);
        let error = match api.ask(repository, Method::PATCH, &path, Some(&more)).await {
            Ok(answer) if answer.status.is_success() => {
                quota = answer.quota();
                continue;
            }
            Ok(answer) => api.refused(&answer, &tried),
            Err(error) => error,
        };
        tracing::warn!(
            forge = api.forge(),
            %repository,
            run = made.id,
            %error,
            "a check run has only some of its annotations"
        );
        break;
    }
    Ok(Sent {
        remote_id: Some(made.id.to_string()),
        quota,
    })
}

/// Whether a completed run is left as it is and a new one made: what runs again, and what has annotations, which GitHub
/// adds to those that are there.
fn begins_anew(status: &Outgoing) -> bool {
    status.sent_state.is_some_and(StatusState::is_final)
        && (!status.content.state.is_final() || !status.content.annotations.is_empty())
}

#[derive(Deserialize)]
struct List {
    check_runs: Vec<Run>,
}

/// A run as a list shows it.
#[derive(Deserialize)]
pub(super) struct Run {
    id: u64,
    external_id: Option<String>,
    status: String,
    conclusion: Option<String>,
    output: RunOutput,
}

#[derive(Deserialize)]
struct RunOutput {
    title: Option<String>,
    summary: Option<String>,
    text: Option<String>,
    #[serde(default)]
    annotations_count: usize,
}

/// The newest run of this name that is ours by its `external_id`.
pub(super) async fn look_up(
    api: &Api,
    repository: &Repository<'_>,
    status: &Outgoing,
) -> Result<Option<Found>, SendError> {
    let body = Body::new(api.forge(), status)?;
    let tried = Tried {
        repository,
        what: "a question for check runs",
        needs: Some(NEEDS),
    };
    let mut newest: Option<Run> = None;
    let mut quota = Quota::default();
    for page in 1..=PAGES {
        let app = api.app_id().map_or_else(String::new, |app| format!("&app_id={app}"));
        let path = format!(
            "/commits/{}/check-runs?check_name={}&filter=all&per_page={PAGE}&page={page}{app}",
            body.commit(),
            encoded(body.name())
        );
        let answer = api.get(repository, &path).await?;
        quota = answer.quota();
        // A commit that is not there has no runs.
        if matches!(answer.status, StatusCode::NOT_FOUND | StatusCode::UNPROCESSABLE_ENTITY) {
            break;
        }
        if !answer.status.is_success() {
            return Err(nothing_done(api.refused(&answer, &tried)));
        }
        let list: List = api.read(&answer, "a list of check runs")?;
        let is_last = list.check_runs.len() < PAGE;
        newest = list
            .check_runs
            .into_iter()
            .filter(|run| run.external_id.as_deref() == Some(status.external_id.as_str()))
            .chain(newest)
            .max_by_key(|run| run.id);
        if is_last {
            break;
        }
    }
    // A list may be older than the run that GitHub has told the number of.
    let known = status.remote_id.as_deref().and_then(|id| id.parse::<u64>().ok());
    if let Some(id) = known.filter(|id| newest.as_ref().is_none_or(|run| run.id < *id)) {
        let answer = api.get(repository, &format!("/check-runs/{id}")).await?;
        quota = answer.quota();
        match answer.status {
            StatusCode::NOT_FOUND | StatusCode::GONE => {}
            StatusCode::OK => newest = Some(api.read(&answer, "a check run")?),
            _ => return Err(nothing_done(api.refused(&answer, &tried))),
        }
    }
    Ok(newest.map(|run| Found {
        remote_id: Some(run.id.to_string()),
        state: body::state_of(&run),
        is_same: body.is_said_by(&run),
        quota,
    }))
}

/// A value in the query of an address.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len() + 16);
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}
