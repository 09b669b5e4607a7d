//! The whole way of a closure to another store: find out what it lacks, send that, and stand its collections meanwhile.

use std::collections::{BTreeSet, HashSet};

use nixci_protocol::client::{self, Connection};
use nixci_protocol::io::PathStreamError;
use nixci_protocol::nixci::FEATURE_CLOSURE;
use nixci_protocol::op::AddTempRoot;
use nixci_protocol::types::StorePath;

use crate::negotiate::{Memory, NegotiateError, negotiate_remembering};
use crate::upload::{ObjectSource, Progress, SourceError, UploadError, upload};

/// How often a closure is sent to a store that loses parts of it meanwhile. From the second time on temporary roots keep
/// all that was needed the time before, so that more are only taken where there are several collections.
const TIMES: u32 = 5;

/// Why a closure did not arrive.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// An object cannot be read.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// An object is not what its info says.
    #[error(transparent)]
    Object(PathStreamError),
    /// The store refused, or went away.
    #[error(transparent)]
    Store(#[from] client::Error),
    /// The store went on losing what it had a moment ago.
    #[error(
        "the store deleted parts of the closure while it was sent, {times} times in a row; stop what collects garbage \
         there and try again: {last}"
    )]
    Collected {
        /// How often it was sent.
        times: u32,
        /// What the store said the last time.
        last: client::Error,
    },
}

impl From<NegotiateError> for TransferError {
    fn from(error: NegotiateError) -> Self {
        match error {
            NegotiateError::Source(error) => Self::Source(error),
            NegotiateError::Store(error) => Self::Store(error),
        }
    }
}

impl From<UploadError> for TransferError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::Source(error) => Self::Source(error),
            UploadError::Object(error) => Self::Object(error),
            UploadError::Store(error) => Self::Store(error),
        }
    }
}

/// Sends what the store lacks of the closures of `roots`, and returns how much that was. Once it returned they are valid
/// there, and a stock store keeps them for as long as the connection lasts: they have temporary roots.
///
/// A path that was valid when it was asked about may be collected before what refers to it arrives, which stock stores
/// refuse then. Whether that was the reason is seen by asking again, for what they say depends on their version; then all
/// that is remembered of the store is forgotten, and what it lacks now is sent. As with [`upload`] an error or
/// cancellation in the middle may leave the connection unusable.
pub async fn transfer<S: ObjectSource>(
    connection: &mut Connection,
    source: &S,
    roots: &[StorePath],
    memory: &Memory,
    mut progress: impl FnMut(Progress) + Send,
) -> Result<Progress, TransferError> {
    // A daemon of ours keeps what it was asked about.
    let needs_roots = !connection.negotiated().has(FEATURE_CLOSURE);
    let mut kept = roots.to_vec();
    let mut refused: Option<(HashSet<StorePath>, client::Error)> = None;
    let mut times = 0;
    loop {
        if needs_roots {
            // Before the question: what is valid then stays so.
            let kept: Vec<_> = kept.drain(..).map(|path| AddTempRoot { path }).collect();
            connection.call_all(&kept, &mut ()).await?;
        }
        let missing = negotiate_remembering(connection, source, roots.iter().cloned(), memory)
            .await?
            .missing;
        if let Some((before, error)) = refused.take() {
            if missing.iter().all(|path| before.contains(path)) {
                return Err(error.into());
            }
            if times == TIMES {
                return Err(TransferError::Collected { times, last: error });
            }
        }
        if let Some(error) = source.absent(&missing) {
            return Err(error.into());
        }
        times += 1;
        let error = match upload(connection, source, &missing, &mut progress).await {
            Ok(sent) => {
                memory.learn(&missing);
                return Ok(sent);
            }
            Err(UploadError::Store(error)) if error.is_remote() && connection.is_reusable() => error,
            Err(error) => return Err(error.into()),
        };
        memory.clear();
        let references = source.references(&missing).await?;
        let needed: BTreeSet<StorePath> = references
            .into_iter()
            .flatten()
            .chain(missing.iter().cloned())
            .collect();
        kept.extend(needed);
        refused = Some((missing.into_iter().collect(), error));
    }
}
