//! `/b/HASH-NAME.drv`: one derivation, its attempts and their logs.

use askama::Template;
use axum::Json;
use axum::extract::{Path, Query, State};
use axum::response::{Html, IntoResponse, Response};
use nixci_protocol::nixci::control::{AttemptId, AttemptSummary, BuildDetail, Millis};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::nixci::verdict::{derivation_name, strip_ansi};
use nixci_store::logs::Entry;
use serde::Deserialize;

use super::{build_url, evaluation_name};
use crate::http::error::HttpError;
use crate::http::select::{self, Form};
use crate::http::show::mark::Mark;
use crate::http::show::time::{When, duration, now};
use crate::http::show::{ansi, bytes, count, shorten};
use crate::http::{Site, api, project_path};
use crate::read::{LINE_CHARS, LogPart, Reader};

/// Attempts, inputs, uses and blockers that are shown.
const ATTEMPTS: usize = 25;
const INPUTS: usize = 120;
const USES: usize = 40;
const BLOCKERS: usize = 20;

/// What may follow `?` in the address of a build.
#[derive(Debug, Clone, Default, Deserialize)]
pub(in crate::http) struct BuildQuery {
    /// The attempt whose log is shown; the newest one unless given.
    attempt: Option<i64>,
    /// The line with which the log begins; its end unless given.
    from: Option<u64>,
}

struct LinkView {
    mark: Mark,
    name: String,
    url: String,
}

struct AttemptView {
    number: i64,
    url: String,
    mark: Mark,
    message: String,
    store: String,
    took: String,
    started: When,
}

struct OutputView {
    name: String,
    path: String,
    size: String,
}

struct UseView {
    project: String,
    project_url: String,
    name: String,
    url: String,
    attr: String,
}

struct MoreView {
    text: String,
    url: String,
}

struct ErrorLine {
    line: u64,
    url: String,
}

struct LineView {
    number: u64,
    html: String,
}

struct PartView {
    phase: Option<String>,
    lines: Vec<LineView>,
}

struct LogView {
    attempt: i64,
    lines: u64,
    lines_text: String,
    /// The query that leads to this part again.
    here: String,
    raw: String,
    events: Option<String>,
    first_error: Option<ErrorLine>,
    before: Option<MoreView>,
    after: Option<MoreView>,
    parts: Vec<PartView>,
}

struct BuildView {
    name: String,
    path: String,
    url: String,
    live: bool,
    mark: Mark,
    system: String,
    features: String,
    store: Option<String>,
    started: Option<When>,
    took: Option<String>,
    dependents: String,
    why: Option<String>,
    blockers: Vec<LinkView>,
    blockers_more: usize,
    log: Option<LogView>,
    attempts: Vec<AttemptView>,
    outputs: Vec<OutputView>,
    uses: Vec<UseView>,
    uses_more: usize,
    inputs: Vec<LinkView>,
    inputs_total: usize,
}

#[derive(Template)]
#[template(path = "build.html")]
struct Page {
    b: BuildView,
}

pub(in crate::http) async fn build(
    State(site): State<Site>,
    Path(name): Path<String>,
    Query(query): Query<BuildQuery>,
) -> Result<Response, HttpError> {
    let (name, form) = select::form(&name);
    let detail = site.reader.build(&api::full_path(&site, name)).await?;
    match form {
        Form::Json => Ok(Json(detail).into_response()),
        Form::Markdown => Err(HttpError::missing("a build has no Markdown form; evaluations do")),
        Form::Html => {
            let log = log(&site, &detail, &query).await?;
            Ok(Html(Page { b: view(detail, log) }.render()?).into_response())
        }
    }
}

fn view(detail: BuildDetail, log: Option<LogView>) -> BuildView {
    let now = now();
    let url = build_url(&detail.drv_path);
    let newest = detail.attempts.first();
    let (why, blockers) = match &detail.outcome {
        Outcome::Queued { reason } => (Some(reason.clone()), &[][..]),
        Outcome::Blocked { by } => (None, by.as_slice()),
        Outcome::Failed { .. } => (newest.map(|newest| newest.message.clone()), &[][..]),
        Outcome::Forwarding
        | Outcome::Building
        | Outcome::Succeeded { .. }
        | Outcome::Cancelled
        | Outcome::EvaluationError { .. } => (None, &[][..]),
    };
    let failed = Mark::from(&Outcome::Blocked { by: Vec::new() });
    BuildView {
        live: !detail.outcome.is_final(),
        mark: (&detail.outcome).into(),
        store: newest.map(|newest| shorten(&newest.store, 60)),
        started: newest.map(|newest| When::new(newest.started, now)),
        took: newest.map(|newest| took(newest, now)),
        dependents: count(detail.dependents),
        why: why
            .map(|why| shorten(strip_ansi(&why).trim(), 1_000))
            .filter(|why| !why.is_empty()),
        blockers: blockers.iter().take(BLOCKERS).map(|drv| link(drv, failed)).collect(),
        blockers_more: blockers.len().saturating_sub(BLOCKERS),
        log,
        attempts: detail
            .attempts
            .iter()
            .take(ATTEMPTS)
            .map(|attempt| AttemptView {
                number: attempt.attempt.0,
                url: format!("{url}?attempt={}#log", attempt.attempt.0),
                mark: (&attempt.outcome).into(),
                message: shorten(strip_ansi(&attempt.message).lines().next().unwrap_or_default(), 200),
                store: shorten(&attempt.store, 60),
                took: took(attempt, now),
                started: When::new(attempt.started, now),
            })
            .collect(),
        outputs: detail
            .outputs
            .into_iter()
            .map(|output| OutputView {
                name: output.name,
                path: output.path.unwrap_or_else(|| "known when it is built".to_owned()),
                size: output.nar_size.map(bytes).unwrap_or_default(),
            })
            .collect(),
        uses: detail
            .used_by
            .iter()
            .take(USES)
            .map(|used| UseView {
                project: shorten(&used.project, 80),
                project_url: project_path(&used.project),
                name: evaluation_name(used.commit.as_deref(), used.evaluation.0),
                url: format!("/e/{}", used.evaluation.0),
                attr: shorten(&used.attr.to_string(), 140),
            })
            .collect(),
        uses_more: detail.used_by.len().saturating_sub(USES),
        inputs_total: detail.inputs.len(),
        inputs: detail
            .inputs
            .iter()
            .take(INPUTS)
            .map(|input| link(&input.drv_path, (&input.outcome).into()))
            .collect(),
        name: detail.name,
        path: detail.drv_path,
        url,
        system: detail.system,
        features: shorten(&detail.features.join(", "), 200),
    }
}

fn link(drv_path: &str, mark: Mark) -> LinkView {
    LinkView {
        mark,
        name: derivation_name(drv_path).to_owned(),
        url: build_url(drv_path),
    }
}

fn took(attempt: &AttemptSummary, now: Millis) -> String {
    match attempt.ended {
        Some(ended) => duration(ended - attempt.started),
        None => format!("for {}", duration(now - attempt.started)),
    }
}

/// The log of the attempt that is asked for, or of the newest.
async fn log(site: &Site, detail: &BuildDetail, query: &BuildQuery) -> Result<Option<LogView>, HttpError> {
    let attempt = match query.attempt {
        None => detail.attempts.first(),
        Some(number) => {
            let found = detail
                .attempts
                .iter()
                .find(|attempt| attempt.attempt == AttemptId(number));
            Some(found.ok_or_else(|| HttpError::missing(format!("this build has no attempt {number}")))?)
        }
    };
    let Some(attempt) = attempt else { return Ok(None) };
    let id = attempt.attempt;
    let part = site.reader.log_part(id, query.from).await?;
    Ok(Some(log_view(attempt, &part, query.from.is_none())))
}

fn log_view(attempt: &AttemptSummary, part: &LogPart, is_end: bool) -> LogView {
    let id = attempt.attempt.0;
    let (first, last) = part.range().unwrap_or((1, part.lines));
    let at = |from: u64| format!("?attempt={id}&from={from}");
    LogView {
        attempt: id,
        lines: part.lines,
        lines_text: count(part.lines),
        here: at(first),
        raw: format!("/api/v1/attempts/{id}/log"),
        events: (attempt.ended.is_none() && is_end).then(|| format!("/attempts/{id}/events?from={}", part.lines + 1)),
        first_error: part
            .first_error
            .filter(|_| matches!(attempt.outcome, Outcome::Failed { .. }))
            .map(|line| ErrorLine {
                line,
                url: if (first..=last).contains(&line) {
                    format!("#L{line}")
                } else {
                    format!("{}#L{line}", at(line.saturating_sub(20).max(1)))
                },
            }),
        before: (first > 1).then(|| MoreView {
            text: format!("{} lines before", count(first - 1)),
            url: at(Reader::before(first)),
        }),
        after: (last < part.lines).then(|| MoreView {
            text: format!("{} lines after", count(part.lines - last)),
            url: at(last + 1),
        }),
        parts: parts(part),
    }
}

fn parts(part: &LogPart) -> Vec<PartView> {
    let mut parts = Vec::new();
    let mut current = PartView {
        phase: part.phase.as_deref().map(|phase| format!("{phase}, continued")),
        lines: Vec::new(),
    };
    for (number, entry) in &part.entries {
        match entry {
            Entry::Line(line) => {
                current.lines.push(LineView {
                    number: *number,
                    html: ansi::line(line, LINE_CHARS),
                });
            }
            Entry::Phase(name) => {
                let next = PartView {
                    phase: Some(shorten(&strip_ansi(name), 80)),
                    lines: Vec::new(),
                };
                let before = std::mem::replace(&mut current, next);
                if before.phase.is_some() || !before.lines.is_empty() {
                    parts.push(before);
                }
            }
            Entry::Truncated { .. } | Entry::Unwritten | Entry::Broken => {
                let next = PartView {
                    phase: entry.remark(),
                    lines: Vec::new(),
                };
                let before = std::mem::replace(&mut current, next);
                if before.phase.is_some() || !before.lines.is_empty() {
                    parts.push(before);
                }
            }
        }
    }
    if current.phase.is_some() || !current.lines.is_empty() {
        parts.push(current);
    }
    parts
}
