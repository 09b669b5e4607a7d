//! What one store was heard to have, for as long as temporary roots keep it there.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use nixci_protocol::types::{PathInfo, StorePath};

type Paths = HashMap<StorePath, Option<Arc<PathInfo>>, foldhash::fast::RandomState>;

/// Positive answers of one store. All its paths have temporary roots on one connection, the holder's; when that is
/// gone, or before it goes, the generation is [ended](Self::end) and answers nothing more.
///
/// Locks are held for look-ups and insertions only.
#[derive(Debug, Default)]
pub(super) struct Generation {
    known: RwLock<Known>,
}

#[derive(Debug, Default)]
struct Known {
    ended: bool,
    paths: Paths,
    infos: usize,
    /// How often infos were taken back; what was read before that is not put in after it.
    forgotten: u64,
    holds: Vec<Weak<Hold>>,
}

/// The paths that one client was promised by one generation. They keep their roots until it is dropped.
#[derive(Debug, Default)]
pub(super) struct Hold {
    paths: Mutex<HashSet<StorePath>>,
}

/// The roots that one client took without a connection of its own to a store.
#[derive(Debug, Default)]
pub(crate) struct Roots(Vec<(Weak<Generation>, Arc<Hold>)>);

/// How much is taken into memory.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Paths known to be valid, about 100 bytes each.
    pub(super) paths: usize,
    /// Infos among them, about a kilobyte each.
    pub(super) infos: usize,
}

impl Generation {
    fn read(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a path is known to be valid.
    pub(super) fn is_valid(&self, path: &StorePath) -> bool {
        self.read().paths.contains_key(path)
    }

    /// Parts what is known to be valid from the rest.
    pub(super) fn part(&self, asked: BTreeSet<StorePath>) -> (BTreeSet<StorePath>, BTreeSet<StorePath>) {
        let known = self.read();
        if known.paths.is_empty() {
            return (BTreeSet::new(), asked);
        }
        // Mostly all or nothing is known, and then no set has to be built again.
        if asked.iter().all(|path| known.paths.contains_key(path)) {
            return (asked, BTreeSet::new());
        }
        asked.into_iter().partition(|path| known.paths.contains_key(path))
    }

    /// What is known of a path.
    pub(super) fn info(&self, path: &StorePath) -> Option<Arc<PathInfo>> {
        self.read().paths.get(path).cloned().flatten()
    }

    /// Promises that a known path stays for as long as `roots` lives; false where the path is not known.
    pub(super) fn promise(self: &Arc<Self>, path: &StorePath, roots: &mut Roots) -> bool {
        // While this is held the generation does not end, so that who ends it sees the promise.
        let mut known = self.write();
        if !known.paths.contains_key(path) {
            return false;
        }
        let of_this = |(generation, _): &&(Weak<Self>, Arc<Hold>)| std::ptr::eq(generation.as_ptr(), Arc::as_ptr(self));
        let hold = if let Some((_, hold)) = roots.0.iter().find(of_this) {
            hold.clone()
        } else {
            let hold = Arc::new(Hold::default());
            known.holds.retain(|hold| hold.strong_count() > 0);
            known.holds.push(Arc::downgrade(&hold));
            roots.0.push((Arc::downgrade(self), hold.clone()));
            hold
        };
        hold.lock().insert(path.clone());
        true
    }

    /// Those of these that are still to be learned, as far as there is room.
    pub(super) fn lacking(&self, paths: Vec<StorePath>, with_infos: bool, room: Room) -> Vec<StorePath> {
        let known = self.read();
        if known.ended {
            return Vec::new();
        }
        let mut lacking = paths;
        lacking.retain(|path| match known.paths.get(path) {
            None => true,
            Some(info) => with_infos && info.is_none(),
        });
        let mut left = room.paths.saturating_sub(known.paths.len());
        if with_infos {
            left = left.min(room.infos.saturating_sub(known.infos));
        }
        lacking.truncate(left);
        lacking
    }

    /// What a reader of infos shows when it brings them.
    pub(super) fn forgotten(&self) -> u64 {
        self.read().forgotten
    }

    /// Takes in valid paths that have roots.
    pub(super) fn learn_paths(&self, paths: impl IntoIterator<Item = StorePath>) {
        let mut known = self.write();
        if known.ended {
            return;
        }
        for path in paths {
            known.paths.entry(path).or_default();
        }
    }

    /// Takes in infos of paths that have roots, unless some were taken back since they were read.
    pub(super) fn learn_infos(&self, infos: impl IntoIterator<Item = PathInfo>, forgotten: u64) {
        let mut known = self.write();
        if known.ended || known.forgotten != forgotten {
            return;
        }
        for mut info in infos {
            // Many refer to the same paths: one text for all.
            let shared = |path: &StorePath| known.paths.get_key_value(path).map(|(path, _)| path.clone());
            info.info.references = std::mem::take(&mut info.info.references)
                .into_iter()
                .map(|path| shared(&path).unwrap_or(path))
                .collect();
            if let Some(path) = shared(&info.path) {
                info.path = path;
            }
            let before = known.paths.insert(info.path.clone(), Some(Arc::new(info)));
            if before.flatten().is_none() {
                known.infos += 1;
            }
        }
    }

    /// Takes back what is known of a path besides that it is valid.
    pub(super) fn forget(&self, path: &StorePath) {
        let mut known = self.write();
        known.forgotten += 1;
        let known = &mut *known;
        if let Some(info) = known.paths.get_mut(path)
            && info.take().is_some()
        {
            known.infos -= 1;
        }
    }

    /// Ends it, and returns what clients were promised of it.
    pub(super) fn end(&self) -> Vec<Weak<Hold>> {
        let mut known = self.write();
        known.ended = true;
        known.infos = 0;
        known.paths = Paths::default();
        let mut holds = std::mem::take(&mut known.holds);
        holds.retain(|hold| hold.strong_count() > 0);
        holds
    }

    /// How many paths and infos are known.
    #[cfg(test)]
    fn len(&self) -> (usize, usize) {
        let known = self.read();
        (known.paths.len(), known.infos)
    }
}

impl Hold {
    fn lock(&self) -> MutexGuard<'_, HashSet<StorePath>> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The paths.
    pub(super) fn paths(&self) -> Vec<StorePath> {
        self.lock().iter().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use nixci_protocol::types::{NarHash, UnkeyedPathInfo};

    use super::*;

    const ROOM: Room = Room { paths: 3, infos: 2 };

    fn path(nth: u8) -> StorePath {
        StorePath::new([nth; 20], "thing").unwrap()
    }

    fn info(nth: u8) -> PathInfo {
        PathInfo {
            path: path(nth),
            info: UnkeyedPathInfo {
                deriver: None,
                nar_hash: NarHash([nth; 32]),
                references: BTreeSet::from([path(0)]),
                registration_time: 0,
                nar_size: 1,
                ultimate: false,
                signatures: BTreeSet::new(),
                ca: None,
            },
        }
    }

    #[test]
    fn a_path_of_another_name_is_not_known() {
        let generation = Generation::default();
        generation.learn_paths([path(1)]);
        assert!(generation.is_valid(&path(1)));
        assert!(!generation.is_valid(&StorePath::new([1; 20], "other").unwrap()));
        let asked = BTreeSet::from([path(1), path(2)]);
        assert_eq!(
            generation.part(asked),
            (BTreeSet::from([path(1)]), BTreeSet::from([path(2)]))
        );
    }

    #[test]
    fn no_more_is_learned_than_there_is_room_for() {
        let generation = Generation::default();
        let many: Vec<_> = (0..9).map(path).collect();
        assert_eq!(generation.lacking(many.clone(), false, ROOM).len(), 3);
        assert_eq!(generation.lacking(many.clone(), true, ROOM).len(), 2);
        generation.learn_infos([info(0), info(1)], 0);
        assert_eq!(generation.len(), (2, 2));
        assert_eq!(generation.lacking(many.clone(), true, ROOM), []);
        assert_eq!(generation.lacking(many, false, ROOM), [path(2)]);
    }

    #[test]
    fn an_info_that_was_read_before_it_changed_is_not_taken() {
        let generation = Generation::default();
        generation.learn_infos([info(1)], 0);
        let reading = generation.forgotten();
        generation.forget(&path(1));
        assert!(generation.is_valid(&path(1)) && generation.info(&path(1)).is_none());
        generation.learn_infos([info(1)], reading);
        assert!(generation.info(&path(1)).is_none());
        generation.learn_infos([info(1)], generation.forgotten());
        assert_eq!(generation.info(&path(1)).as_deref(), Some(&info(1)));
        assert_eq!(generation.len(), (1, 1));
    }

    #[test]
    fn what_was_promised_outlives_the_generation_and_nothing_else_does() {
        let generation = Arc::new(Generation::default());
        generation.learn_paths([path(1), path(2)]);
        let (mut stays, mut leaves) = (Roots::default(), Roots::default());
        assert!(generation.promise(&path(1), &mut stays));
        assert!(generation.promise(&path(2), &mut leaves));
        assert!(!generation.promise(&path(3), &mut stays));
        drop(leaves);
        let holds: Vec<_> = generation.end().iter().filter_map(Weak::upgrade).collect();
        let promised: Vec<_> = holds.iter().flat_map(|hold| hold.paths()).collect();
        assert_eq!(promised, [path(1)]);
        assert!(!generation.is_valid(&path(1)) && !generation.promise(&path(1), &mut stays));
        generation.learn_paths([path(1)]);
        assert!(!generation.is_valid(&path(1)), "it does not come back");
    }
}
