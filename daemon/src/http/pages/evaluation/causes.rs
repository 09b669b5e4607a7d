//! Why an evaluation is as it is: root causes, evaluation errors, what has no answer.

use nixci_protocol::nixci::outcome::{FailureClass, Outcome};
use nixci_protocol::nixci::verdict::{Bucket, RootCause, Verdict, strip_ansi};

use crate::http::pages::build_url;
use crate::http::show::mark::Mark;
use crate::http::show::{ansi, count, shorten};
use crate::read::View;

/// Causes that are shown, and how many of them are open.
const CAUSES: usize = 40;
const OPEN: usize = 3;
/// Bytes that the last lines of all causes may take together.
const TAIL_BYTES: usize = 24 * 1024;
/// Characters of one line.
const LINE_CHARS: usize = 300;
/// Characters of a message.
const MESSAGE_CHARS: usize = 600;
/// Evaluation errors that are shown, and characters of each.
const ERRORS: usize = 25;
const ERROR_CHARS: usize = 600;
/// Characters of the error of a whole evaluation.
const WHOLE_ERROR_CHARS: usize = 6_000;

pub(in crate::http) struct CauseView {
    pub(super) mark: Mark,
    pub(super) name: String,
    pub(super) path: String,
    pub(super) url: String,
    pub(super) raw: Option<String>,
    pub(super) blocks: Option<String>,
    pub(super) attr: Option<String>,
    pub(super) on_base: bool,
    pub(super) message: Option<String>,
    /// HTML.
    pub(super) lines: Vec<String>,
    pub(super) open: bool,
}

pub(in crate::http) struct ErrorView {
    pub(super) attr: String,
    pub(super) message: String,
    pub(super) open: bool,
}

pub(in crate::http) struct ReasonView {
    pub(super) count: String,
    pub(super) reason: String,
    pub(super) examples: String,
}

pub(super) fn causes(verdict: &Verdict) -> Vec<CauseView> {
    let mut room = TAIL_BYTES;
    verdict
        .root_causes
        .iter()
        .take(CAUSES)
        .enumerate()
        .map(|(at, cause)| cause_view(cause, at < OPEN, &mut room))
        .collect()
}

fn cause_view(cause: &RootCause, open: bool, room: &mut usize) -> CauseView {
    let lines: Vec<String> = cause.log_tail.iter().map(|line| ansi::line(line, LINE_CHARS)).collect();
    let bytes: usize = lines.iter().map(String::len).sum();
    let lines = if bytes <= *room {
        *room -= bytes;
        lines
    } else {
        Vec::new()
    };
    let more = if cause.attr.is_some() { " more jobs" } else { " jobs" };
    let more = if cause.blocks == 1 {
        more.trim_end_matches('s')
    } else {
        more
    };
    let mark = Mark::from(&Outcome::Failed { class: cause.class });
    CauseView {
        mark: if cause.on_base {
            Mark { class: "old", ..mark }
        } else {
            mark
        },
        name: cause.name.clone(),
        path: cause.drv_path.clone(),
        url: build_url(&cause.drv_path),
        raw: cause
            .attempt
            .map(|attempt| format!("/api/v1/attempts/{}/log", attempt.0)),
        blocks: (cause.blocks > 0).then(|| format!("{}{more}", count(cause.blocks))),
        attr: cause.attr.as_ref().map(|attr| shorten(&attr.to_string(), 140)),
        on_base: cause.on_base,
        // Where the log speaks, the store's message only repeats it; a store's own failure has no log.
        message: Some(cause.message.trim())
            .filter(|message| !message.is_empty() && (lines.is_empty() || !matches!(cause.class, FailureClass::Build)))
            .map(|message| shorten(&strip_ansi(message), MESSAGE_CHARS)),
        open: open && !cause.on_base,
        lines,
    }
}

pub(super) fn message(error: &str) -> String {
    shorten(&strip_ansi(error), WHOLE_ERROR_CHARS)
}

/// The evaluation errors, and how many there are.
pub(super) fn errors(view: &View) -> (Vec<ErrorView>, usize) {
    let all = view.jobs.iter().filter_map(|job| match &job.outcome {
        Outcome::EvaluationError { message } => Some((&job.attr, message)),
        _ => None,
    });
    let mut shown = Vec::new();
    let mut total = 0;
    for (attr, message) in all {
        total += 1;
        if shown.len() < ERRORS {
            shown.push(ErrorView {
                attr: shorten(&attr.to_string(), 140),
                message: shorten(strip_ansi(message).trim_end(), ERROR_CHARS),
                open: total <= 2,
            });
        }
    }
    (shown, total)
}

/// Why jobs have no answer, commonest reason first, and how many have none.
pub(super) fn unanswered(verdict: &Verdict) -> (Vec<ReasonView>, String) {
    let shown = verdict
        .not_answered()
        .into_iter()
        .map(|(reason, rows)| {
            let examples: Vec<String> = rows
                .iter()
                .take(3)
                .map(|row| shorten(&row.attr.to_string(), 60))
                .collect();
            ReasonView {
                examples: examples.join(", ") + if rows.len() > examples.len() { ", …" } else { "" },
                count: count(rows.len() as u64),
                reason: reason.to_owned(),
            }
        })
        .collect();
    (shown, count(verdict.count(Bucket::NotAnswered)))
}
