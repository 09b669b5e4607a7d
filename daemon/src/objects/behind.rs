//! One store behind the doors, asked in batches.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use nixci_protocol::client;
use nixci_protocol::op::{self, Call};
use nixci_protocol::types::{PathInfo, StorePath};
use nixci_store::remote::Remote;
use tokio::sync::Semaphore;

use crate::sign::Signer;

use super::lease::Lease;
use super::{ObjectError, Readers};

/// Paths in one `QueryValidPaths`.
const PATHS_PER_QUESTION: usize = 20_000;
/// `QueryPathInfo`s that are sent ahead of their answers.
const INFOS_AT_ONCE: usize = 4_096;
/// NARs that are read from one store at once; each has a connection of its own.
const STREAMS: usize = 256;
/// How long a store that cannot be reached is left alone where others may answer.
const LEFT_ALONE: Duration = Duration::from_secs(10);

/// A store, and connections for questions that nobody's options change.
#[derive(Debug)]
pub(super) struct Behind {
    pub(super) name: String,
    pub(super) remote: Remote,
    /// Idle connections with the settings of a client.
    pub(super) set: Remote,
    pub(super) lease: Lease,
    pub(super) signer: Signer,
    pub(super) streams: Arc<Semaphore>,
    /// When it could not be reached last. Held to look or to set.
    lost: Mutex<Option<Instant>>,
}

impl Behind {
    pub(super) fn new(readers: Readers, lease: Lease, signer: Signer) -> Self {
        Self {
            name: readers.plain.name().to_owned(),
            remote: readers.plain,
            set: readers.set,
            lease,
            signer,
            streams: Arc::new(Semaphore::new(STREAMS)),
            lost: Mutex::default(),
        }
    }

    /// Whether it could not be reached a moment ago.
    pub(super) fn is_lost(&self) -> bool {
        let lost = self.lost.lock().unwrap_or_else(PoisonError::into_inner);
        lost.is_some_and(|lost| lost.elapsed() < LEFT_ALONE)
    }

    pub(super) fn lose(&self) {
        *self.lost.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }

    pub(super) fn failed(&self, source: client::Error) -> ObjectError {
        ObjectError::Store {
            store: self.name.clone(),
            source,
        }
    }

    /// Asks one thing.
    pub(super) async fn ask<R: Call>(&self, question: &R) -> Result<R::Reply, ObjectError> {
        let mut connection = self.remote.acquire().await?;
        connection
            .call(question, &mut ())
            .await
            .map_err(|error| self.failed(error))
    }

    /// The valid ones among these.
    pub(super) async fn valid(&self, paths: &BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, ObjectError> {
        let mut valid = BTreeSet::new();
        let mut connection = self.remote.acquire().await?;
        let mut left = paths.iter();
        loop {
            let paths: BTreeSet<StorePath> = left.by_ref().take(PATHS_PER_QUESTION).cloned().collect();
            if paths.is_empty() {
                return Ok(valid);
            }
            let question = op::QueryValidPaths {
                paths,
                substitute: false,
            };
            let found = connection.call(&question, &mut ()).await;
            valid.append(&mut found.map_err(|error| self.failed(error))?);
        }
    }

    /// What it knows of those of these that are valid, signed where it built them.
    pub(super) async fn infos(&self, paths: &[StorePath]) -> Result<Vec<PathInfo>, ObjectError> {
        let mut infos = Vec::with_capacity(paths.len());
        let mut connection = self.remote.acquire().await?;
        for some in paths.chunks(INFOS_AT_ONCE) {
            let questions: Vec<_> = some.iter().cloned().map(|path| op::QueryPathInfo { path }).collect();
            let answers = connection.call_all(&questions, &mut ()).await;
            let answers = answers.map_err(|error| self.failed(error))?;
            infos.extend(some.iter().zip(answers).filter_map(|(path, info)| {
                info.map(|info| PathInfo {
                    path: path.clone(),
                    info,
                })
            }));
        }
        drop(connection);
        self.signer.sign(&self.remote, &mut infos).await;
        Ok(infos)
    }
}
