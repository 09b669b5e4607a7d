//! `/e/ID`: what an evaluation says, why, and its jobs.

mod address;
mod causes;
mod jobs;
mod told;

use askama::Template;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{Html, IntoResponse, Response};
use nixci_protocol::nixci::control::{Millis, RunningBuild, Selector};
use nixci_protocol::nixci::verdict::{Bucket, Conclusion, derivation_name, to_markdown};
use serde::Deserialize;

use self::address::{Address, bucket, bucket_name};
use self::causes::{CauseView, ErrorView, ReasonView};
use self::told::ToldView;
use super::{build_url, evaluation_name};
use crate::http::error::HttpError;
use crate::http::select::{self, Form};
use crate::http::show::bar::{self, Segment};
use crate::http::show::mark::Mark;
use crate::http::show::time::{When, duration, now};
use crate::http::show::{commit, count, segment, shorten};
use crate::http::{Site, api, project_path};
use crate::read::View;

/// Bytes of an evaluation as Markdown: what a check run takes.
const MARKDOWN_BYTES: usize = 60_000;
/// Running builds that are shown.
const RUNNING: usize = 12;

/// What may follow `?` in the address of an evaluation.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::http) struct PageQuery {
    /// What to compare with: the number of an evaluation, or a commit.
    pub(super) base: Option<String>,
    /// The bucket to show.
    pub(super) show: Option<String>,
    /// What attributes and derivations shall contain.
    pub(super) q: Option<String>,
    /// The page of the list, from 1.
    pub(super) page: Option<u32>,
}

/// A commit as it is shown.
pub(in crate::http) struct CommitView {
    pub(in crate::http) short: String,
    pub(in crate::http) full: String,
}

pub(in crate::http) struct BaseView {
    text: String,
    url: Option<String>,
}

pub(in crate::http) struct LegendItem {
    mark: Mark,
    count: String,
    url: String,
    selected: bool,
}

pub(in crate::http) struct RunningView {
    name: String,
    url: String,
    store: String,
    phase: String,
    last_line: String,
    took: String,
}

/// Everything on the page.
pub(in crate::http) struct EvaluationView {
    name: String,
    project: String,
    project_url: String,
    url: String,
    /// `?base=…` where another base was asked for.
    base_query: String,
    asked_base: Option<String>,
    events: String,
    pub(in crate::http) live: bool,
    mark: Mark,
    /// The verdict's sentence, up to what only qualifies it, and the rest.
    lead: String,
    rest: Option<String>,
    bar_label: String,
    pull_request: Option<u64>,
    git_ref: Option<String>,
    commit: Option<CommitView>,
    commit_url: String,
    base: Option<BaseView>,
    source: String,
    created: When,
    took: Option<String>,
    bar: Vec<Segment>,
    total: String,
    all_url: String,
    legend: Vec<LegendItem>,
    running: Vec<RunningView>,
    builds_left: String,
    error: Option<String>,
    causes: Vec<CauseView>,
    causes_total: usize,
    errors: Vec<ErrorView>,
    errors_total: usize,
    unanswered: Vec<ReasonView>,
    unanswered_total: String,
    has_base: bool,
    told: Vec<ToldView>,
    told_total: usize,
    told_url: String,
    show: Option<String>,
    q: String,
    filtered: bool,
    jobs: Vec<String>,
    /// The identity of each row in `jobs`.
    pub(in crate::http) ids: Vec<String>,
    pages: usize,
    first: String,
    last: String,
    found: String,
    prev: Option<String>,
    next: Option<String>,
}

#[derive(Template)]
#[template(path = "evaluation.html")]
struct Page<'a> {
    v: &'a EvaluationView,
}

/// The parts that change while an evaluation runs.
#[derive(Template)]
#[template(path = "evaluation_now.html")]
struct Now<'a> {
    v: &'a EvaluationView,
}

#[derive(Template)]
#[template(path = "evaluation_causes.html")]
struct Causes<'a> {
    v: &'a EvaluationView,
}

impl EvaluationView {
    /// The verdict, its counts, and what runs.
    pub(in crate::http) fn now(&self) -> askama::Result<String> {
        Now { v: self }.render()
    }

    /// Why it is as it is.
    pub(in crate::http) fn causes(&self) -> askama::Result<String> {
        Causes { v: self }.render()
    }

    /// The rows of the list: identity and HTML.
    pub(in crate::http) fn rows(&self) -> impl Iterator<Item = (&str, &str)> {
        self.ids
            .iter()
            .map(String::as_str)
            .zip(self.jobs.iter().map(String::as_str))
    }
}

pub(in crate::http) async fn evaluation(
    State(site): State<Site>,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, HttpError> {
    let (id, form) = select::form(&id);
    show(&site, &Selector::Evaluation(select::evaluation(id)?), form, query).await
}

/// One evaluation in the form that is asked for.
pub(super) async fn show(site: &Site, which: &Selector, form: Form, query: PageQuery) -> Result<Response, HttpError> {
    match form {
        Form::Html => {
            let view = load(site, which, &query).await?;
            Ok(Html(Page { v: &view }.render()?).into_response())
        }
        Form::Json | Form::Markdown => {
            let base = api::base(site, which, query.base.as_deref()).await?;
            let verdict = site.reader.verdict(which, base.as_ref()).await?;
            Ok(match form {
                Form::Markdown => {
                    let kind = [(CONTENT_TYPE, "text/markdown; charset=utf-8")];
                    (kind, to_markdown(&verdict, MARKDOWN_BYTES)).into_response()
                }
                Form::Json | Form::Html => Json(verdict).into_response(),
            })
        }
    }
}

/// Reads an evaluation and prepares its page.
pub(in crate::http) async fn load(
    site: &Site,
    which: &Selector,
    query: &PageQuery,
) -> Result<EvaluationView, HttpError> {
    let show = match query.show.as_deref().filter(|show| !show.is_empty() && *show != "all") {
        None => None,
        Some(name) => {
            Some(bucket(name).ok_or_else(|| HttpError::bad(format!("`{}` is nothing to show", shorten(name, 60))))?)
        }
    };
    let base = api::base(site, which, query.base.as_deref()).await?;
    let view = site.reader.view(which, base.as_ref()).await?;
    let (running, builds_left) = if view.summary.ended.is_none() {
        site.reader
            .running(&Selector::Evaluation(view.summary.evaluation))
            .await?
    } else {
        (Vec::new(), 0)
    };
    let listed = jobs::select(&view, show, query);
    let rows = site
        .reader
        .statuses(listed.rows.iter().map(|at| view.jobs[*at].clone()).collect())
        .await?;
    let has_base = view.verdict.base.is_some();
    let mut ids = Vec::with_capacity(rows.len());
    let mut jobs = Vec::with_capacity(rows.len());
    for (at, status) in listed.rows.iter().zip(&rows) {
        let (id, html) = jobs::row(status, has_base.then(|| view.buckets[*at]))?;
        ids.push(id);
        jobs.push(html);
    }
    for attr in &listed.removed {
        let (id, html) = jobs::removed_row(attr)?;
        ids.push(id);
        jobs.push(html);
    }
    let reports = site.reader.reports(which).await?;
    let mut page = prepare(&view, query, show, &running, builds_left, listed.place, (ids, jobs));
    (page.told, page.told_total) = told::views(reports, now());
    Ok(page)
}

fn prepare(
    view: &View,
    query: &PageQuery,
    show: Option<Bucket>,
    running: &[RunningBuild],
    builds_left: u64,
    place: jobs::Place,
    (ids, jobs): (Vec<String>, Vec<String>),
) -> EvaluationView {
    let (summary, verdict) = (&view.summary, &view.verdict);
    let now = now();
    let url = format!("/e/{}", summary.evaluation.0);
    let at = Address { url: &url, query };
    let (errors, errors_total) = causes::errors(view);
    let (unanswered, unanswered_total) = causes::unanswered(verdict);
    let project_url = project_path(&summary.project);
    let sentence = shorten(&verdict.sentence, 600);
    let (lead, rest) = match sentence.find("; ") {
        Some(at) => (&sentence[..=at], Some(&sentence[at + 2..])),
        None => (sentence.as_str(), None),
    };
    EvaluationView {
        name: evaluation_name(summary.commit.as_deref(), summary.evaluation.0),
        project: shorten(&summary.project, 120),
        base_query: at.with_base_only(),
        asked_base: query.base.clone(),
        events: at.events(),
        live: summary.ended.is_none() || verdict.conclusion == Conclusion::Running,
        mark: verdict.conclusion.into(),
        lead: lead.to_owned(),
        rest: rest.map(str::to_owned),
        bar_label: format!("{} of {} jobs fine", count(verdict.fine()), count(verdict.head.jobs)),
        pull_request: summary.pull_request,
        git_ref: summary.git_ref.as_deref().map(|git_ref| shorten(git_ref, 80)),
        commit: summary.commit.as_deref().map(commit_view),
        commit_url: format!(
            "{project_url}/c/{}",
            segment(summary.commit.as_deref().unwrap_or_default())
        ),
        project_url,
        base: base_view(view),
        source: shorten(&summary.source, 120),
        created: When::new(summary.created, now),
        took: Some(match summary.ended {
            Some(ended) => format!("took {}", duration(ended - summary.created)),
            None => format!("running for {}", duration(now - summary.created)),
        }),
        bar: bar::of_verdict(verdict),
        total: count(verdict.head.jobs),
        all_url: at.with_show(None),
        legend: Bucket::ALL
            .into_iter()
            .filter(|bucket| verdict.count(*bucket) > 0)
            .map(|bucket| LegendItem {
                mark: bucket.into(),
                count: count(verdict.count(bucket)),
                url: at.with_show(Some(bucket)),
                selected: show == Some(bucket),
            })
            .collect(),
        running: running
            .iter()
            .take(RUNNING)
            .map(|build| running_view(build, now))
            .collect(),
        builds_left: count(builds_left),
        error: verdict.error.as_deref().map(causes::message),
        causes: causes::causes(verdict),
        causes_total: verdict.root_causes.len(),
        errors,
        errors_total,
        unanswered,
        unanswered_total,
        has_base: verdict.base.is_some(),
        told: Vec::new(),
        told_total: 0,
        told_url: format!("/api/v1/evaluations/{}/statuses", summary.evaluation.0),
        show: show.map(|bucket| bucket_name(bucket).to_owned()),
        q: query.q.clone().unwrap_or_default(),
        filtered: show.is_some() || query.q.as_deref().is_some_and(|q| !q.is_empty()),
        jobs,
        ids,
        pages: place.pages,
        first: count(place.first as u64),
        last: count(place.last as u64),
        found: count(place.found as u64),
        prev: (place.page > 1).then(|| at.with_page(place.page - 1)),
        next: (place.page < place.pages).then(|| at.with_page(place.page + 1)),
        url,
    }
}

fn commit_view(full: &str) -> CommitView {
    CommitView {
        short: shorten(commit(full), 40),
        full: shorten(full, 80),
    }
}

fn base_view(view: &View) -> Option<BaseView> {
    match (&view.verdict.base, &view.summary.base) {
        (Some(base), _) => Some(BaseView {
            text: evaluation_name(base.commit.as_deref(), base.evaluation.0),
            url: Some(format!("/e/{}", base.evaluation.0)),
        }),
        (None, Some(wanted)) => Some(BaseView {
            text: format!("{}, which is not known here", shorten(commit(wanted), 40)),
            url: None,
        }),
        (None, None) => None,
    }
}

fn running_view(build: &RunningBuild, now: Millis) -> RunningView {
    RunningView {
        name: derivation_name(&build.drv_path).to_owned(),
        url: build_url(&build.drv_path),
        store: shorten(&build.store, 40),
        phase: build
            .phase
            .as_deref()
            .map(|phase| shorten(phase, 40))
            .unwrap_or_default(),
        last_line: build.last_line.clone().unwrap_or_default(),
        took: duration(now - build.started),
    }
}
