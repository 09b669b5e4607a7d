//! How values of the vocabulary are written in columns, and read back strictly.

use nixci_protocol::nixci::control::EvaluationState;
use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_protocol::types::StorePath;

use super::error::{Error, Result};

pub(super) fn nonsense(what: impl Into<String>) -> Error {
    Error::Nonsense { what: what.into() }
}

/// A list or map as its column holds it.
pub(super) fn json<T: serde::Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| nonsense(format!("a value cannot be written: {error}")))
}

/// A count or size as SQLite holds it.
pub(super) fn to_column(what: &'static str, value: u64) -> Result<i64> {
    i64::try_from(value).map_err(|_| Error::TooLarge { what, value })
}

/// A count or size as SQLite held it.
pub(super) fn from_column(what: &'static str, value: i64) -> Result<u64> {
    u64::try_from(value).map_err(|_| nonsense(format!("{what} is {value}")))
}

pub(super) fn store_path(table: &'static str, digest: [u8; 20], name: &str) -> Result<StorePath> {
    StorePath::new(digest, name).map_err(|error| nonsense(format!("a path in table {table}: {error}")))
}

pub(super) fn base_name(table: &'static str, text: &str) -> Result<StorePath> {
    StorePath::from_base_name(text).map_err(|error| nonsense(format!("a path in table {table}: {error}")))
}

pub(super) fn state_name(state: EvaluationState) -> &'static str {
    match state {
        EvaluationState::Receiving => "receiving",
        EvaluationState::Building => "building",
        EvaluationState::Done => "done",
        EvaluationState::Cancelled => "cancelled",
        EvaluationState::Abandoned => "abandoned",
    }
}

pub(super) fn state(text: &str) -> Result<EvaluationState> {
    Ok(match text {
        "receiving" => EvaluationState::Receiving,
        "building" => EvaluationState::Building,
        "done" => EvaluationState::Done,
        "cancelled" => EvaluationState::Cancelled,
        "abandoned" => EvaluationState::Abandoned,
        other => return Err(nonsense(format!("an evaluation has state `{other}`"))),
    })
}

pub(super) fn success_name(how: Success) -> &'static str {
    match how {
        Success::Built => "built",
        Success::Substituted => "substituted",
        Success::AlreadyValid => "already-valid",
    }
}

pub(super) fn success(text: &str) -> Option<Success> {
    Some(match text {
        "built" => Success::Built,
        "substituted" => Success::Substituted,
        "already-valid" => Success::AlreadyValid,
        _ => return None,
    })
}

pub(super) fn class_name(class: FailureClass) -> &'static str {
    match class {
        FailureClass::Build => "build",
        FailureClass::HashMismatch => "hash-mismatch",
        FailureClass::Timeout => "timeout",
        FailureClass::LogLimit => "log-limit",
        FailureClass::Unsupported => "unsupported",
        FailureClass::Store => "store",
    }
}

pub(super) fn class(text: &str) -> Result<FailureClass> {
    FailureClass::ALL
        .into_iter()
        .find(|class| class_name(*class) == text)
        .ok_or_else(|| nonsense(format!("an attempt has class `{text}`")))
}
