//! Copies from stores into the spool: what new objects refer to and only a store has.
//!
//! Clients send what is valid nowhere. What their objects refer to may be valid on a store only, and whatever is in
//! the spool has its references there, so that it can be forwarded to any store.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use nixci_protocol::types::{PathInfo, StorePath};
use nixci_store::spool::{Authority, LARGE, Verified};

use super::{ObjectError, Objects, Place, nar};

/// Objects that are made durable together.
const BATCH_OBJECTS: usize = 4_096;
/// Bytes of their NARs.
const BATCH_BYTES: u64 = 16 << 20;
/// Small objects that are asked for in one turn.
const NARS_AT_ONCE: usize = 256;
/// Bytes of their NARs.
const BYTES_AT_ONCE: u64 = 4 << 20;

/// An object, and the number of the store that has it.
type Found = (Arc<PathInfo>, usize);

impl Objects {
    /// Copies the closures of these paths from the stores, as far as they are not in the spool, and returns the
    /// derivations among them. What no store has is left out, and what needs that: the objects that refer to it will be
    /// refused.
    pub(crate) async fn bring(&self, paths: BTreeSet<StorePath>) -> Result<Vec<StorePath>, ObjectError> {
        let mut found: Vec<Found> = Vec::new();
        let mut seen: HashSet<StorePath> = HashSet::new();
        let mut next: Vec<StorePath> = paths.into_iter().collect();
        while !next.is_empty() {
            next.retain(|path| !self.spool.contains(path) && seen.insert(path.clone()));
            let infos = self.find(&next).await?;
            next = Vec::new();
            for (info, place) in infos.into_iter().flatten() {
                // What somebody put into the spool meanwhile is not brought.
                let Place::Store(nth) = place else { continue };
                next.extend(info.info.references.iter().cloned());
                found.push((info, nth));
            }
        }
        let ordered = references_first(&found, |path| self.spool.contains(path));
        let mut derivations = Vec::new();
        let mut batch: Vec<Verified> = Vec::new();
        let mut bytes = 0;
        let mut left = &ordered[..];
        while let Some(((info, nth), rest)) = left.split_first() {
            let store = &self.stores[*nth];
            let some = together(left);
            if some.is_empty() {
                let mut nar = nar::stream(store, &info.path, info.info.nar_size).await?;
                let object = self
                    .spool
                    .receive((**info).clone(), &mut nar.reader, Authority::Trusted);
                batch.push(object.await?);
                bytes += info.info.nar_size;
                left = rest;
            } else {
                let paths: Vec<StorePath> = some.iter().map(|(info, _)| info.path.clone()).collect();
                for ((info, _), nar) in some.iter().zip(nar::several(store, &paths, LARGE).await?) {
                    let mut nar = &nar[..];
                    let object = self.spool.receive((**info).clone(), &mut nar, Authority::Trusted);
                    batch.push(object.await?);
                    bytes += info.info.nar_size;
                }
                left = &left[some.len()..];
            }
            // References came first, so that each batch stands by itself.
            if batch.len() >= BATCH_OBJECTS || bytes >= BATCH_BYTES || left.is_empty() {
                let drvs = batch
                    .iter()
                    .map(|object| &object.info().path)
                    .filter(|path| path.is_derivation());
                derivations.extend(drvs.cloned());
                self.spool.add(std::mem::take(&mut batch)).await?;
                bytes = 0;
            }
        }
        Ok(derivations)
    }
}

/// The first of these, as far as they are small and on the same store.
fn together(ordered: &[Found]) -> &[Found] {
    let mut bytes = 0;
    let fits = |(info, nth): &&Found| {
        bytes += info.info.nar_size;
        info.info.nar_size < LARGE && bytes <= BYTES_AT_ONCE && *nth == ordered[0].1
    };
    let count = ordered.iter().take(NARS_AT_ONCE).take_while(fits).count();
    &ordered[..count]
}

/// The objects so that each comes after what it refers to; without those that need something that is neither among them
/// nor there.
fn references_first(found: &[Found], is_there: impl Fn(&StorePath) -> bool) -> Vec<Found> {
    let mut above: HashMap<StorePath, Vec<usize>> = HashMap::new();
    let mut waits: Vec<usize> = Vec::with_capacity(found.len());
    let mut ready: VecDeque<usize> = VecDeque::new();
    for (at, (info, _)) in found.iter().enumerate() {
        let needs = info.info.references.iter();
        let needs = needs.filter(|path| **path != info.path && !is_there(path));
        let mut count = 0;
        for path in needs {
            above.entry(path.clone()).or_default().push(at);
            count += 1;
        }
        if count == 0 {
            ready.push_back(at);
        }
        waits.push(count);
    }
    let mut ordered = Vec::with_capacity(found.len());
    while let Some(at) = ready.pop_front() {
        for above in above.remove(&found[at].0.path).into_iter().flatten() {
            waits[above] -= 1;
            if waits[above] == 0 {
                ready.push_back(above);
            }
        }
        ordered.push(found[at].clone());
    }
    ordered
}

#[cfg(test)]
mod tests {
    use nixci_protocol::types::{NarHash, UnkeyedPathInfo};

    use super::*;

    fn path(nth: u8) -> StorePath {
        StorePath::new([nth; 20], "thing").unwrap()
    }

    fn found(nth: u8, references: &[u8], nar_size: u64, store: usize) -> Found {
        let info = UnkeyedPathInfo {
            deriver: None,
            nar_hash: NarHash([0; 32]),
            references: references.iter().map(|nth| path(*nth)).collect(),
            registration_time: 0,
            nar_size,
            ultimate: false,
            signatures: BTreeSet::new(),
            ca: None,
        };
        (Arc::new(PathInfo { path: path(nth), info }), store)
    }

    fn numbers(found: &[Found]) -> Vec<u8> {
        found.iter().map(|(info, _)| info.path.digest()[0]).collect()
    }

    #[test]
    fn what_needs_something_that_is_nowhere_is_left_out() {
        let all = vec![
            found(5, &[4, 3], 1, 0),
            found(4, &[3, 1], 1, 0),
            found(3, &[3, 2], 1, 0),
            found(2, &[], 1, 0),
            // 1 is in the spool, 9 nowhere, and 7 and 8 make a circle.
            found(6, &[9], 1, 0),
            found(7, &[8], 1, 0),
            found(8, &[7], 1, 0),
            found(10, &[6, 2], 1, 0),
        ];
        let ordered = references_first(&all, |it| *it == path(1));
        assert_eq!(numbers(&ordered), [2, 3, 4, 5]);
    }

    #[test]
    fn small_objects_of_one_store_are_read_together() {
        let half = BYTES_AT_ONCE / 2;
        assert!(half >= LARGE);
        let small: Vec<Found> = (0..40).map(|nth| found(nth, &[], BYTES_AT_ONCE / 32, 0)).collect();
        assert_eq!(together(&small).len(), 32);
        let mixed = [found(0, &[], 1, 1), found(1, &[], 1, 1), found(2, &[], 1, 0)];
        assert_eq!(numbers(together(&mixed)), [0, 1]);
        assert!(together(&[found(0, &[], LARGE, 0)]).is_empty());
    }
}
