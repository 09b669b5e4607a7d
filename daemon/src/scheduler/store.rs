//! The stores as the scheduler sees them: what they offer, how many slots are free, whether they answer.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::event::Root;

/// A store's place in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StoreId(pub u16);

/// A store as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreSpec {
    /// Its name.
    pub name: Arc<str>,
    /// Builds it may run at once; at least 1.
    pub slots: u32,
    /// The systems it builds for; empty means that it is for the store to say.
    pub systems: Vec<String>,
    /// The system features it offers; only looked at where `systems` is not empty.
    pub features: Vec<String>,
}

/// How busy a store is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreLoad {
    /// Builds it may run at once.
    pub slots: u32,
    /// Builds it runs now.
    pub running: u32,
    /// Builds that could run on it and wait for a slot.
    pub ready: usize,
    /// Why it is left alone for a while, if it is.
    pub down: Option<Arc<str>>,
}

/// The first pause after a store did not answer; it doubles up to [`LONGEST_PAUSE`].
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause between two tries at a store that does not answer.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_mins(1);
/// How long the one build runs that is tried after a pause, until all slots are open again. A build that a broken store
/// does not take breaks off sooner; one that takes hours must not hold up all others.
pub(super) const PROBE_TIME: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Store {
    pub(super) spec: StoreSpec,
    pub(super) running: u32,
    /// Failures since it last answered.
    failures: u32,
    down: Option<Down>,
    /// From when on something is tried after a pause.
    probe: Option<Instant>,
}

#[derive(Debug)]
struct Down {
    until: Instant,
    reason: Arc<str>,
}

impl Store {
    pub(super) fn new(spec: StoreSpec) -> Self {
        Self {
            spec,
            running: 0,
            failures: 0,
            down: None,
            probe: None,
        }
    }

    pub(super) fn offers(&self, root: &Root) -> bool {
        self.spec.systems.is_empty()
            || &*root.system == "builtin"
            || (self.spec.systems.iter().any(|s| **s == *root.system)
                && root.features.iter().all(|f| self.spec.features.contains(f)))
    }

    /// Whether it may be asked for something now. A store that was down may be asked for one thing, as
    /// a probe, until it has answered or has been at it for [`PROBE_TIME`].
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.down.as_ref().is_none_or(|d| d.until <= now)
    }

    pub(super) fn free_slots(&self, now: Instant) -> u32 {
        if !self.is_open(now) {
            return 0;
        }
        let is_tried = self.failures == 0 || self.probe.is_some_and(|since| now >= since + PROBE_TIME);
        let slots = if is_tried { self.spec.slots } else { 1 };
        slots.saturating_sub(self.running)
    }

    /// A build takes a slot.
    pub(super) fn takes(&mut self, now: Instant) {
        self.running += 1;
        if self.failures > 0 {
            self.probe.get_or_insert(now);
        }
    }

    /// A build leaves its slot, however it ended.
    pub(super) fn leaves(&mut self) {
        self.running = self.running.saturating_sub(1);
        if self.running == 0 {
            self.probe = None;
        }
    }

    pub(super) fn answered(&mut self) {
        self.failures = 0;
        self.down = None;
        self.probe = None;
    }

    /// Leaves the store alone for a while. Failures that arrive during the pause, of attempts that were
    /// running when it broke, do not lengthen it.
    pub(super) fn did_not_answer(&mut self, reason: &str, now: Instant) {
        if self.is_open(now) {
            let pause = FIRST_PAUSE
                .saturating_mul(1_u32 << self.failures.min(16))
                .min(LONGEST_PAUSE);
            self.failures = self.failures.saturating_add(1);
            self.down = Some(Down {
                until: now + pause,
                reason: reason.into(),
            });
            // What runs on is as good as something new: if it has not broken off by then, all slots are open again.
            self.probe = (self.running > 0).then_some(now + pause);
        }
    }

    /// When a pause or a probe ends that has not ended yet.
    pub(super) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let pause = self.down.as_ref().map(|d| d.until);
        let probe = self.probe.map(|since| since + PROBE_TIME);
        pause.into_iter().chain(probe).filter(|at| *at > now).min()
    }

    pub(super) fn down_reason(&self) -> Option<Arc<str>> {
        self.down.as_ref().map(|d| d.reason.clone())
    }

    /// Why a build that could run does not.
    pub(super) fn why_not(&self) -> Arc<str> {
        let name = &self.spec.name;
        match &self.down {
            Some(down) => format!("store `{name}` does not answer: {}", down.reason).into(),
            None => format!(
                "no free slot on `{name}` ({} of {} busy)",
                self.running, self.spec.slots
            )
            .into(),
        }
    }

    pub(super) fn load(&self, ready: usize) -> StoreLoad {
        StoreLoad {
            slots: self.spec.slots,
            running: self.running,
            ready,
            down: self.down_reason(),
        }
    }
}
