//! The step.

use std::mem;

use nixci_protocol::nixci::control::Millis;
use nixci_protocol::nixci::report::StatusRole;
use nixci_store::index::statuses::{Failure, Held, StatusId, Unsent};

use super::{Action, At, End, Event, Loading, Machine, Record, Row, Trouble, TroubleKind};
use crate::forge::{Scope, SendError};

/// The first wait after a failure of a status; it doubles with each.
const FIRST_RETRY: Millis = 500;
/// The longest.
const LAST_RETRY: Millis = 10 * 60_000;
/// Failures in a row after which a forge is taken to be down.
const DOWN_AFTER: u32 = 3;
/// The first wait of all that goes to a forge that is down; it doubles with each failure.
const FIRST_PAUSE: Millis = 1_000;
/// The longest: so much later than the forge all goes on.
const LAST_PAUSE: Millis = 5 * 60_000;
/// The first wait after a forge took nothing for now and did not say for how long (docs.github.com: at least a minute,
/// then longer each time).
const FIRST_LIMIT: Millis = 60_000;
/// The longest wait that is taken from a forge, and the longest of our own.
const LAST_LIMIT: Millis = 3_600_000;
/// Until the index is asked again after it failed.
const INDEX_RETRY: Millis = 2_000;
/// The least time between two loads while there is something to do: jobs may end by the hundred in a second.
const LOAD_GAP: Millis = 100;
/// Rows that end before more are read, where there are more.
const MORE_AFTER: usize = 64;

impl Machine {
    /// What is to be done now. `jitter`, from 0 up to 1, spreads waits, so that senders do not all come back at once.
    pub fn step(&mut self, event: Event, now: Millis, jitter: f64) -> Vec<Action> {
        let mut actions = Vec::new();
        match event {
            Event::Rang => self.is_due = true,
            Event::Loaded { rows, is_all } => self.loaded(rows, is_all, now),
            Event::Ended { id, end } => actions.extend(self.ended(id, end, now, jitter)),
            Event::Recorded { id, is_newer } => self.recorded(id, is_newer),
            Event::IndexFailed(id) => self.index_failed(id, now),
            Event::Woke => {}
            Event::Stop => self.is_ending = true,
        }
        if self.is_stopped() || self.is_ending {
            return actions;
        }
        if self.index_retry.is_some_and(|at| at <= now) {
            self.index_retry = None;
            self.is_due = true;
        }
        let wants_more = self.has_more && (self.ended >= MORE_AFTER || self.rows.is_empty());
        self.is_due |= wants_more;
        if self.load_at().is_some_and(|at| at <= now) {
            self.loading = Loading::UnderWay;
            self.loaded_at = now;
            self.is_due = false;
            self.ended = 0;
            self.stale.clear();
            let rows = &self.rows;
            self.refused
                .retain(|repository| rows.values().any(|row| row.unsent.repository == *repository));
            actions.push(Action::Load);
        }
        while let Some(id) = self.choose(now).row {
            if self.goes_one_by_one() {
                break;
            }
            actions.extend(self.begin(id));
        }
        actions
    }

    /// When to step again if nothing happens before.
    #[must_use]
    pub fn wake_at(&self, now: Millis) -> Option<Millis> {
        if self.is_stopped() || self.is_ending {
            return None;
        }
        let choice = self.choose(now);
        // What became ready since the last step waits for no other event.
        let at_once = (choice.row.is_some() && !self.goes_one_by_one()).then_some(now);
        let clear = self.pace.clear_at(now).filter(|_| self.rows.is_empty());
        let closed = self.pace.closed_until(now).filter(|_| self.rows.is_empty());
        [at_once, choice.wake_at, self.index_retry, self.load_at(), clear, closed]
            .into_iter()
            .flatten()
            .min()
    }

    /// When to load, if there is a reason to.
    fn load_at(&self) -> Option<Millis> {
        let may_load = self.is_due && self.loading == Loading::Idle && self.index_retry.is_none();
        may_load.then(|| {
            if self.rows.is_empty() {
                Millis::MIN
            } else {
                self.loaded_at.saturating_add(LOAD_GAP)
            }
        })
    }

    /// Whether the forge is taken to be down, and one request tries it now.
    fn goes_one_by_one(&self) -> bool {
        self.failures >= DOWN_AFTER && self.requests() > 0
    }

    fn requests(&self) -> usize {
        let is_out = |row: &&Row| matches!(row.at, At::Sending | At::Asking);
        self.rows.values().filter(is_out).count()
    }

    fn begin(&mut self, id: StatusId) -> Option<Action> {
        let is_used_up = self.rows.get(&id).is_some_and(|row| self.is_used_up(&row.unsent));
        let row = self.rows.get_mut(&id)?;
        self.stale.insert(id);
        self.turns += 1;
        self.served.insert(row.unsent.repository.clone(), self.turns);
        Some(if row.unsent.is_in_doubt {
            row.at = At::Asking;
            self.pace.ask_begins();
            Action::LookUp(id)
        } else if is_used_up {
            row.at = At::Recording { stays: false };
            let (seq, writes) = (row.unsent.seq, row.unsent.writes);
            let why = format!(
                "{writes} writes of this context of the commit were sent, and the forge takes few more; \
                 push another commit"
            );
            Action::Record(id, Record::Refused { seq, why })
        } else {
            row.at = At::Sending;
            row.unsent.writes += 1;
            self.pace.write_begins();
            Action::Send(id)
        })
    }

    fn loaded(&mut self, loaded: Vec<Unsent>, is_all: bool, now: Millis) {
        self.loading = Loading::Idle;
        self.has_more = !is_all;
        let before = mem::take(&mut self.rows);
        for mut unsent in loaded {
            if self.stale.contains(&unsent.id) || self.refused.contains(&unsent.repository) {
                continue;
            }
            // A clock that was set back must not hold anything for longer than it would have waited.
            let old = before.get(&unsent.id).filter(|old| old.unsent.seq == unsent.seq);
            let since = old.map_or(now, |old| old.since).min(unsent.changed);
            unsent.retry_at = unsent.retry_at.map(|at| at.min(now.saturating_add(LAST_LIMIT)));
            unsent.tried = unsent.tried.map(|at| at.min(now));
            let row = Row {
                since,
                unsent,
                at: At::Waiting,
            };
            self.rows.insert(row.unsent.id, row);
        }
        for (id, row) in before {
            if row.at != At::Waiting || self.stale.contains(&id) {
                self.rows.insert(id, row);
            }
        }
        let rows = &self.rows;
        self.served
            .retain(|repository, _| rows.values().any(|row| row.unsent.repository == *repository));
    }

    fn ended(&mut self, id: StatusId, end: End, now: Millis, jitter: f64) -> Option<Action> {
        let row = self.rows.get_mut(&id)?;
        let was_asked = match row.at {
            At::Asking => true,
            At::Sending => false,
            // Nothing was asked for.
            At::Waiting | At::Recording { .. } => return None,
        };
        let went_out = !matches!(end, End::Nothing);
        if was_asked {
            self.pace.ask_ends();
        } else {
            self.pace.write_ends(went_out, now);
        }
        let record = match end {
            End::Nothing => {
                // Somebody else has sent it, or it is forgotten; the index knows.
                self.rows.remove(&id);
                self.is_due = true;
                return None;
            }
            End::Sent { seq, state, sent } => {
                row.at = At::Recording { stays: false };
                self.pace.heard(sent.quota, now);
                self.works();
                Record::Sent {
                    seq,
                    state,
                    remote_id: sent.remote_id,
                }
            }
            End::Other {
                remote_id,
                state,
                quota,
            } => {
                row.at = At::Recording { stays: true };
                row.unsent.is_in_doubt = false;
                row.unsent.retry_at = None;
                self.pace.heard(quota, now);
                self.works();
                Record::Found { remote_id, state }
            }
            End::Failed { seq, error } => self.failed(id, seq, error, was_asked, now, jitter),
        };
        Some(Action::Record(id, record))
    }

    fn failed(
        &mut self,
        id: StatusId,
        seq: i64,
        error: SendError,
        was_asked: bool,
        now: Millis,
        jitter: f64,
    ) -> Record {
        let repository = self
            .rows
            .get(&id)
            .map(|row| row.unsent.repository.clone())
            .unwrap_or_default();
        let (why, retry_at, is_lost) = match error {
            SendError::Refused { scope, why } => {
                self.works();
                let stays = match scope {
                    Scope::Status | Scope::Repository => false,
                    Scope::Forge => true,
                };
                self.at(id, At::Recording { stays });
                match scope {
                    Scope::Status => return Record::Refused { seq, why },
                    Scope::Repository => {
                        self.refused.insert(repository.clone());
                        self.rows
                            .retain(|_, row| row.at != At::Waiting || row.unsent.repository != repository);
                        return Record::RefusedRepository { repository, seq, why };
                    }
                    Scope::Forge => {
                        self.in_trouble(TroubleKind::Stopped, &why, now);
                        (why, None, false)
                    }
                }
            }
            SendError::Limited { wait, why } => {
                let wait = wait.map_or_else(
                    || doubled(FIRST_LIMIT, LAST_LIMIT, self.limits, jitter),
                    |wait| {
                        let wait = Millis::try_from(wait.as_millis()).unwrap_or(Millis::MAX);
                        wait.min(LAST_LIMIT)
                            .saturating_add((jitter * FIRST_RETRY as f64) as Millis)
                    },
                );
                self.limits = self.limits.saturating_add(1);
                let until = now.saturating_add(wait);
                self.pace.close(until);
                self.in_trouble(TroubleKind::Limited, &why, now);
                (why, Some(until), false)
            }
            SendError::Failed { why } => (why, self.retry_at(id, now, jitter), false),
            SendError::Lost { why } => (why, self.retry_at(id, now, jitter), true),
        };
        if self.failures >= DOWN_AFTER {
            let pause = doubled(FIRST_PAUSE, LAST_PAUSE, self.failures - DOWN_AFTER, jitter);
            self.pace.close(now.saturating_add(pause));
            self.in_trouble(TroubleKind::Down, &why, now);
        }
        let Some(row) = self.rows.get_mut(&id) else {
            return Record::Refused { seq, why };
        };
        row.at = At::Recording { stays: true };
        row.unsent.retry_at = retry_at;
        row.unsent.is_in_doubt = was_asked || is_lost;
        row.unsent.tried = Some(now);
        Record::Failed {
            seq,
            failure: Failure {
                error: why,
                failures: row.unsent.failures,
                retry_at,
                is_in_doubt: row.unsent.is_in_doubt,
            },
        }
    }

    /// Counts a failure, and says when the status is tried again.
    fn retry_at(&mut self, id: StatusId, now: Millis, jitter: f64) -> Option<Millis> {
        self.failures = self.failures.saturating_add(1);
        let row = self.rows.get_mut(&id)?;
        let before = u32::try_from(row.unsent.failures).unwrap_or(u32::MAX);
        row.unsent.failures = row.unsent.failures.saturating_add(1);
        // Where the forge is down, its pause says when; a status must not wait longer for what was not its fault.
        let last = if self.failures >= DOWN_AFTER {
            LAST_PAUSE
        } else {
            LAST_RETRY
        };
        Some(now.saturating_add(doubled(FIRST_RETRY, last, before, jitter)))
    }

    fn recorded(&mut self, id: StatusId, is_newer: bool) {
        self.stale.insert(id);
        self.is_due |= is_newer;
        let Some(row) = self.rows.get_mut(&id) else { return };
        match row.at {
            At::Recording { stays: true } => row.at = At::Waiting,
            At::Recording { stays: false } => {
                self.ended += 1;
                if let Some(gone) = self.rows.remove(&id) {
                    self.release(&gone.unsent);
                }
            }
            // Nothing was to be recorded.
            At::Waiting | At::Sending | At::Asking => {}
        }
    }

    /// Looks again at what holds a summary, once nothing that is known of does.
    fn release(&mut self, gone: &Unsent) {
        let of_same = |row: &&Row| row.unsent.evaluation == gone.evaluation;
        let is_held = |row: &&Row| row.unsent.held != Held::Free;
        let is_final_job = |row: &&Row| row.unsent.role == StatusRole::Job && row.unsent.state.is_final();
        let is_red = |row: &&Row| is_final_job(row) && row.unsent.state.is_red();
        let rows = || self.rows.values().filter(of_same);
        if rows().any(|row| is_held(&row)) {
            let (jobs, red) = (rows().filter(is_final_job).count(), rows().filter(is_red).count());
            self.is_due |= jobs == 0 || (red == 0 && gone.state.is_red());
        }
    }

    fn index_failed(&mut self, id: Option<StatusId>, now: Millis) {
        self.index_retry = Some(now.saturating_add(INDEX_RETRY));
        let Some(id) = id else {
            self.loading = Loading::Idle;
            return;
        };
        match self.rows.remove(&id).map(|row| row.at) {
            // Whether a request went out is not known: it counts as one that did.
            Some(At::Sending) => self.pace.write_ends(true, now),
            Some(At::Asking) => self.pace.ask_ends(),
            Some(At::Waiting | At::Recording { .. }) | None => {}
        }
    }

    fn at(&mut self, id: StatusId, at: At) {
        if let Some(row) = self.rows.get_mut(&id) {
            row.at = at;
        }
    }

    /// The forge has answered something of use.
    fn works(&mut self) {
        self.failures = 0;
        self.limits = 0;
        self.trouble = self
            .trouble
            .take()
            .filter(|trouble| trouble.kind == TroubleKind::Stopped);
    }

    fn in_trouble(&mut self, kind: TroubleKind, reason: &str, now: Millis) {
        match &mut self.trouble {
            Some(trouble) if trouble.kind == kind || trouble.kind == TroubleKind::Stopped => {}
            trouble => {
                *trouble = Some(Trouble {
                    kind,
                    reason: reason.to_owned(),
                    since: now,
                });
            }
        }
    }
}

/// A wait that doubles, between half of it and all of it.
fn doubled(first: Millis, last: Millis, times: u32, jitter: f64) -> Millis {
    let whole = first.saturating_mul(1 << times.min(30)).min(last);
    whole / 2 + (jitter.clamp(0.0, 1.0) * (whole / 2) as f64) as Millis
}
