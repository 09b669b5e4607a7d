//! What has objects to send.

use bytes::Bytes;
use nixci_protocol::types::{PathInfo, StorePath};
use tokio::io::AsyncRead;

use crate::derivation::DerivationError;
use crate::remote::Unreachable;
use crate::spool::{self, Spool};

/// The NAR of an object, to be read to its end.
pub type NarReader = Box<dyn AsyncRead + Send + Unpin>;

/// Something that has objects and knows what they refer to: the local store, or the spool.
pub trait ObjectSource: Sync {
    /// What each path refers to, in the order of the paths.
    fn references(&self, paths: &[StorePath]) -> impl Future<Output = Result<Vec<Vec<StorePath>>, SourceError>> + Send;

    /// Why the first of these cannot be had, where that is known without reading: a source may name paths that only the
    /// other store is expected to have.
    fn absent(&self, _paths: &[StorePath]) -> Option<SourceError> {
        None
    }

    /// What is known of each path, and its NAR if that is small, in the order of the paths. What it returns is held in
    /// memory, so callers ask for a few hundred paths at a time.
    fn objects(&self, paths: &[StorePath]) -> impl Future<Output = Result<Vec<Object>, SourceError>> + Send;

    /// The NAR of one path, exactly as many bytes as its info says.
    fn nar(&self, path: &StorePath) -> impl Future<Output = Result<NarReader, SourceError>> + Send;
}

/// An object to send.
#[derive(Debug)]
pub struct Object {
    /// What is known of it.
    pub info: PathInfo,
    /// Its NAR, unless it is large: then it is to be asked for when its turn comes.
    pub nar: Option<Bytes>,
}

/// Why an object cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It is not there.
    #[error("{path} is not in {place}")]
    Missing {
        /// The path.
        path: StorePath,
        /// Where it was looked for.
        place: String,
    },
    /// Its file cannot be read.
    #[error("cannot read {path} from {place}")]
    Read {
        /// The path.
        path: StorePath,
        /// The file.
        place: String,
        /// What the system said.
        #[source]
        error: std::io::Error,
    },
    /// It is a derivation that makes no sense.
    #[error(transparent)]
    Derivation(#[from] DerivationError),
    /// The store that knows about it cannot be reached.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The store that knows about it did not tell.
    #[error("cannot ask {place}: {error}")]
    Ask {
        /// The store.
        place: String,
        /// What went wrong.
        error: nixci_protocol::client::Error,
    },
    /// The spool failed.
    #[error(transparent)]
    Spool(Box<spool::Error>),
    /// The work was stopped, because the process ends.
    #[error("reading was stopped")]
    Stopped,
}

impl From<spool::Error> for SourceError {
    fn from(error: spool::Error) -> Self {
        Self::Spool(Box::new(error))
    }
}

impl ObjectSource for Spool {
    async fn references(&self, paths: &[StorePath]) -> Result<Vec<Vec<StorePath>>, SourceError> {
        let found = Self::references(self, paths.to_vec()).await?;
        found
            .into_iter()
            .zip(paths)
            .map(|(found, path)| found.ok_or_else(|| not_spooled(path)))
            .collect()
    }

    async fn objects(&self, paths: &[StorePath]) -> Result<Vec<Object>, SourceError> {
        let infos = self.infos(paths.to_vec()).await?;
        let mut objects = Vec::with_capacity(paths.len());
        for (info, path) in infos.into_iter().zip(paths) {
            let info = info.ok_or_else(|| not_spooled(path))?;
            let nar = self.small(path).await?;
            objects.push(Object { info, nar });
        }
        Ok(objects)
    }

    async fn nar(&self, path: &StorePath) -> Result<NarReader, SourceError> {
        let nar = Self::nar(self, path).await?.ok_or_else(|| not_spooled(path))?;
        Ok(Box::new(nar))
    }
}

fn not_spooled(path: &StorePath) -> SourceError {
    SourceError::Missing {
        path: path.clone(),
        place: "the spool".to_owned(),
    }
}
