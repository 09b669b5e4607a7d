//! Moving what a store lacks from the spool to it.

use nixci_protocol::client::{self, Connection};
use nixci_protocol::types::StorePath;
use nixci_store::spool::Spool;
use nixci_store::transfer::{TransferError, transfer};
use nixci_store::upload::{NarReader, Object, ObjectSource, SourceError};

use crate::build;
use crate::core::{BuildStore, Core};
use crate::error::told;

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

/// The spool, and beyond it paths that must be on the store, of which nothing else is known.
struct Spooled<'s>(&'s Spool);

impl ObjectSource for Spooled<'_> {
    async fn references(&self, paths: &[StorePath]) -> Result<Vec<Vec<StorePath>>, SourceError> {
        let found = self.0.references(paths.to_vec()).await?;
        Ok(found.into_iter().map(Option::unwrap_or_default).collect())
    }

    fn absent(&self, paths: &[StorePath]) -> Option<SourceError> {
        let path = paths.iter().find(|path| !self.0.contains(path))?;
        Some(SourceError::Missing {
            path: path.clone(),
            place: "the spool".to_owned(),
        })
    }

    async fn objects(&self, paths: &[StorePath]) -> Result<Vec<Object>, SourceError> {
        self.0.objects(paths).await
    }

    async fn nar(&self, path: &StorePath) -> Result<NarReader, SourceError> {
        ObjectSource::nar(self.0, path).await
    }
}

/// Asks a store what it lacks of the closures of `roots`, sends that, and returns how many paths that were. The roots are
/// kept there for as long as the connection lasts.
///
/// What the spool does not know itself is taken as having no references: it must be on the store. Two that share a
/// closure do not send it twice: they take turns. Cancelling it leaves whole paths behind and a connection that must not
/// be used again.
pub(crate) async fn forward(
    core: &Core,
    store: &BuildStore,
    connection: &mut Connection,
    roots: &[StorePath],
) -> Result<u64, ForwardError> {
    let _turn = store.uploading.acquire().await;
    let sent = transfer(connection, &Spooled(&core.spool), roots, &store.has, |_| ()).await;
    sent.map(|sent| sent.paths).map_err(|error| match &error {
        TransferError::Store(client) if client.is_remote() && !build::is_about_the_store(&told(&error)) => {
            ForwardError::Refused(told(&error))
        }
        // It will not learn to take uploads by being asked again.
        TransferError::Store(client::Error::Unsupported(_)) => ForwardError::Refused(told(&error)),
        TransferError::Source(SourceError::Missing { path, .. }) => ForwardError::Missing { path: path.clone() },
        TransferError::Source(error @ SourceError::Spool(_)) => ForwardError::Spool(told(error)),
        TransferError::Source(_)
        | TransferError::Store(_)
        | TransferError::Object(_)
        | TransferError::Collected { .. } => ForwardError::Store(told(&error)),
    })
}
