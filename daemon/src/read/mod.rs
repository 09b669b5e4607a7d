//! The answers: what the index remembers and what the scheduler does now, put together.
//!
//! Nothing here changes anything. A question costs a fixed number of reads whatever the number of jobs:
//! outcomes, blockers and attempts are asked for in batches. Every method may be cancelled at any await.

mod build;
mod cause;
mod counts;
mod error;
mod evaluation;
mod log;
mod outcome;
mod project;
mod report;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, Mutex, PoisonError};

use nixci_protocol::nixci::control::StoreStatus;
use nixci_protocol::types::{StoreDir, Trust};
use nixci_store::index::deliveries::{self, Waiting};
use nixci_store::index::{Index, statuses};
use nixci_store::logs::Logs;
use nixci_store::spool::Spool;

pub(crate) use build::attempt_summary;
pub use error::ReadError;
pub(crate) use evaluation::{Loaded, LoadedJob, View};
pub(crate) use log::{LINE_CHARS, LogPart};
pub(crate) use outcome::Idle;

use tokio::sync::broadcast;

use crate::advisory;
use crate::report::Outbox;
use crate::scheduler::{Change, Scheduler, StoreLoad};
use crate::settings::Pages;

/// Answers questions about evaluations, jobs and builds. Clones share everything.
#[derive(Debug, Clone)]
pub struct Reader {
    index: Index,
    logs: Logs,
    spool: Spool,
    scheduler: Scheduler,
    store_dir: StoreDir,
    pages: Pages,
    stores: Arc<[StoreName]>,
    outbox: Option<Outbox>,
    counts: Arc<counts::Remembered>,
}

/// What the configuration calls a store, and where it is.
#[derive(Debug, Clone)]
pub struct StoreName {
    /// Its name.
    pub name: String,
    /// Its URI.
    pub uri: String,
    /// What it told of itself when it was asked last.
    pub told: Told,
}

/// What a store told of itself when it was asked last. Clones share it; the lock is held for a copy.
#[derive(Debug, Clone, Default)]
pub struct Told(Arc<Mutex<Versions>>);

/// The versions of a store.
#[derive(Debug, Clone, Default)]
struct Versions {
    nix: Option<String>,
    protocol: Option<String>,
    /// It said that it does not trust us.
    distrusts: bool,
}

impl Told {
    /// Remembers what it told now, and whether it trusts us.
    pub(crate) fn note(&self, status: &StoreStatus, trust: Trust) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Versions {
            nix: status.version.clone(),
            protocol: status.protocol.clone(),
            distrusts: match trust {
                Trust::NotTrusted => true,
                Trust::Trusted | Trust::Unknown => false,
            },
        };
    }

    /// Whether it said that it does not trust us.
    pub(crate) fn distrusts(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).distrusts
    }

    fn versions(&self) -> Versions {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What a [`Reader`] reads from.
#[derive(Debug)]
pub struct Sources {
    /// What is remembered.
    pub index: Index,
    /// The logs of attempts.
    pub logs: Logs,
    /// What was uploaded; only its size is told.
    pub spool: Spool,
    /// What is being done.
    pub scheduler: Scheduler,
    /// The store directory whose paths are taken and told.
    pub store_dir: StoreDir,
    /// The address of the pages.
    pub pages: Pages,
    /// The stores, in the order in which the scheduler knows them.
    pub stores: Vec<StoreName>,
    /// Who tells forges; none where nobody does.
    pub outbox: Option<Outbox>,
}

impl Reader {
    /// Reads from these.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        Self {
            index: sources.index,
            logs: sources.logs,
            spool: sources.spool,
            scheduler: sources.scheduler,
            store_dir: sources.store_dir,
            pages: sources.pages,
            stores: sources.stores.into(),
            outbox: sources.outbox,
            counts: Arc::default(),
        }
    }

    /// The store directory whose paths it takes and tells.
    #[must_use]
    pub fn store_dir(&self) -> &StoreDir {
        &self.store_dir
    }

    /// The address of the pages, without a trailing slash; none when they are off.
    pub(crate) fn pages(&self) -> Option<Arc<str>> {
        self.pages.now()
    }

    /// What changes from now on; see [`Scheduler::changes`].
    pub(crate) fn changes(&self) -> broadcast::Receiver<Change> {
        self.scheduler.changes()
    }

    /// How many evaluations are not settled.
    pub(crate) async fn open_evaluations(&self) -> Result<usize, ReadError> {
        Ok(self.scheduler.evaluations().await?.len())
    }

    /// What forges have not got yet, by forge; those that have everything are left out.
    pub(crate) async fn unsent_statuses(&self) -> Result<Vec<statuses::Counts>, ReadError> {
        Ok(self.index.read(statuses::counts).await?)
    }

    /// How many webhook deliveries are not handled yet.
    pub(crate) async fn webhooks_waiting(&self) -> Result<Waiting, ReadError> {
        Ok(self.index.read(deliveries::waiting).await?)
    }

    /// How many objects the spool holds.
    pub(crate) fn spooled(&self) -> usize {
        self.spool.len()
    }

    /// How many connections and submissions protect what they use of the spool.
    pub(crate) fn leases(&self) -> usize {
        self.spool.leases()
    }

    /// How busy each store is.
    pub(crate) async fn load_of_stores(&self) -> Result<Vec<(StoreName, StoreLoad)>, ReadError> {
        let load = self.scheduler.load().await?;
        Ok(self.stores.iter().cloned().zip(load).collect())
    }

    /// The stores as the scheduler sees them: it knows a store that does not answer by its builds. None is contacted;
    /// versions, and the holes they have, are those of the last time.
    pub async fn stores(&self) -> Result<Vec<StoreStatus>, ReadError> {
        let status = |(store, load): (StoreName, StoreLoad)| {
            let versions = store.told.versions();
            StoreStatus {
                name: store.name,
                uri: store.uri,
                slots: load.slots,
                running: load.running,
                advisories: advisory::of(versions.nix.as_deref()),
                version: versions.nix,
                protocol: versions.protocol,
                error: load.down.map(|down| down.to_string()),
            }
        };
        Ok(self.load_of_stores().await?.into_iter().map(status).collect())
    }
}
