//! Copies from stores into the spool: what new objects refer to and only a store has.
//!
//! Clients send what is valid nowhere. What their objects refer to may be valid on a store only, and whatever is in
//! the spool has its references there, so that it can be forwarded to any store.

use std::collections::{BTreeSet, HashSet};

use nixci_protocol::types::StorePath;
use nixci_store::spool::{Authority, Verified};

use super::{ObjectError, Objects, Place, nar};

/// Objects that are made durable together.
const BATCH_OBJECTS: usize = 4_096;
/// Bytes of their NARs.
const BATCH_BYTES: u64 = 16 << 20;

impl Objects {
    /// Copies the closures of these paths from the stores, as far as they are not in the spool, and returns the
    /// derivations among them. What no store has is left out: the objects that refer to it will be refused.
    pub(crate) async fn bring(&self, paths: BTreeSet<StorePath>) -> Result<Vec<StorePath>, ObjectError> {
        let mut found = Vec::new();
        let mut seen: HashSet<StorePath> = HashSet::new();
        let mut next: Vec<StorePath> = paths.into_iter().collect();
        while !next.is_empty() {
            next.retain(|path| !self.spool.contains(path) && seen.insert(path.clone()));
            let infos = self.find(&next).await?;
            next = Vec::new();
            for (info, place) in infos.into_iter().flatten() {
                next.extend(info.info.references.iter().cloned());
                found.push((info, place));
            }
        }
        let mut derivations = Vec::new();
        let mut batch: Vec<Verified> = Vec::new();
        let mut waiting: HashSet<StorePath> = HashSet::new();
        let mut bytes = 0;
        // References first, so that each batch stands by itself.
        while !found.is_empty() {
            let before = found.len();
            let mut left = Vec::new();
            for (info, place) in found {
                let there =
                    |path: &StorePath| *path == info.path || waiting.contains(path) || self.spool.contains(path);
                let (true, Place::Store(nth)) = (info.info.references.iter().all(there), place) else {
                    left.push((info, place));
                    continue;
                };
                let nar = nar::stream(&self.stores[nth], &info.path, info.info.nar_size).await?;
                let mut reader = nar.reader;
                batch.push(
                    self.spool
                        .receive((*info).clone(), &mut reader, Authority::Trusted)
                        .await?,
                );
                bytes += info.info.nar_size;
                waiting.insert(info.path.clone());
                if info.path.is_derivation() {
                    derivations.push(info.path.clone());
                }
                if batch.len() >= BATCH_OBJECTS || bytes >= BATCH_BYTES {
                    self.spool.add(std::mem::take(&mut batch)).await?;
                    waiting.clear();
                    bytes = 0;
                }
            }
            if left.len() == before {
                // What they need is nowhere.
                break;
            }
            found = left;
        }
        self.spool.add(batch).await?;
        Ok(derivations)
    }
}
