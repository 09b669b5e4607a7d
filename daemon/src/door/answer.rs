//! Answers to build requests, in the words and forms of stock daemons.

use std::collections::{BTreeSet, HashSet};

use nixci_protocol::log::{LogMessage, RemoteError};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::{BuildResult, BuildStatus, BuiltOutputs, DerivedPath, OutputsSpec, StoreDir, StorePath};

use crate::request::error_line;

/// What came of a request: a result for each path, in order; none where it was not finished.
pub(super) struct Built {
    pub(super) results: Vec<Option<BuildResult>>,
    /// Whose failure the client has read already.
    pub(super) logged: HashSet<StorePath>,
}

/// A result as it is for somebody who asked for some of the outputs only.
pub(super) fn only_asked(path: &DerivedPath, mut result: BuildResult) -> BuildResult {
    if let DerivedPath::Built {
        outputs: OutputsSpec::Names(names),
        ..
    } = path
    {
        match &mut result.built_outputs {
            BuiltOutputs::Hashed(outputs) => outputs.retain(|key, _| names.contains(&key.output)),
            BuiltOutputs::Named(outputs) => outputs.retain(|name, _| names.contains(name)),
        }
    }
    result
}

/// Turns results into the one error of an operation that has no results, as stock daemons do.
pub(super) async fn first_failure(
    dir: &StoreDir,
    paths: &[DerivedPath],
    built: Built,
    exchange: &mut Exchange<'_>,
) -> Result<(), HandlerError> {
    let mut failed: BTreeSet<String> = BTreeSet::new();
    let mut first: Option<String> = None;
    for (path, result) in paths.iter().zip(built.results) {
        let message = match result {
            Some(result) if result.status.is_success() => continue,
            Some(result) => result.error_msg,
            None => String::new(),
        };
        let name = match path {
            DerivedPath::Opaque(path) => path,
            DerivedPath::Built { drv, .. } => drv.root(),
        };
        let is_new = failed.insert(dir.display(name).to_string());
        if message.is_empty() || built.logged.contains(name) || !is_new {
            continue;
        }
        match &first {
            None => first = Some(message),
            Some(_) => exchange.log(line(&error_line(&message))).await,
        }
    }
    match (failed.len(), first) {
        (0, _) => Ok(()),
        (1, Some(message)) => Err(HandlerError(RemoteError::new(message))),
        (_, first) => {
            if let Some(message) = first {
                exchange.log(line(&error_line(&message))).await;
            }
            let quoted: Vec<String> = failed.iter().map(|path| format!("'{path}'")).collect();
            Err(HandlerError(RemoteError::new(format!(
                "build of \u{1b}[35;1m{}\u{1b}[0m failed",
                quoted.join(", ")
            ))))
        }
    }
}

/// A text as stock daemons send it, without a newline of its own.
pub(super) fn line(text: &str) -> LogMessage {
    LogMessage::Next {
        text: text.to_owned().into(),
    }
}

/// The result of something of which nothing but its success is known.
pub(super) fn there() -> BuildResult {
    BuildResult::new(BuildStatus::AlreadyValid, "")
}
