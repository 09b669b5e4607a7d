//! Builds that could run, in the order in which they shall.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use nixci_store::index::DrvId;

use super::event::Priority;

/// Where a ready build stands: its class, the project whose turn it uses, the longest path above it
/// (longest first), and the order of arrival.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) priority: Priority,
    pub(super) project: i64,
    pub(super) height: u32,
    pub(super) arrival: u64,
}

/// The ready builds of one store.
///
/// Choosing costs a look at each project that has something ready, and a logarithm of how much: fair
/// between projects by the number of builds each was given, whatever the size of its queue.
#[derive(Debug, Default)]
pub(super) struct Queue {
    classes: BTreeMap<Priority, BTreeMap<i64, BTreeSet<Entry>>>,
    /// Builds given to each project that has something here; a project that comes new starts level
    /// with the least served one.
    served: BTreeMap<i64, u64>,
    len: usize,
}

type Entry = (Reverse<u32>, u64, DrvId);

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn insert(&mut self, place: Place, drv: DrvId) {
        let least = self.served.values().min().copied().unwrap_or(0);
        self.served.entry(place.project).or_insert(least);
        let queue = self
            .classes
            .entry(place.priority)
            .or_default()
            .entry(place.project)
            .or_default();
        if queue.insert((Reverse(place.height), place.arrival, drv)) {
            self.len += 1;
        }
    }

    pub(super) fn remove(&mut self, place: Place, drv: DrvId) {
        if let Some(projects) = self.classes.get_mut(&place.priority)
            && let Some(queue) = projects.get_mut(&place.project)
            && queue.remove(&(Reverse(place.height), place.arrival, drv))
        {
            self.len -= 1;
            self.forget_if_empty(place.priority, place.project);
        }
    }

    /// Takes the build whose turn it is.
    pub(super) fn pop(&mut self) -> Option<DrvId> {
        let (&priority, projects) = self.classes.first_key_value()?;
        let &project = projects
            .keys()
            .min_by_key(|p| self.served.get(p).copied().unwrap_or(0))?;
        let (_, _, drv) = self.classes.get_mut(&priority)?.get_mut(&project)?.pop_first()?;
        self.len -= 1;
        *self.served.entry(project).or_insert(0) += 1;
        self.forget_if_empty(priority, project);
        Some(drv)
    }

    fn forget_if_empty(&mut self, priority: Priority, project: i64) {
        if let Some(projects) = self.classes.get_mut(&priority) {
            if projects.get(&project).is_some_and(BTreeSet::is_empty) {
                projects.remove(&project);
            }
            if projects.is_empty() {
                self.classes.remove(&priority);
            }
        }
        if !self.classes.values().any(|projects| projects.contains_key(&project)) {
            self.served.remove(&project);
        }
    }
}
