//! Moving what a store lacks from the spool to it.

use std::collections::BTreeSet;

use nixci_protocol::client::Connection;
use nixci_protocol::op;
use nixci_protocol::types::StorePath;
use nixci_store::negotiate::{Negotiation, Step};
use nixci_store::spool::Spool;
use nixci_store::upload::{UploadError, upload};

use crate::build;
use crate::error::told;

/// Paths in one question about validity.
const PATHS_PER_QUESTION: usize = 20_000;

/// Why a closure did not arrive.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ForwardError {
    /// Nobody has a path that is needed.
    #[error("{path} is neither uploaded nor on the store; upload its closure again")]
    Missing {
        /// The path, without its store directory.
        path: StorePath,
    },
    /// The store will never take some of these objects, whose content it checks too.
    #[error("the store refused the closure: {0}")]
    Refused(String),
    /// The store, or the way to it.
    #[error("{0}")]
    Store(String),
    /// The spool.
    #[error("failed to read the spool: {0}")]
    Spool(String),
}

/// Asks the store what it lacks of the closures of `roots` and uploads that, references first.
///
/// What the spool does not know itself is taken as having no references: it must be on the store.
/// Cancelling it leaves whole paths behind and a connection that must not be used again.
pub(crate) async fn forward(
    connection: &mut Connection,
    spool: &Spool,
    roots: Vec<StorePath>,
) -> Result<u64, ForwardError> {
    let mut negotiation = Negotiation::new(roots);
    let missing = loop {
        match negotiation.next() {
            Step::Read(paths) => {
                let references = spool
                    .references(paths.clone())
                    .await
                    .map_err(|error| ForwardError::Spool(told(&error)))?;
                for (path, references) in paths.into_iter().zip(references) {
                    negotiation.know(&path, references.unwrap_or_default());
                }
            }
            Step::Ask(paths) => {
                let mut found = BTreeSet::new();
                for chunk in paths.chunks(PATHS_PER_QUESTION) {
                    let question = op::QueryValidPaths {
                        paths: chunk.iter().cloned().collect(),
                        substitute: false,
                    };
                    let valid = connection
                        .call(&question, &mut ())
                        .await
                        .map_err(|error| ForwardError::Store(told(&error)))?;
                    found.extend(valid);
                }
                negotiation.answer(|nth| found.contains(&paths[nth]));
            }
            Step::Done(missing) => break missing,
        }
    };
    if missing.is_empty() {
        return Ok(0);
    }
    if let Some(path) = missing.iter().find(|path| !spool.contains(path)) {
        return Err(ForwardError::Missing { path: path.clone() });
    }
    let count = missing.len() as u64;
    upload(connection, spool, &missing, |_| ())
        .await
        .map_err(|error| match &error {
            UploadError::Store(client) if client.is_remote() && !build::is_about_the_store(&told(&error)) => {
                ForwardError::Refused(told(&error))
            }
            UploadError::Store(_) | UploadError::Source(_) | UploadError::Object(_) => {
                ForwardError::Store(told(&error))
            }
        })?;
    Ok(count)
}
