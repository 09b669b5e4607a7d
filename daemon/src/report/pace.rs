//! How much may be written to a forge now: windows of our own, and what the forge says.
//!
//! A write counts in a window from before it goes out until the window's time after its answer. Whatever the way there
//! takes, the forge then never sees more in any time so long, by its own clock too. Asking is not counted: forges limit
//! it far less, and their answers say when that is used up.

use std::collections::VecDeque;

use nixci_protocol::nixci::control::Millis;

use crate::config;
use crate::forge::Quota;

/// Of a window this part is kept for what must not wait behind jobs: one of so many writes.
const RESERVE: usize = 15;
/// Requests a forge says it has left, below which only what must not wait is sent.
const SCARCE: u64 = 20;

/// How much of a window something may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Share {
    /// Half: progress, which nobody misses.
    Half,
    /// All but the reserve: jobs.
    Most,
    /// All of it: summaries.
    All,
}

/// When something may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Now.
    Now,
    /// Not before this time.
    At(Millis),
    /// When a request that is under way has ended.
    AfterOne,
}

/// What was written lately, and what the forge said.
#[derive(Debug, Clone)]
pub struct Pace {
    /// (writes, milliseconds)
    windows: Vec<(usize, Millis)>,
    concurrent: usize,
    /// When writes were answered, oldest first, as far back as the longest window.
    ended: VecDeque<Millis>,
    writing: usize,
    asking: usize,
    closed_until: Millis,
    scarce_until: Millis,
}

impl Pace {
    /// A pace, with the times of writes before the start, oldest first.
    #[must_use]
    pub fn new(config: &config::Pace, before: Vec<Millis>) -> Self {
        let millis = |time: std::time::Duration| Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX);
        Self {
            windows: config
                .windows
                .iter()
                .map(|window| (window.writes.max(1) as usize, millis(window.time)))
                .collect(),
            concurrent: config.concurrent.max(1) as usize,
            ended: before.into(),
            writing: 0,
            asking: 0,
            closed_until: Millis::MIN,
            scarce_until: Millis::MIN,
        }
    }

    /// When a write of this importance may begin.
    #[must_use]
    pub fn write(&self, share: Share, now: Millis) -> When {
        let mut at = self.closed_until;
        if share != Share::All {
            at = at.max(self.scarce_until);
        }
        for (writes, time) in &self.windows {
            let reserve = if *writes > 1 { (writes / RESERVE).max(1) } else { 0 };
            let most = match share {
                Share::All => *writes,
                Share::Most => writes - reserve,
                Share::Half => writes.div_ceil(2).min(writes - reserve),
            };
            let since = now.saturating_sub(*time);
            let first = self.ended.partition_point(|end| *end <= since);
            let used = self.ended.len() - first + self.writing;
            if used >= most {
                // So many must leave the window; those under way leave it last.
                match self.ended.get(first + used - most) {
                    Some(end) => at = at.max(end.saturating_add(*time)),
                    None => return When::AfterOne,
                }
            }
        }
        self.when(at, now)
    }

    /// When a question may go out.
    #[must_use]
    pub fn ask(&self, now: Millis) -> When {
        self.when(self.closed_until, now)
    }

    fn when(&self, at: Millis, now: Millis) -> When {
        if at > now {
            When::At(at)
        } else if self.writing + self.asking >= self.concurrent {
            When::AfterOne
        } else {
            When::Now
        }
    }

    /// A write begins.
    pub fn write_begins(&mut self) {
        self.writing += 1;
    }

    /// A write has ended, or is not waited for any more. `went_out`: it may have reached the forge.
    pub fn write_ends(&mut self, went_out: bool, now: Millis) {
        self.writing = self.writing.saturating_sub(1);
        let longest = self.windows.iter().map(|(_, time)| *time).max().unwrap_or_default();
        let since = now.saturating_sub(longest);
        while self.ended.front().is_some_and(|end| *end <= since) {
            self.ended.pop_front();
        }
        if went_out {
            self.ended
                .push_back(self.ended.back().map_or(now, |last| now.max(*last)));
        }
    }

    /// A question begins.
    pub fn ask_begins(&mut self) {
        self.asking += 1;
    }

    /// A question has ended.
    pub fn ask_ends(&mut self) {
        self.asking = self.asking.saturating_sub(1);
    }

    /// Nothing goes out before this time.
    pub fn close(&mut self, until: Millis) {
        self.closed_until = self.closed_until.max(until);
    }

    /// Until when nothing goes out, where that is later than now.
    #[must_use]
    pub fn closed_until(&self, now: Millis) -> Option<Millis> {
        (self.closed_until > now).then_some(self.closed_until)
    }

    /// Takes in what a forge said of how much more it takes.
    pub fn heard(&mut self, quota: Quota, now: Millis) {
        let (Some(remaining), Some(reset)) = (quota.remaining, quota.reset_in) else {
            return;
        };
        let until = now.saturating_add(Millis::try_from(reset.as_millis()).unwrap_or(Millis::MAX));
        if remaining == 0 {
            self.close(until);
        } else if remaining < SCARCE {
            self.scarce_until = self.scarce_until.max(until);
        }
    }

    /// When the last write leaves the longest window; none where none is in it.
    #[must_use]
    pub fn clear_at(&self, now: Millis) -> Option<Millis> {
        let longest = self.windows.iter().map(|(_, time)| *time).max()?;
        let clear = self.ended.back()?.saturating_add(longest);
        (clear > now).then_some(clear)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::config::Window;

    fn pace(windows: &[(u32, u64)], concurrent: u32) -> Pace {
        let windows = windows.iter().map(|(writes, millis)| Window {
            writes: *writes,
            time: Duration::from_millis(*millis),
        });
        let config = config::Pace {
            windows: windows.collect(),
            concurrent,
            per_context: None,
        };
        Pace::new(&config, Vec::new())
    }

    #[test]
    fn a_window_is_used_up_and_free_again_its_time_after_the_answer() {
        let mut pace = pace(&[(4, 1_000)], 10);
        for _ in 0..3 {
            assert_eq!(pace.write(Share::Most, 0), When::Now);
            pace.write_begins();
        }
        assert_eq!(pace.write(Share::Most, 0), When::AfterOne);
        assert_eq!(pace.write(Share::All, 0), When::Now, "the reserve is for summaries");
        pace.write_begins();
        assert_eq!(pace.write(Share::All, 0), When::AfterOne);
        pace.write_ends(true, 300);
        assert_eq!(pace.write(Share::All, 400), When::At(1_300));
        pace.write_ends(false, 500);
        assert_eq!(
            pace.write(Share::All, 500),
            When::Now,
            "what never went out does not count"
        );
        assert_eq!(pace.write(Share::Half, 500), When::AfterOne);
    }

    #[test]
    fn what_the_forge_says_holds_besides() {
        let mut pace = pace(&[(1_000, 1_000)], 2);
        let quota = |remaining, millis| Quota {
            remaining: Some(remaining),
            reset_in: Some(Duration::from_millis(millis)),
        };
        pace.heard(quota(5, 700), 0);
        assert_eq!(pace.write(Share::Most, 0), When::At(700));
        assert_eq!(pace.write(Share::All, 0), When::Now);
        pace.heard(quota(0, 900), 0);
        assert_eq!(pace.write(Share::All, 0), When::At(900));
        assert_eq!(pace.ask(0), When::At(900));
        pace.close(400);
        assert_eq!(pace.closed_until(0), Some(900), "an earlier time does not open it");
        pace.ask_begins();
        pace.write_begins();
        assert_eq!(pace.write(Share::All, 900), When::AfterOne);
        pace.ask_ends();
        assert_eq!(pace.ask(900), When::Now);
    }

    #[test]
    fn writes_before_the_start_count() {
        let config = config::Pace {
            windows: vec![Window {
                writes: 2,
                time: Duration::from_secs(1),
            }],
            concurrent: 4,
            per_context: None,
        };
        let pace = Pace::new(&config, vec![100, 200]);
        assert_eq!(pace.write(Share::All, 300), When::At(1_100));
        assert_eq!(pace.clear_at(300), Some(1_200));
        assert_eq!(pace.clear_at(1_200), None);
    }

    proptest! {
        /// Whatever time a request needs to arrive, the forge never sees more in any window.
        #[test]
        fn no_window_of_the_forge_is_ever_exceeded(
            steps in prop::collection::vec((0_i64..300, 0_i64..400, 0.0..1.0_f64), 1..300),
        ) {
            let windows = [(5, 500), (12, 3_000)];
            let mut pace = pace(&windows, 6);
            let mut now = 0;
            let mut under_way: Vec<(Millis, Millis)> = Vec::new();
            let mut seen: Vec<Millis> = Vec::new();
            for (wait, takes, at) in steps {
                now += wait;
                under_way.sort_unstable();
                while let Some((end, arrival)) = under_way.first().copied().filter(|(end, _)| *end <= now) {
                    pace.write_ends(true, end);
                    seen.push(arrival);
                    under_way.remove(0);
                }
                if pace.write(Share::All, now) == When::Now {
                    pace.write_begins();
                    under_way.push((now + takes, now + (takes as f64 * at) as Millis));
                }
            }
            seen.sort_unstable();
            for (writes, time) in windows {
                for from in &seen {
                    let within = seen.iter().filter(|at| **at >= *from && **at < from + time as Millis);
                    prop_assert!(within.count() <= writes as usize);
                }
            }
        }
    }
}
