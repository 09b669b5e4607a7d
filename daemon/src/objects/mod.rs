//! Store objects, wherever they are: the one way in which the doors and the pages read them.
//!
//! In spool mode an object is looked for in the spool, then where the index saw it, then in every store behind, in
//! the order of the configuration. Where clients share a disk with the first store, only that store's word counts.

mod behind;
mod error;
mod nar;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use nixci_protocol::op::{self, RealisationKey, Realisations};
use nixci_protocol::types::{DrvOutput, PathInfo, Realisation, StorePath};
use nixci_store::index::{Index, paths};
use nixci_store::logs::{Follow, Logs};
use nixci_store::remote::Remote;
use nixci_store::spool::Spool;

pub(crate) use error::ObjectError;

use crate::config::Writes;
use crate::logs;
use behind::Behind;

/// Where objects are read from. Shared by all who read.
#[derive(Debug)]
pub(crate) struct Objects {
    index: Index,
    spool: Spool,
    logs: Logs,
    /// Those that count, in the order of the configuration.
    stores: Vec<Behind>,
    writes: Writes,
}

impl Objects {
    /// `stores` are all that are configured; which of them count depends on what writes do.
    pub(crate) fn new(
        index: Index,
        spool: Spool,
        logs: Logs,
        stores: impl IntoIterator<Item = Remote>,
        writes: Writes,
    ) -> Self {
        let count = match writes {
            Writes::Spool => usize::MAX,
            Writes::Through => 1,
        };
        let behind = |remote: Remote| Behind {
            name: remote.name().to_owned(),
            remote,
        };
        Self {
            index,
            spool,
            logs,
            stores: stores.into_iter().take(count).map(behind).collect(),
            writes,
        }
    }

    /// Whether the spool has a path and may answer for it.
    pub(crate) fn spooled(&self, path: &StorePath) -> bool {
        match self.writes {
            Writes::Spool => self.spool.contains(path),
            Writes::Through => false,
        }
    }

    /// The valid ones among these.
    pub(crate) async fn valid(&self, asked: BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, ObjectError> {
        let (mut valid, mut left): (BTreeSet<_>, BTreeSet<_>) = asked.into_iter().partition(|path| self.spooled(path));
        for (store, paths) in self.recorded(left.iter()).await? {
            let mut found = store.valid(&paths.into_iter().collect()).await?;
            left.retain(|path| !found.contains(path));
            valid.append(&mut found);
        }
        for store in &self.stores {
            if left.is_empty() {
                break;
            }
            let mut found = store.valid(&left).await?;
            left.retain(|path| !found.contains(path));
            valid.append(&mut found);
        }
        Ok(valid)
    }

    /// What is known of a path; none when it is not valid.
    pub(crate) async fn info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, ObjectError> {
        let mut infos = self.infos(std::slice::from_ref(path)).await?;
        Ok(infos.pop().flatten())
    }

    /// What is known of paths, in the order given; none for those that are not valid.
    pub(crate) async fn infos(&self, asked: &[StorePath]) -> Result<Vec<Option<Arc<PathInfo>>>, ObjectError> {
        Ok(self
            .found(asked)
            .await?
            .into_iter()
            .map(|found| found.map(|(info, _)| info))
            .collect())
    }

    /// The NAR of a path, streamed from whoever has it; none when it is not valid.
    ///
    /// Reading it fails where the store breaks off or sends another size than it said; dropping it frees the store.
    pub(crate) async fn nar(&self, path: &StorePath) -> Result<Option<op::Nar>, ObjectError> {
        let Some((info, place)) = self.found(std::slice::from_ref(path)).await?.pop().flatten() else {
            return Ok(None);
        };
        match place {
            Place::Spool => {
                let reader = self.spool.nar(path).await?;
                let reader = reader.ok_or_else(|| ObjectError::Gone { path: path.clone() })?;
                Ok(Some(op::Nar {
                    size: reader.size(),
                    reader: Box::new(reader),
                }))
            }
            Place::Store(nth) => Ok(Some(nar::stream(&self.stores[nth], path, info.info.nar_size).await?)),
        }
    }

    /// The valid path with this hash part.
    pub(crate) async fn by_hash_part(&self, digest: &[u8; 20]) -> Result<Option<StorePath>, ObjectError> {
        let question = op::QueryPathFromHashPart {
            hash_part: nixci_protocol::types::nix32::encode(digest),
        };
        for store in &self.stores {
            if let Some(path) = store.ask(&question).await? {
                return Ok(Some(path));
            }
        }
        Ok(None)
    }

    /// The path a store says an output of a content-addressed derivation was realised at.
    pub(crate) async fn realisation(&self, id: &DrvOutput) -> Result<Option<Realisation>, ObjectError> {
        let question = op::QueryRealisation {
            key: RealisationKey::Hashed(id.clone()),
        };
        for store in &self.stores {
            match store.ask(&question).await? {
                Realisations::Hashed(found) => {
                    if let Some(realisation) = found.into_iter().next() {
                        return Ok(Some(realisation));
                    }
                }
                Realisations::Named(_) => {}
            }
        }
        Ok(None)
    }

    /// The log of the last build of a derivation, or of one that makes this output, up to now.
    pub(crate) async fn log(&self, path: &StorePath) -> Result<Option<Follow>, ObjectError> {
        let path = path.clone();
        let attempt = self.index.read(move |conn| logs::of_object(conn, &path)).await?;
        Ok(attempt.map(|attempt| self.logs.read(attempt.id)))
    }

    /// Lets go of everything that keeps a path alive only because it was asked about. Called before a collection.
    pub(crate) async fn retire(&self) {
        for store in &self.stores {
            store.remote.close_idle();
        }
    }

    async fn found(&self, asked: &[StorePath]) -> Result<Vec<Option<(Arc<PathInfo>, Place)>>, ObjectError> {
        let mut found: HashMap<StorePath, (Arc<PathInfo>, Place)> = HashMap::new();
        let (spooled, mut left): (Vec<_>, Vec<_>) = asked.iter().cloned().partition(|path| self.spooled(path));
        if !spooled.is_empty() {
            for info in self.spool.infos(spooled).await?.into_iter().flatten() {
                found.insert(info.path.clone(), (Arc::new(info), Place::Spool));
            }
        }
        let recorded = self.recorded(left.iter()).await?;
        let recorded = recorded.into_iter().map(|(store, paths)| (store, Some(paths)));
        for (store, paths) in recorded.chain(self.stores.iter().map(|store| (store, None))) {
            let paths = paths.unwrap_or_else(|| left.clone());
            if paths.is_empty() {
                continue;
            }
            let nth = self.stores.iter().position(|one| std::ptr::eq(one, store)).unwrap_or(0);
            for info in store.infos(&paths).await?.into_iter().flatten() {
                found.insert(info.path.clone(), (Arc::new(info), Place::Store(nth)));
            }
            left.retain(|path| !found.contains_key(path));
        }
        Ok(asked.iter().map(|path| found.get(path).cloned()).collect())
    }

    /// Which stores the index saw these paths in last; asked only where there is a choice.
    async fn recorded<'p>(
        &self,
        asked: impl Iterator<Item = &'p StorePath>,
    ) -> Result<Vec<(&Behind, Vec<StorePath>)>, ObjectError> {
        if self.stores.len() < 2 {
            return Ok(Vec::new());
        }
        let asked: Vec<StorePath> = asked.cloned().collect();
        let seen = self
            .index
            .read(move |conn| {
                let mut seen: HashMap<String, Vec<StorePath>> = HashMap::new();
                for path in asked {
                    if let Some(store) = paths::stores(conn, &path)?.into_iter().next() {
                        seen.entry(store).or_default().push(path);
                    }
                }
                Ok(seen)
            })
            .await?;
        let store = |name: &str| self.stores.iter().find(|store| store.name == name);
        Ok(seen
            .into_iter()
            .filter_map(|(name, paths)| Some((store(&name)?, paths)))
            .collect())
    }
}

/// Who has an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Spool,
    /// A store, by its number.
    Store(usize),
}
