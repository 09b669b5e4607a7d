//! The words of statuses: one line for all forges, Markdown for those that show it.
//!
//! GitHub takes 65,535 characters each for the two texts of a check run. What matters most comes first, and what does not
//! fit is left out whole.

use std::fmt::Write as _;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{EvaluationState, JobStatus};
use nixci_protocol::nixci::markdown::{code, escape, fence, fit};
use nixci_protocol::nixci::outcome::{Outcome, Success};
use nixci_protocol::nixci::report::{Annotation, StatusContent, StatusState};
use nixci_protocol::nixci::verdict::{Bucket, RootCause, derivation_name, strip_ansi, to_markdown};
use serde_json::json;

use super::compose::{Picture, Target};
use super::reproduce;
use crate::read::View;

/// Bytes of each text: a character has one or more, so that this is within 65,535 characters.
const TEXT_BYTES: usize = 65_000;
/// Characters of a description: what GitHub takes, and no other forge shows more.
const DESCRIPTION_CHARS: usize = 140;
/// Commands that a summary names.
const COMMANDS: usize = 30;
/// Causes that a job's status opens.
const CAUSES: usize = 5;
/// Evaluation errors that are shown whole, and characters of each.
const ERRORS: usize = 50;
const ERROR_CHARS: usize = 4_000;

/// One line of at most [`DESCRIPTION_CHARS`] characters.
fn one_line(text: &str) -> String {
    let line: String = strip_ansi(text).split_whitespace().collect::<Vec<_>>().join(" ");
    if line.chars().count() <= DESCRIPTION_CHARS {
        return line;
    }
    let kept: String = line.chars().take(DESCRIPTION_CHARS - 1).collect();
    format!("{}…", kept.trim_end())
}

/// The one to require.
pub(super) fn summary(target: Target<'_>, picture: Picture<'_>, state: StatusState) -> StatusContent {
    let Picture { view, .. } = picture;
    let sentence = match view.summary.state {
        EvaluationState::Abandoned => {
            format!(
                "given up: the client went away before it had named all jobs. {}",
                view.verdict.sentence
            )
        }
        EvaluationState::Receiving | EvaluationState::Building | EvaluationState::Done | EvaluationState::Cancelled => {
            view.verdict.sentence.clone()
        }
    };
    StatusContent {
        state,
        description: one_line(&sentence),
        summary: to_markdown(&view.verdict, TEXT_BYTES),
        text: if state.is_final() {
            commands(target, picture)
        } else {
            String::new()
        },
        url: view.summary.page.clone(),
        annotations: Vec::new(),
        started: Some(view.summary.created),
        ended: view.summary.ended.filter(|_| state.is_final()),
    }
}

/// How to build again what failed.
fn commands(target: Target<'_>, picture: Picture<'_>) -> String {
    let causes = &picture.view.verdict.root_causes;
    let lines: Vec<String> = causes
        .iter()
        .filter(|cause| !cause.on_base && cause.class.is_remembered())
        .filter_map(|cause| again(target, picture, cause))
        .take(COMMANDS)
        .collect();
    if lines.is_empty() {
        return String::new();
    }
    fit(
        &["### To build it again\n".to_owned(), fence(&lines.join("\n"))],
        TEXT_BYTES,
    )
}

/// The command that builds a failed derivation: as the job it is, else by its path, fetched from us.
fn again(target: Target<'_>, picture: Picture<'_>, cause: &RootCause) -> Option<String> {
    let by_job = cause
        .attr
        .as_ref()
        .and_then(|attr| reproduce::command(picture.submission, attr, Some(target.origin())));
    by_job.or_else(|| by_path(picture, &cause.drv_path))
}

fn by_path(picture: Picture<'_>, drv_path: &str) -> Option<String> {
    let page = picture.view.summary.page.as_ref()?;
    let cache = page.rsplit_once("/e/").map(|(pages, _)| pages)?;
    let (cache, drv) = (reproduce::quote(cache), reproduce::quote(drv_path));
    let all = reproduce::quote(&format!("{drv_path}^*"));
    Some(format!("nix copy --from {cache} --derivation {drv} && nix build {all}"))
}

/// One job.
pub(super) fn job(target: Target<'_>, picture: Picture<'_>, job: &JobStatus, state: StatusState) -> StatusContent {
    let view = picture.view;
    let causes = causes_of(view, job);
    let mut pieces = vec![format!(
        "**{}**: {}\n",
        code(&job.attr.to_string()),
        escape(&said(view, job, state))
    )];
    for cause in causes.iter().take(CAUSES) {
        let mut piece = format!(
            "{} {}\n{}\n",
            code(&cause.name),
            cause.class.words(),
            code(&cause.drv_path)
        );
        let lines = if cause.log_tail.is_empty() {
            cause.message.clone()
        } else {
            cause.log_tail.join("\n")
        };
        if !lines.trim().is_empty() {
            let _ = write!(piece, "\n{}", fence(&lines));
        }
        pieces.push(piece);
    }
    if causes.len() > CAUSES {
        pieces.push(format!("and {} more\n", causes.len() - CAUSES));
    }
    let command = reproduce::command(picture.submission, &job.attr, Some(target.origin()))
        .or_else(|| by_path(picture, job.drv_path.as_deref()?));
    if let Some(command) = command.filter(|_| state.is_final()) {
        pieces.push(format!("To build it again:\n\n{}", fence(&command)));
    }
    let page = view.summary.page.as_ref().and_then(|page| {
        let (pages, _) = page.rsplit_once("/e/")?;
        let name = job.drv_path.as_deref()?.rsplit('/').next()?;
        Some(format!("{pages}/b/{}", crate::http::segment(name)))
    });
    StatusContent {
        state,
        description: one_line(&said(view, job, state)),
        summary: fit(&pieces, TEXT_BYTES),
        text: String::new(),
        url: page.or_else(|| view.summary.page.clone()),
        annotations: Vec::new(),
        started: None,
        ended: None,
    }
}

/// The failed derivations that a job's outcome names.
fn causes_of<'v>(view: &'v View, job: &JobStatus) -> Vec<&'v RootCause> {
    let find = |drv: &str| view.verdict.root_causes.iter().find(|cause| cause.drv_path == drv);
    match &job.outcome {
        Outcome::Failed { .. } => job.drv_path.as_deref().and_then(find).into_iter().collect(),
        Outcome::Blocked { by } => by.iter().filter_map(|drv| find(drv)).collect(),
        Outcome::Queued { .. }
        | Outcome::Forwarding
        | Outcome::Building
        | Outcome::Succeeded { .. }
        | Outcome::Cancelled
        | Outcome::EvaluationError { .. } => Vec::new(),
    }
}

/// What became of a job, in a few words.
fn said(view: &View, job: &JobStatus, state: StatusState) -> String {
    let mut said = match &job.outcome {
        Outcome::Blocked { by } => {
            let names: Vec<&str> = by.iter().take(3).map(|drv| derivation_name(drv)).collect();
            let why = match by
                .first()
                .and_then(|drv| view.verdict.root_causes.iter().find(|cause| cause.drv_path == *drv))
            {
                Some(cause) => format!(" ({})", cause.class.words()),
                None => String::new(),
            };
            let more = by.len().saturating_sub(names.len());
            let more = if more > 0 {
                format!(" and {more} more")
            } else {
                String::new()
            };
            format!("blocked by {}{why}{more}", names.join(", "))
        }
        Outcome::EvaluationError { message } => {
            let first = strip_ansi(message).lines().next().unwrap_or_default().to_owned();
            format!("evaluation error: {first}")
        }
        outcome @ (Outcome::Queued { .. }
        | Outcome::Forwarding
        | Outcome::Building
        | Outcome::Succeeded { .. }
        | Outcome::Failed { .. }
        | Outcome::Cancelled) => outcome.words().to_owned(),
    };
    let took = job.duration_ms.filter(|took| {
        // What no store offers was not tried.
        *took > 0
            && matches!(
                job.outcome,
                Outcome::Succeeded { how: Success::Built } | Outcome::Failed { .. }
            )
    });
    if let Some(took) = took {
        let _ = match took / 1000 {
            0 => write!(said, " in {took} ms"),
            seconds @ 1..=119 => write!(said, " in {seconds} s"),
            seconds => write!(said, " in {} min", seconds / 60),
        };
    }
    match state {
        StatusState::Neutral => said.push_str(", on the base too"),
        StatusState::Queued
        | StatusState::Running
        | StatusState::Success
        | StatusState::Failure
        | StatusState::Error
        | StatusState::Cancelled
        | StatusState::ActionRequired => {}
    }
    said
}

/// Whether the expressions evaluate.
pub(super) fn evaluation(
    picture: Picture<'_>,
    state: StatusState,
    errors: &[(&AttrPath, &str, Bucket)],
    annotations: Vec<Annotation>,
) -> StatusContent {
    let view = picture.view;
    let jobs = view.jobs.len();
    let plural = |count: usize, what: &str| match count {
        1 => format!("1 {what}"),
        count => format!("{count} {what}s"),
    };
    let said = match (&view.summary.error, errors.len()) {
        (Some(error), _) => format!("evaluation failed: {}", first_line(error)),
        (None, 0) if !state.is_final() => "evaluating again".to_owned(),
        (None, 0) => format!("{} evaluated", plural(jobs, "job")),
        (None, 1) => format!("{} does not evaluate: {}", errors[0].0, first_line(errors[0].1)),
        (None, count) => format!("{count} of {} do not evaluate", plural(jobs, "job")),
    };
    let mut pieces = vec![format!("{}\n", escape(&said))];
    if let Some(error) = &view.summary.error {
        pieces.push(fence(&cut(error, TEXT_BYTES / 2)));
    }
    for (attr, message, bucket) in errors.iter().take(ERRORS) {
        pieces.push(format!(
            "**{}** ({})\n\n{}",
            code(&attr.to_string()),
            bucket.words(),
            fence(&cut(message, ERROR_CHARS))
        ));
    }
    if errors.len() > ERRORS {
        pieces.push(format!("and {} more\n", errors.len() - ERRORS));
    }
    StatusContent {
        state,
        description: one_line(&said),
        summary: fit(&pieces, TEXT_BYTES),
        text: String::new(),
        url: view.summary.page.clone(),
        annotations,
        started: Some(view.summary.created),
        ended: None,
    }
}

fn first_line(text: &str) -> String {
    let text = strip_ansi(text);
    let lines = text.lines().map(str::trim);
    let line = lines
        .clone()
        .find(|line| line.starts_with("error:") && line.len() > "error:".len());
    let line = line
        .or_else(|| lines.clone().rfind(|line| !line.is_empty()))
        .unwrap_or_default();
    line.trim_start_matches("error:").trim().to_owned()
}

fn cut(text: &str, chars: usize) -> String {
    match text.char_indices().nth(chars) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// What stood here in red, and is no part of the evaluation any more.
pub(super) fn gone(view: &View) -> StatusContent {
    StatusContent {
        state: StatusState::Neutral,
        description: "not part of this commit's evaluation any more".to_owned(),
        summary: String::new(),
        text: String::new(),
        url: view.summary.page.clone(),
        annotations: Vec::new(),
        started: None,
        ended: None,
    }
}

/// The verdict as JSON, for who takes it as such: `text` is the body that is sent.
pub(super) fn verdict(picture: Picture<'_>, state: StatusState) -> Option<StatusContent> {
    let view = picture.view;
    let body = json!({
        "event": "verdict",
        "state": state,
        "evaluation": view.summary,
        "verdict": view.verdict,
    });
    Some(StatusContent {
        state,
        description: one_line(&view.verdict.sentence),
        summary: String::new(),
        text: serde_json::to_string(&body).ok()?,
        url: view.summary.page.clone(),
        annotations: Vec::new(),
        started: Some(view.summary.created),
        ended: view.summary.ended,
    })
}
