//! What is remembered of another store.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nixci_protocol::types::StorePath;

/// Digests of paths.
pub type Digests = HashSet<[u8; 20], foldhash::fast::RandomState>;

/// Paths that one store was heard to have, or was sent. It may have lost any of them since, so that nothing follows
/// from them but what to ask it first.
///
/// About 25 bytes a path, and never more paths than its limit: where more come it begins anew.
#[derive(Debug, Default)]
pub struct Memory {
    // Held for look-ups and insertions only.
    known: Mutex<Arc<Digests>>,
    limit: usize,
}

impl Memory {
    /// Remembers at most `limit` paths; with 0 none.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            known: Mutex::default(),
            limit,
        }
    }

    /// What is remembered now.
    #[must_use]
    pub fn known(&self) -> Arc<Digests> {
        self.lock().clone()
    }

    /// Takes in paths that are valid there.
    pub fn learn<'p>(&self, paths: impl IntoIterator<Item = &'p StorePath>) {
        if self.limit == 0 {
            return;
        }
        let mut known = self.lock();
        // Copied only where a negotiation still looks at it.
        let known = Arc::make_mut(&mut known);
        for path in paths {
            if known.len() >= self.limit && !known.contains(path.digest()) {
                *known = Digests::default();
            }
            known.insert(*path.digest());
        }
    }

    /// Forgets everything, because paths are gone from there.
    pub fn clear(&self) {
        *self.lock() = Arc::default();
    }

    fn lock(&self) -> MutexGuard<'_, Arc<Digests>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(nth: u8) -> StorePath {
        StorePath::new([nth; 20], "thing").unwrap()
    }

    #[test]
    fn there_is_never_more_than_the_limit() {
        let memory = Memory::new(2);
        memory.learn(&[path(0), path(1), path(0)]);
        assert_eq!(*memory.known(), [[0; 20], [1; 20]].into_iter().collect());
        memory.learn(&[path(2)]);
        assert_eq!(*memory.known(), std::iter::once([2; 20]).collect());
        memory.clear();
        assert_eq!(memory.known().len(), 0);
        let none = Memory::default();
        none.learn(&[path(0)]);
        assert_eq!(none.known().len(), 0);
    }
}
