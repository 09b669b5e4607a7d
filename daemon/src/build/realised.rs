//! What outputs that a build has made are called, for those that are named by their content.
//!
//! A store resolves such a derivation when its inputs are realised. The result of Nix 2.26 tells the outputs by the hash
//! of what it was resolved to, while clients ask by the hash of the derivation itself; the store tells that one when it
//! is asked once more for what is there now. Nix 2.34 tells only the latter, so that of a derivation that was resolved to
//! what was there already nobody can say who built it.

use std::collections::BTreeMap;

use nixci_protocol::client::{self, Connection};
use nixci_protocol::op;
use nixci_protocol::types::{BuildResult, BuildStatus, BuiltOutputs, StorePath};
use nixci_store::index::{self, DrvId, contents};
use rusqlite::Transaction;
use tracing::warn;

use crate::error::told;

/// The outputs of one build.
#[derive(Debug, Default)]
pub(super) struct Made {
    /// As its result tells them.
    outputs: BuiltOutputs,
    /// Whether that build made them itself; otherwise it found what the derivation was resolved to.
    is_built: bool,
    /// The same as the derivation calls them, where that was asked.
    asked: Option<BuiltOutputs>,
}

impl Made {
    /// Takes over what a result tells.
    pub(super) fn told(&mut self, result: &BuildResult) {
        if is_made(result.status) {
            self.outputs = result.built_outputs.clone();
            self.is_built = result.status == BuildStatus::Built;
        }
    }

    /// Asks the store what the derivation itself calls the outputs. The connection must be the one that has built, whose
    /// temporary roots keep them.
    pub(super) async fn ask_again(&mut self, connection: &mut Connection, drv: &StorePath, result: &BuildResult) {
        let by_path = |outputs: &BuiltOutputs| -> BTreeMap<_, _> {
            let outputs = outputs.paths().map(|(name, path)| (name.clone(), path.clone()));
            outputs.collect()
        };
        let made = by_path(&result.built_outputs);
        if !is_made(result.status) || made.is_empty() {
            return;
        }
        match asked_for(connection, drv).await {
            // Anything else is not what was made here.
            Ok(Some(asked)) if by_path(&asked) == made => self.asked = Some(asked),
            Ok(_) => {}
            Err(error) => warn!(
                %drv,
                "the outputs of {drv} are told without our signature: failed to ask what they are realised as: {}",
                told(&error)
            ),
        }
    }

    /// Records where they were put. Returns whether there were any whose paths follow from their content.
    pub(super) fn record(&self, tx: &Transaction<'_>, drv: DrvId, store: &str) -> Result<bool, index::Error> {
        if !self.is_built && !self.is_known(tx, store)? {
            return Ok(false);
        }
        let any = contents::record_realised(tx, drv, store, &self.outputs)?;
        if let Some(asked) = &self.asked {
            contents::record_realised(tx, drv, store, asked)?;
        }
        Ok(any)
    }

    /// Whether builds there are known to have made all of them.
    fn is_known(&self, tx: &Transaction<'_>, store: &str) -> Result<bool, index::Error> {
        match &self.outputs {
            BuiltOutputs::Named(_) => Ok(false),
            BuiltOutputs::Hashed(outputs) => {
                for (id, realisation) in outputs {
                    if !contents::is_realised(tx, store, id, &realisation.out_path)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
        }
    }
}

/// What a derivation that was built calls its outputs; none where it would have to be built for it.
async fn asked_for(connection: &mut Connection, drv: &StorePath) -> Result<Option<BuiltOutputs>, client::Error> {
    let paths = super::all_outputs(drv);
    let missing = connection.call(&op::QueryMissing { paths }, &mut ()).await?;
    // Impure ones are built each time.
    if !missing.will_build.is_empty() {
        return Ok(None);
    }
    Ok(Some(super::ask(connection, drv, &mut ()).await?.built_outputs))
}

/// Whether the outputs may be of a build of this store, as far as a status tells.
fn is_made(status: BuildStatus) -> bool {
    match status {
        BuildStatus::Built | BuildStatus::ResolvesToAlreadyValid => true,
        BuildStatus::Substituted
        | BuildStatus::AlreadyValid
        | BuildStatus::PermanentFailure
        | BuildStatus::InputRejected
        | BuildStatus::OutputRejected
        | BuildStatus::TransientFailure
        | BuildStatus::CachedFailure
        | BuildStatus::TimedOut
        | BuildStatus::MiscFailure
        | BuildStatus::DependencyFailed
        | BuildStatus::LogLimitExceeded
        | BuildStatus::NotDeterministic
        | BuildStatus::NoSubstituters => false,
    }
}
