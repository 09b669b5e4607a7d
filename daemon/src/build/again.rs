//! Asking a store to build one derivation, which may have lost it since it was sent.

use nixci_protocol::client::{self, Connection};
use nixci_protocol::op;
use nixci_protocol::types::{BuildResult, BuildStatus, StorePath};
use tracing::warn;

use super::ask;
use super::log::BuildLog;
use crate::core::{BuildStore, Core};
use crate::error::told;
use crate::forward::forward;

/// How often a build is asked for whose derivation or inputs the store loses meanwhile.
const TIMES: u32 = 3;

/// What came of it.
pub(super) enum Asked {
    /// The store's word.
    Result(BuildResult),
    /// What the store needs for it is not there, which says nothing about the build.
    Lost(String),
}

/// Has one derivation built, as it was `sent` by its client or all outputs of it.
///
/// Temporary roots keep what a build needs, but only for as long as their connection lasts: when that was lost a
/// collection may take it. What stores say then depends on their version, and is easily taken for a failure of the
/// builder. So after a failure before the builder ran the store is asked for what it was sent, and gets it again.
pub(super) async fn build(
    core: &Core,
    place: &BuildStore,
    connection: &mut Connection,
    drv: &StorePath,
    sent: Option<&op::BuildDerivation>,
    log: &mut BuildLog,
) -> Result<Asked, client::Error> {
    let needed: Vec<StorePath> = match sent {
        Some(sent) => sent.derivation.input_srcs.iter().cloned().collect(),
        None => vec![drv.clone()],
    };
    let store = place.config.name.as_str();
    for _ in 0..TIMES {
        let result = match sent {
            Some(sent) => connection.call(sent, log).await,
            None => ask(connection, drv, log).await,
        };
        let suspicious = match &result {
            Ok(result) => may_lack_inputs(result.status),
            Err(error) => error.is_remote(),
        };
        if !suspicious || !connection.is_reusable() {
            return result.map(Asked::Result);
        }
        match forward(core, place, connection, &needed).await {
            Ok(0) => return result.map(Asked::Result),
            Ok(count) => warn!(
                store,
                "store `{store}` had lost {count} paths that {drv} needs; they were sent again"
            ),
            Err(error) => return Ok(Asked::Lost(told(&error))),
        }
    }
    Ok(Asked::Lost(format!(
        "store `{store}` lost what the build needs {TIMES} times in a row; stop what collects garbage there, or have it \
         keep more"
    )))
}

/// Whether a failure may be due to something that is not there. Where the builder ran all was there.
fn may_lack_inputs(status: BuildStatus) -> bool {
    match status {
        BuildStatus::InputRejected
        | BuildStatus::MiscFailure
        | BuildStatus::DependencyFailed
        | BuildStatus::NoSubstituters => true,
        BuildStatus::Built
        | BuildStatus::Substituted
        | BuildStatus::AlreadyValid
        | BuildStatus::ResolvesToAlreadyValid
        | BuildStatus::PermanentFailure
        | BuildStatus::TransientFailure
        | BuildStatus::OutputRejected
        | BuildStatus::CachedFailure
        | BuildStatus::TimedOut
        | BuildStatus::LogLimitExceeded
        | BuildStatus::NotDeterministic => false,
    }
}
