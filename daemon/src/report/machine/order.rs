//! What goes out first.
//!
//! 1. The first write of a summary that is not final, before anything else of its evaluation: on GitHub a suite with an
//!    open run cannot complete early, and who waits for the commit sees that it is worked on.
//! 2. Summaries that are final and held up by nothing.
//! 3. What stands once per commit besides, and jobs that are red.
//! 4. Other jobs that are final.
//! 5. Progress: of summaries, and of jobs where there are few. It uses at most half of what the forge takes, and of one
//!    status it is written now and then only.
//!
//! **A final summary is held up by the jobs of its evaluation that are not sent yet**, for who merges when it is green
//! must not overlook a red one. Where only green jobs are unsent, the summary waits [`HOLD`] at most, so that it is
//! there in time also where the forge, or our own pace, takes minutes for the jobs. Red jobs go before green ones; while
//! some are unsent, a summary that is not red itself waits up to [`HOLD_RED`]. A late summary does less harm than a
//! green one without the red that belongs to it; what is refused holds nothing up.
//!
//! Between repositories of one sender it goes in turns.

use std::collections::BTreeMap;

use nixci_protocol::nixci::control::{EvaluationId, Millis};
use nixci_protocol::nixci::report::StatusRole;
use nixci_store::index::statuses::{Held, StatusId, Unsent};

use super::super::pace::{Share, When};
use super::{At, Machine, Row};
use crate::config;

/// How long a final summary waits for jobs that are not red.
pub(super) const HOLD: Millis = 5_000;
/// How long a final summary that is not red waits for jobs that are.
pub(super) const HOLD_RED: Millis = 10 * 60_000;
/// How long what belongs to an evaluation waits for the first write of its summary.
pub(super) const HOLD_FIRST: Millis = 30_000;
/// How long a request whose end is not known may still be on its way, before the forge is asked.
pub(super) const DOUBT: Millis = 1_000;
/// How long progress waits, for it may be over soon.
const SETTLE: Millis = 1_000;
/// The least time between two writes of progress.
const PROGRESS_GAP: Millis = 10_000;
/// The part of the longest window that the progress of one status may use: one of so many writes.
const PROGRESS_PART: Millis = 10;
/// Writes that are kept of those a forge takes of one context, for what is final.
const CONTEXT_RESERVE: u64 = 10;

/// When progress of a status was written, it is not written again for this long.
pub(super) fn progress_gap(config: &config::Pace) -> Millis {
    let longest = config.windows.iter().max_by_key(|window| window.time);
    let part = longest.map_or(0, |window| {
        let time = Millis::try_from(window.time.as_millis()).unwrap_or(Millis::MAX);
        time.saturating_mul(PROGRESS_PART) / Millis::from(window.writes.max(1))
    });
    part.max(PROGRESS_GAP)
}

/// What is next.
pub(super) struct Choice {
    /// The status that goes out.
    pub(super) row: Option<StatusId>,
    /// When to look again, where another may go then.
    pub(super) wake_at: Option<Millis>,
}

struct Standing {
    /// The lower, the sooner.
    class: u8,
    share: Share,
    ready_at: Millis,
}

impl Machine {
    /// The status that goes out now, if one does.
    pub(super) fn choose(&self, now: Millis) -> Choice {
        let firsts = self.firsts();
        let writes = [Share::Half, Share::Most, Share::All].map(|share| (share, self.pace.write(share, now)));
        let write = |share: Share| writes.iter().find(|(of, _)| *of == share).map(|(_, when)| *when);
        let mut wake_at: Option<Millis> = None;
        let mut wake = |at: Millis| wake_at = Some(wake_at.map_or(at, |soonest: Millis| soonest.min(at)));
        // Class, last turn of the repository, age; the lowest goes.
        let mut best: Option<(u8, u64, Millis, StatusId)> = None;
        for row in self.rows.values().filter(|row| row.at == At::Waiting) {
            let Some(standing) = self.standing(row, &firsts) else {
                continue;
            };
            if standing.ready_at > now {
                wake(standing.ready_at);
                continue;
            }
            let when = if row.unsent.is_in_doubt {
                Some(self.pace.ask(now))
            } else {
                write(standing.share)
            };
            match when {
                Some(When::Now) => {
                    let served = self.served.get(&row.unsent.repository).copied().unwrap_or(0);
                    let turn = (standing.class, served, row.since, row.unsent.id);
                    best = Some(best.map_or(turn, |best| best.min(turn)));
                }
                Some(When::At(at)) => wake(at),
                // A request that ends is an event of its own.
                Some(When::AfterOne) | None => {}
            }
        }
        Choice {
            row: best.map(|(.., id)| id),
            wake_at,
        }
    }

    /// Whether no more writes of this status are to be tried, because the forge takes only so many.
    pub(super) fn is_used_up(&self, row: &Unsent) -> bool {
        self.per_context
            .is_some_and(|most| row.writes >= most.saturating_sub(CONTEXT_RESERVE))
    }

    /// Since when evaluations wait for the first write of their summary.
    fn firsts(&self) -> BTreeMap<EvaluationId, Millis> {
        let firsts = self
            .rows
            .values()
            .filter(|row| is_opening(&row.unsent) && row.unsent.failures == 0);
        firsts.map(|row| (row.unsent.evaluation, row.since)).collect()
    }

    /// None: not at all.
    fn standing(&self, row: &Row, firsts: &BTreeMap<EvaluationId, Millis>) -> Option<Standing> {
        let status = &row.unsent;
        let tried = status.tried.unwrap_or(Millis::MIN);
        let mut ready_at = status.retry_at.unwrap_or(Millis::MIN);
        if status.is_in_doubt {
            ready_at = ready_at.max(tried.saturating_add(DOUBT));
        }
        let is_final = status.state.is_final();
        let (class, share) = match (status.role, is_final) {
            (StatusRole::Summary, true) => {
                let hold = match status.held {
                    Held::Free => 0,
                    Held::Jobs => HOLD,
                    Held::RedJobs if status.state.is_red() => HOLD,
                    Held::RedJobs => HOLD_RED,
                };
                ready_at = ready_at.max(row.since.saturating_add(hold));
                (1, Share::All)
            }
            (StatusRole::Summary, false) if status.is_first => (0, Share::All),
            (StatusRole::Evaluation | StatusRole::Verdict, true) => (2, Share::All),
            (StatusRole::Evaluation | StatusRole::Verdict, false) if status.is_first => (2, Share::All),
            (StatusRole::Job, true) if status.state.is_red() => (2, Share::Most),
            (StatusRole::Job, true) => (3, Share::Most),
            (StatusRole::Summary | StatusRole::Evaluation | StatusRole::Verdict | StatusRole::Job, false) => {
                let is_enough = self.per_context.is_some_and(|most| status.writes >= most / 2);
                if is_enough {
                    return None;
                }
                ready_at = ready_at.max(row.since.saturating_add(SETTLE));
                if status.role != StatusRole::Job {
                    ready_at = ready_at.max(tried.saturating_add(self.progress_gap));
                }
                (4, Share::Half)
            }
        };
        if status.role != StatusRole::Summary
            && let Some(since) = firsts.get(&status.evaluation)
        {
            ready_at = ready_at.max(since.saturating_add(HOLD_FIRST));
        }
        Some(Standing { class, share, ready_at })
    }
}

/// Whether it is the first write of a summary that is not final.
fn is_opening(status: &Unsent) -> bool {
    status.role == StatusRole::Summary && status.is_first && !status.state.is_final()
}
