//! Which objects are valid, and which of them somebody was told so: they are not collected while it counts.
//!
//! **Leases.** What was answered or added while a [`Lease`] was in [use](Lease::busy) stays, with everything it refers
//! to, until the lease is dropped. A connection has one, so that "valid" holds until the connection ends.
//!
//! Nobody keeps a list of what it was told. Time is divided into *periods*, each of which ends when a collection
//! begins. Every valid object has a bit for each of the periods that still count in which anybody asked for it, and
//! every lease has a bit for each in which it was in use; the object is kept while the two have one in common. So an
//! answer costs one bit beside the digest that is looked up anyway, a lease costs six bytes however much it was told,
//! and no peer can make either grow. The price is that a lease also keeps what others were told in the same periods,
//! which is what one day's clients use. A connection that is idle for weeks keeps what was in use on the days on
//! which it asked, and nothing of the days since; one that asks every day for weeks keeps what was in use on all of
//! them, until it ends.
//!
//! There are [`PERIODS`]; where all of them still count, the two oldest become one. That keeps more, never less.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

type Digest = [u8; 20];
type Digests = HashMap<Digest, AtomicU16, foldhash::fast::RandomState>;

/// Periods that are told apart: bits of a [`Periods`].
const PERIODS: usize = u16::BITS as usize;

/// A set of periods.
type Periods = u16;

/// The digests of the valid objects, with the leases on them.
///
/// Locks are held for memory work only; `digests` is taken before `leases`.
#[derive(Debug)]
pub(super) struct Valid {
    digests: RwLock<Digests>,
    /// The period that runs. It changes only while `digests` is held for writing, so that whoever reads those sees
    /// one period.
    now: AtomicU16,
    leases: Mutex<Leases>,
}

#[derive(Debug)]
struct Leases {
    open: HashMap<u64, Arc<Held>>,
    next: u64,
    /// Periods that count, oldest first; the last one runs.
    periods: VecDeque<Periods>,
}

/// When a lease was in use.
#[derive(Debug, Default)]
struct Held {
    periods: AtomicU16,
    /// How often it is in use now.
    busy: AtomicU32,
}

/// Keeps what was answered or added while it was in use from being collected, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    valid: Arc<Valid>,
    number: u64,
    held: Arc<Held>,
}

/// While it lives, what the spool answers to anybody is kept for its lease.
#[derive(Debug)]
#[must_use = "the lease is in use until this is dropped"]
pub struct Busy(Arc<Held>);

impl Lease {
    /// Uses the lease: to be held from before a question until it is answered. It may be held many times at once.
    pub fn busy(&self) -> Busy {
        // In this order: whoever begins a period either sees that the lease is in use, or has begun it before this
        // reads which one runs.
        self.held.busy.fetch_add(1, Ordering::SeqCst);
        let now = self.valid.now.load(Ordering::SeqCst);
        self.held.periods.fetch_or(now, Ordering::SeqCst);
        Busy(self.held.clone())
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.valid.leases().open.remove(&self.number);
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.busy.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a collection must keep: it is fixed when the collection begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kept(Periods);

impl Valid {
    pub(super) fn new(digests: Vec<Digest>) -> Self {
        Self {
            digests: RwLock::new(digests.into_iter().map(|digest| (digest, AtomicU16::new(0))).collect()),
            now: AtomicU16::new(1),
            leases: Mutex::new(Leases {
                open: HashMap::new(),
                next: 0,
                periods: VecDeque::from([1]),
            }),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Digests> {
        self.digests.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Digests> {
        self.digests.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn leases(&self) -> MutexGuard<'_, Leases> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        let held = Arc::new(Held::default());
        let mut leases = self.leases();
        let number = leases.next;
        leases.next += 1;
        leases.open.insert(number, held.clone());
        Lease {
            valid: self.clone(),
            number,
            held,
        }
    }

    /// How many leases there are.
    pub(super) fn leases_open(&self) -> usize {
        self.leases().open.len()
    }

    pub(super) fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether an object is valid; if so, it has been answered.
    pub(super) fn contains(&self, digest: &Digest) -> bool {
        let digests = self.read();
        answer(&digests, digest, self.now.load(Ordering::SeqCst))
    }

    /// Which of these are valid: bit *i* is bit `i % 8` of byte `i / 8`. They have been answered.
    pub(super) fn batch(&self, asked: &[Digest]) -> Vec<u8> {
        let digests = self.read();
        let now = self.now.load(Ordering::SeqCst);
        let mut bits = vec![0; asked.len().div_ceil(8)];
        for (at, digest) in asked.iter().enumerate() {
            if answer(&digests, digest, now) {
                bits[at / 8] |= 1 << (at % 8);
            }
        }
        bits
    }

    /// As if somebody had asked for these, because they are about to be read or referred to.
    pub(super) fn touch<'d>(&self, touched: impl IntoIterator<Item = &'d Digest>) {
        let digests = self.read();
        let now = self.now.load(Ordering::SeqCst);
        for digest in touched {
            answer(&digests, digest, now);
        }
    }

    /// These are valid from now on; they have been answered.
    pub(super) fn insert(&self, new: impl IntoIterator<Item = Digest>) {
        let mut digests = self.write();
        let now = self.now.load(Ordering::SeqCst);
        for digest in new {
            *digests.entry(digest).or_default().get_mut() |= now;
        }
    }

    /// Begins a period for a collection, of which there is one at a time. What is answered or added from now on is
    /// kept by it, and so is what the leases of this moment keep.
    pub(super) fn begin_period(&self) -> Kept {
        let mut digests = self.write();
        let mut leases = self.leases();
        let counts = leases.kept();
        leases.periods.retain(|period| period & counts != 0);
        if leases.periods.len() == PERIODS {
            // Both count, so that there are two.
            if let (Some(older), Some(old)) = (leases.periods.pop_front(), leases.periods.front().copied()) {
                let joined = |of: Periods| if of & older == 0 { of } else { of & !older | old };
                for periods in digests.values_mut() {
                    *periods.get_mut() = joined(*periods.get_mut());
                }
                for held in leases.open.values() {
                    if held.periods.fetch_and(!older, Ordering::SeqCst) & older != 0 {
                        held.periods.fetch_or(old, Ordering::SeqCst);
                    }
                }
            }
        }
        let taken = leases.periods.iter().fold(0, |all, period| all | period);
        let now = !taken & taken.wrapping_add(1);
        for periods in digests.values_mut() {
            *periods.get_mut() &= !now;
        }
        leases.periods.push_back(now);
        self.now.store(now, Ordering::SeqCst);
        for held in leases.open.values() {
            if held.busy.load(Ordering::SeqCst) > 0 {
                held.periods.fetch_or(now, Ordering::SeqCst);
            }
        }
        Kept(leases.kept() | now)
    }

    /// Which of these must be kept. What is not here is being added, or was not taken back after a failure.
    pub(super) fn kept(&self, asked: &[Digest], kept: Kept) -> Vec<bool> {
        let digests = self.read();
        let is_kept = |digest| match digests.get(digest) {
            Some(periods) => periods.load(Ordering::Relaxed) & kept.0 != 0,
            None => true,
        };
        asked.iter().map(is_kept).collect()
    }

    /// Removes objects for which `condemned` says so when it is told whether they must be kept.
    pub(super) fn remove(&self, asked: &[Digest], kept: Kept, mut condemned: impl FnMut(usize, bool) -> bool) {
        let mut digests = self.write();
        for (nth, digest) in asked.iter().enumerate() {
            let is_kept = digests
                .get_mut(digest)
                .is_none_or(|periods| *periods.get_mut() & kept.0 != 0);
            if condemned(nth, is_kept) {
                digests.remove(digest);
            }
        }
    }
}

impl Leases {
    fn kept(&self) -> Periods {
        let periods = self.open.values().map(|held| held.periods.load(Ordering::SeqCst));
        periods.fold(0, |all, periods| all | periods)
    }
}

fn answer(digests: &Digests, digest: &Digest, now: Periods) -> bool {
    let Some(periods) = digests.get(digest) else {
        return false;
    };
    // Mostly it has the bit, and a line of memory that is only read is shared between cores.
    if periods.load(Ordering::Relaxed) & now == 0 {
        periods.fetch_or(now, Ordering::Relaxed);
    }
    true
}
