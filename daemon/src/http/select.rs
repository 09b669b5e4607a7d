//! Names in addresses.

use nixci_protocol::nixci::control::{AttemptId, EvaluationId, Selector};

use super::error::HttpError;

/// Which form of a page is asked for, by the end of its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Html,
    Json,
    Markdown,
}

/// Takes `.json` or `.md` off.
pub(super) fn form(name: &str) -> (&str, Form) {
    if let Some(name) = name.strip_suffix(".json") {
        (name, Form::Json)
    } else if let Some(name) = name.strip_suffix(".md") {
        (name, Form::Markdown)
    } else {
        (name, Form::Html)
    }
}

/// An evaluation's number.
pub(super) fn evaluation(text: &str) -> Result<EvaluationId, HttpError> {
    number(text)
        .map(EvaluationId)
        .ok_or_else(|| HttpError::bad(format!("`{text}` is not the number of an evaluation")))
}

/// An attempt's number.
pub(super) fn attempt(text: &str) -> Result<AttemptId, HttpError> {
    number(text)
        .map(AttemptId)
        .ok_or_else(|| HttpError::bad(format!("`{text}` is not the number of an attempt")))
}

fn number(text: &str) -> Option<i64> {
    text.parse()
        .ok()
        .filter(|number| *number > 0 && text.bytes().all(|byte| byte.is_ascii_digit()))
}

/// What to compare with: a number of up to ten digits is an evaluation, anything else a commit or its prefix.
pub(super) fn base(text: &str, project: &str) -> Selector {
    match number(text).filter(|_| text.len() <= 10) {
        Some(id) => Selector::Evaluation(EvaluationId(id)),
        None => Selector::Commit {
            project: Some(project.to_owned()),
            commit: text.to_owned(),
        },
    }
}
