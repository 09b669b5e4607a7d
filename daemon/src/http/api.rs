//! `/api/v1`: the answers of the control requests, as JSON.

use std::io;

use axum::body::Body;
use axum::extract::{Path, Query, State};
use axum::http::header::{CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use bytes::Bytes;
use futures_util::stream;
use nixci_protocol::nixci::control::{
    AttemptSummary, BuildDetail, EvaluationSummary, JobStatus, ProjectSummary, Selector, StoreStatus,
};
use nixci_protocol::nixci::report::StatusReport;
use nixci_protocol::nixci::verdict::Verdict;
use nixci_store::logs::Entry;
use serde::{Deserialize, Serialize};

use super::error::HttpError;
use super::{Site, select};

/// Evaluations that are listed unless told otherwise.
const LIST: u32 = 50;

pub(super) fn routes() -> Router<Site> {
    Router::new()
        .route("/evaluations", get(evaluations))
        .route("/evaluations/{id}", get(evaluation))
        .route("/evaluations/{id}/jobs", get(jobs))
        .route("/evaluations/{id}/verdict", get(verdict))
        .route("/evaluations/{id}/statuses", get(statuses))
        .route("/builds/{name}", get(build))
        .route("/attempts/{id}", get(attempt))
        .route("/projects", get(projects))
        .route("/stores", get(stores))
}

type Answer<T> = Result<Json<T>, HttpError>;

#[derive(Debug, Deserialize)]
struct ListQuery {
    project: Option<String>,
    limit: Option<u32>,
}

async fn evaluations(State(site): State<Site>, Query(query): Query<ListQuery>) -> Answer<Vec<EvaluationSummary>> {
    let limit = query.limit.unwrap_or(LIST);
    Ok(Json(site.reader.evaluations(query.project.as_deref(), limit).await?))
}

fn selector(id: &str) -> Result<Selector, HttpError> {
    Ok(Selector::Evaluation(select::evaluation(id)?))
}

async fn evaluation(State(site): State<Site>, Path(id): Path<String>) -> Answer<EvaluationSummary> {
    Ok(Json(site.reader.status(&selector(&id)?).await?))
}

async fn jobs(State(site): State<Site>, Path(id): Path<String>) -> Answer<Vec<JobStatus>> {
    Ok(Json(site.reader.jobs(&selector(&id)?).await?))
}

async fn statuses(State(site): State<Site>, Path(id): Path<String>) -> Answer<Vec<StatusReport>> {
    Ok(Json(site.reader.reports(&selector(&id)?).await?))
}

#[derive(Debug, Deserialize)]
pub(super) struct BaseQuery {
    pub(super) base: Option<String>,
}

async fn verdict(State(site): State<Site>, Path(id): Path<String>, Query(query): Query<BaseQuery>) -> Answer<Verdict> {
    let head = selector(&id)?;
    let base = base(&site, &head, query.base.as_deref()).await?;
    Ok(Json(site.reader.verdict(&head, base.as_ref()).await?))
}

/// What the query asks to compare with: a commit is one of the same project.
pub(super) async fn base(site: &Site, head: &Selector, text: Option<&str>) -> Result<Option<Selector>, HttpError> {
    match text.filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => {
            let project = site.reader.find(head).await?.submission.project;
            Ok(Some(select::base(text, &project)))
        }
    }
}

async fn build(State(site): State<Site>, Path(name): Path<String>) -> Answer<BuildDetail> {
    Ok(Json(site.reader.build(&full_path(&site, &name)).await?))
}

/// The full path of `HASH-NAME.drv`.
pub(super) fn full_path(site: &Site, name: &str) -> String {
    format!("{}/{name}", site.reader.store_dir())
}

/// One attempt and whose it is.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Attempt {
    drv_path: String,
    #[serde(flatten)]
    attempt: AttemptSummary,
}

async fn attempt(State(site): State<Site>, Path(id): Path<String>) -> Answer<Attempt> {
    let (attempt, drv_path) = site.reader.attempt(select::attempt(&id)?).await?;
    Ok(Json(Attempt { drv_path, attempt }))
}

async fn projects(State(site): State<Site>) -> Answer<Vec<ProjectSummary>> {
    Ok(Json(site.reader.projects().await?))
}

async fn stores(State(site): State<Site>) -> Answer<Vec<StoreStatus>> {
    Ok(Json(site.reader.stores().await?))
}

/// An entry of a log as plain text.
pub(super) fn plain(entry: Entry) -> String {
    match entry {
        Entry::Line(line) => line + "\n",
        Entry::Phase(_) => String::new(),
        other @ (Entry::Truncated { .. } | Entry::Unwritten | Entry::Broken) => {
            other.remark().map(|remark| format!("[{remark}]\n")).unwrap_or_default()
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct LogQuery {
    follow: Option<String>,
}

/// A log as plain text, as it was printed; with `?follow` until a running attempt ends.
pub(super) async fn log(
    State(site): State<Site>,
    Path(id): Path<String>,
    Query(query): Query<LogQuery>,
) -> Result<Response, HttpError> {
    let id = select::attempt(&id)?;
    site.reader.attempt(id).await?;
    let slot = site.stream_slot()?;
    let follows = query
        .follow
        .is_some_and(|follow| !matches!(follow.as_str(), "0" | "false"));
    let log = if follows {
        site.reader.follow_log(id)
    } else {
        site.reader.read_log(id)
    };
    let pieces = stream::try_unfold((log, slot), async |(mut log, slot)| {
        let piece = match log.next().await.map_err(io::Error::other)? {
            None => return Ok::<_, io::Error>(None),
            Some(entry) => plain(entry),
        };
        Ok(Some((Bytes::from(piece), (log, slot))))
    });
    let headers = [
        (CONTENT_TYPE, "text/plain; charset=utf-8"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}
