//! Store objects, wherever they are: the one way in which the doors and the pages read them.
//!
//! In spool mode an object is looked for in the spool, then where the index saw it, then in every store behind, in
//! the order of the configuration. Where clients share a disk with the first store, only that store's word counts.
//!
//! **Known answers.** What a store says is valid is remembered while temporary roots keep it there ([`lease`],
//! [`generation`]), and then answered without asking. That something is not there is never remembered. An answer
//! says what holds at that moment, as a store's own does; only a client that asked for a temporary root keeps one
//! for as long as it is connected ([`Roots`]).

mod behind;
mod bring;
mod error;
mod generation;
mod lease;
mod more;
mod nar;
mod warm;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use nixci_protocol::op;
use nixci_protocol::types::{PathInfo, StorePath};
use nixci_store::index::{Index, paths};
use nixci_store::logs::Logs;
use nixci_store::remote::Remote;
use nixci_store::spool::Spool;
use tracing::warn;

pub(crate) use error::ObjectError;
pub(crate) use generation::Roots;
pub(crate) use more::knows_paths_only;
pub(crate) use warm::Warm;

use crate::config::{Config, Writes};
use crate::error::told;
use crate::shutdown::Shutdown;
use crate::sign::Signer;
use behind::Behind;
use generation::Room;
use lease::{Lease, Pause, Terms};

/// Where objects are read from. Shared by all who read.
#[derive(Debug)]
pub(crate) struct Objects {
    index: Index,
    spool: Spool,
    logs: Logs,
    /// Those that count, in the order of the configuration.
    stores: Vec<Behind>,
    writes: Writes,
    room: Room,
}

/// The connections to one store that the doors use.
#[derive(Debug, Clone)]
pub(crate) struct Readers {
    /// Those that have the settings of the configuration.
    pub(crate) plain: Remote,
    /// Idle ones on which a client set how its builds are run. They serve clients that do so too.
    pub(crate) set: Remote,
}

/// While it lives no answer of a store is remembered: a collection is under way.
#[must_use = "answers are remembered again when it is dropped"]
#[derive(Debug)]
pub(crate) struct Retired {
    _pauses: Vec<Pause>,
}

/// Who has an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Spool,
    /// A store, by its number.
    Store(usize),
}

impl Objects {
    /// `stores` are all that are configured; which of them count depends on what writes do.
    pub(crate) fn new(
        (index, spool, logs): (Index, Spool, Logs),
        stores: impl IntoIterator<Item = Readers>,
        signer: &Signer,
        config: &Config,
        stop: &Shutdown,
    ) -> Self {
        let writes = config.listen.writes;
        let count = match writes {
            Writes::Spool => usize::MAX,
            Writes::Through => 1,
        };
        let room = Room {
            paths: config.limits.known_paths,
            infos: config.limits.known_infos,
        };
        let terms = Terms {
            life: config.limits.known_time,
            room,
        };
        let behind = |readers: Readers| {
            let (lease, holding) = Lease::new(readers.clone(), terms, signer.clone());
            let stopped = stop.builds.clone();
            stop.working
                .spawn(async move { stopped.run_until_cancelled(holding).await });
            Behind::new(readers, lease, signer.clone())
        };
        Self {
            index,
            spool,
            logs,
            stores: stores.into_iter().take(count).map(behind).collect(),
            writes,
            room,
        }
    }

    /// Whether the spool has a path and may answer for it.
    pub(crate) fn spooled(&self, path: &StorePath) -> bool {
        match self.writes {
            Writes::Spool => self.spool.contains(path),
            Writes::Through => false,
        }
    }

    /// Whether a path is known to be valid without asking.
    pub(crate) fn is_known(&self, path: &StorePath) -> bool {
        self.spooled(path) || self.generations().any(|generation| generation.is_valid(path))
    }

    /// Promises a root for as long as `roots` lives, where the path is one of those that are known.
    pub(crate) fn promise(&self, path: &StorePath, roots: &mut Roots) -> bool {
        self.spooled(path) || self.generations().any(|generation| generation.promise(path, roots))
    }

    /// What is known of a path without asking.
    pub(crate) fn known_info(&self, path: &StorePath) -> Option<Arc<PathInfo>> {
        if self.spooled(path) {
            return None;
        }
        self.generations().find_map(|generation| generation.info(path))
    }

    /// Whether a path is valid.
    pub(crate) async fn is_valid(&self, path: &StorePath) -> Result<bool, ObjectError> {
        if self.is_known(path) {
            return Ok(true);
        }
        Ok(!self.valid(BTreeSet::from([path.clone()])).await?.is_empty())
    }

    /// The valid ones among these.
    pub(crate) async fn valid(&self, asked: BTreeSet<StorePath>) -> Result<BTreeSet<StorePath>, ObjectError> {
        let (mut valid, mut left) = match self.writes {
            Writes::Spool => asked.into_iter().partition(|path| self.spool.contains(path)),
            Writes::Through => (BTreeSet::new(), asked),
        };
        for generation in self.generations() {
            let (mut known, rest) = generation.part(left);
            valid.append(&mut known);
            left = rest;
        }
        let mut failures = Failures::default();
        let places = self.places(left.iter().cloned().collect()).await?;
        for (nth, paths) in places {
            if left.is_empty() {
                break;
            }
            let asked = match paths {
                Some(paths) => &paths.into_iter().collect(),
                None => &left,
            };
            match self.stores[nth].valid(asked).await {
                Ok(mut found) => {
                    self.stores[nth]
                        .lease
                        .learn(found.iter().cloned().collect(), false, self.room);
                    left.retain(|path| !found.contains(path));
                    valid.append(&mut found);
                }
                Err(error) => failures.add(self, nth, error)?,
            }
        }
        Ok(valid)
    }

    /// What is known of a path; none when it is not valid.
    pub(crate) async fn info(&self, path: &StorePath) -> Result<Option<Arc<PathInfo>>, ObjectError> {
        if let Some(info) = self.known_info(path) {
            return Ok(Some(info));
        }
        let mut infos = self.infos(std::slice::from_ref(path)).await?;
        Ok(infos.pop().flatten())
    }

    /// What is known of paths, in the order given; none for those that are not valid.
    pub(crate) async fn infos(&self, asked: &[StorePath]) -> Result<Vec<Option<Arc<PathInfo>>>, ObjectError> {
        let found = self.find(asked).await?;
        Ok(found.into_iter().map(|found| found.map(|(info, _)| info)).collect())
    }

    /// The NAR of a path, streamed from whoever has it; none when it is not valid.
    ///
    /// Reading it fails where the store breaks off or sends another size than it said; dropping it frees the store.
    pub(crate) async fn nar(&self, path: &StorePath) -> Result<Option<op::Nar>, ObjectError> {
        let Some((info, place)) = self.find(std::slice::from_ref(path)).await?.pop().flatten() else {
            return Ok(None);
        };
        match place {
            Place::Spool => {
                let reader = self.spool.nar(path).await?;
                let reader = reader.ok_or_else(|| ObjectError::Gone { path: path.clone() })?;
                Ok(Some(op::Nar::new(reader.size(), reader)))
            }
            Place::Store(nth) => Ok(Some(nar::stream(&self.stores[nth], path, info.info.nar_size).await?)),
        }
    }

    /// Lets go of everything that keeps paths alive only because somebody asked about them: to be called before a
    /// collection, and kept until it is over. What clients took roots for stays rooted.
    pub(crate) async fn retire(&self) -> Retired {
        let mut pauses = Vec::with_capacity(self.stores.len());
        for store in &self.stores {
            pauses.push(store.lease.retire().await);
        }
        Retired { _pauses: pauses }
    }

    /// Takes back what is known of a path besides that it is valid, because it was changed.
    pub(crate) fn forget(&self, path: &StorePath) {
        for store in &self.stores {
            store.lease.forget(path);
        }
    }

    fn generations(&self) -> impl Iterator<Item = Arc<generation::Generation>> {
        self.stores.iter().filter_map(|store| store.lease.current())
    }

    async fn find(&self, asked: &[StorePath]) -> Result<Vec<Option<(Arc<PathInfo>, Place)>>, ObjectError> {
        let mut found: HashMap<StorePath, (Arc<PathInfo>, Place)> = HashMap::with_capacity(asked.len());
        let (spooled, mut left): (Vec<_>, Vec<_>) = asked.iter().cloned().partition(|path| self.spooled(path));
        if !spooled.is_empty() {
            let infos = self.spool.infos(spooled.clone()).await?;
            for (path, info) in spooled.into_iter().zip(infos) {
                match info {
                    Some(info) => drop(found.insert(path, (Arc::new(info), Place::Spool))),
                    // Its digest is that of another path: stores say what it is.
                    None => left.push(path),
                }
            }
        }
        for (nth, store) in self.stores.iter().enumerate() {
            if let Some(generation) = store.lease.current() {
                left.retain(|path| match generation.info(path) {
                    Some(info) => {
                        found.insert(path.clone(), (info, Place::Store(nth)));
                        false
                    }
                    None => true,
                });
            }
        }
        let mut failures = Failures::default();
        let places = self.places(left.clone()).await?;
        for (nth, paths) in places {
            let paths = paths.unwrap_or_else(|| left.clone());
            if paths.is_empty() {
                continue;
            }
            match self.stores[nth].infos(&paths).await {
                Ok(infos) => {
                    let mut infos: HashMap<StorePath, PathInfo> =
                        infos.into_iter().map(|info| (info.path.clone(), info)).collect();
                    let paths = infos.keys().cloned().collect();
                    self.stores[nth].lease.learn(paths, true, self.room);
                    left.retain(|path| match infos.remove(path) {
                        Some(info) => {
                            found.insert(path.clone(), (Arc::new(info), Place::Store(nth)));
                            false
                        }
                        None => true,
                    });
                }
                Err(error) => failures.add(self, nth, error)?,
            }
        }
        Ok(asked.iter().map(|path| found.get(path).cloned()).collect())
    }

    /// Which stores to ask about these paths, in which order: where the index saw them first, then everywhere about
    /// all that are left, which is `None`. Stores that cannot be reached are passed over while others can.
    async fn places(&self, asked: Vec<StorePath>) -> Result<Vec<(usize, Option<Vec<StorePath>>)>, ObjectError> {
        if asked.is_empty() {
            return Ok(Vec::new());
        }
        let reachable = |nth: &usize| !self.stores[*nth].is_lost();
        let mut in_order: Vec<usize> = (0..self.stores.len()).filter(reachable).collect();
        if in_order.is_empty() {
            in_order = (0..self.stores.len()).collect();
        }
        let mut places = Vec::new();
        if in_order.len() > 1 {
            let mut seen = self.index.read(move |conn| seen(conn, asked)).await?;
            let names = in_order.iter().map(|nth| (*nth, self.stores[*nth].name.as_str()));
            places.extend(names.filter_map(|(nth, name)| Some((nth, Some(seen.remove(name)?)))));
        }
        places.extend(in_order.into_iter().map(|nth| (nth, None)));
        Ok(places)
    }
}

/// Which store the index saw each path in last.
fn seen(
    conn: &rusqlite::Connection,
    asked: Vec<StorePath>,
) -> nixci_store::index::Result<HashMap<String, Vec<StorePath>>> {
    let mut seen: HashMap<String, Vec<StorePath>> = HashMap::new();
    for path in asked {
        if let Some(store) = paths::stores(conn, &path)?.into_iter().next() {
            seen.entry(store).or_default().push(path);
        }
    }
    Ok(seen)
}

/// Stores that did not answer while others may.
#[derive(Debug, Default)]
struct Failures {
    stores: BTreeSet<usize>,
    last: Option<ObjectError>,
}

impl Failures {
    /// An error of the last store that could have answered is everybody's.
    fn add(&mut self, objects: &Objects, nth: usize, error: ObjectError) -> Result<(), ObjectError> {
        let store = &objects.stores[nth];
        if let ObjectError::Unreachable(_) = error {
            store.lose();
        }
        self.stores.insert(nth);
        if self.stores.len() == objects.stores.len() {
            return Err(error);
        }
        warn!(store = store.name, "asking other stores: {}", told(&error));
        self.last = Some(error);
        Ok(())
    }

    /// That nobody has it can be said only where all answered.
    fn nobody<T>(self) -> Result<Option<T>, ObjectError> {
        self.last.map_or(Ok(None), Err)
    }
}

#[cfg(test)]
mod tests;
