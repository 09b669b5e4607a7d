//! A machine, a real index and a forge that is made up, in a time of their own: hours pass in milliseconds.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use nixci_protocol::nixci::control::{EvaluationId, Millis};
use nixci_protocol::nixci::report::{StatusContent, StatusRole, StatusState};
use nixci_store::index::statuses::{self, RefusedRepository, StatusId, StatusKey, StatusRow, Unsent, Want, Wanted};
use nixci_store::index::{self, Index};
use tempfile::TempDir;

use super::super::pace::When;
use super::{Action, End, Event, Machine, Record};
use crate::config::{Pace, Window};
use crate::forge::{Quota, Scope, SendError, Sent};

pub(super) const MINUTE: Millis = 60_000;
/// How long after a step it is asked when to step again: nothing may be forgotten in between.
const LATE: Millis = 3;
pub(super) const HOUR: Millis = 60 * MINUTE;
pub(super) const SUMMARY: &str = "nixci";

/// What goes wrong on the way, each with a probability.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Faults {
    /// Done, and the answer is lost.
    pub(super) lost: f64,
    /// Not done, and nobody knows.
    pub(super) unknown: f64,
    /// Not done.
    pub(super) failed: f64,
    /// The longest time to the forge, and back.
    pub(super) slow: Millis,
    /// Given up by us while it is still on its way, so much later at most.
    pub(super) late: Millis,
}

/// What the forge takes.
#[derive(Debug, Clone)]
pub(super) struct Forge {
    pub(super) windows: Vec<(usize, Millis)>,
    pub(super) faults: Faults,
    /// Nothing gets there.
    pub(super) is_down: bool,
    /// Repositories it does not know.
    pub(super) refuses: Vec<String>,
    /// When something was written.
    pub(super) arrivals: Vec<Millis>,
    /// What was written to each status, in order: time, number and state.
    pub(super) shown: BTreeMap<StatusId, Vec<(Millis, i64, StatusState)>>,
    /// How often it said that it is too much.
    pub(super) limited: usize,
    pub(super) refused: usize,
}

#[derive(Debug)]
enum Due {
    Event(Event),
    Arrives(Box<StatusRow>),
    Want(Box<Wanted>),
}

pub(super) struct World {
    pub(super) now: Millis,
    pub(super) forge: Forge,
    pub(super) machine: Machine,
    pace: Pace,
    due: BTreeMap<(Millis, u64), Due>,
    index: Index,
    runtime: tokio::runtime::Runtime,
    dice: u64,
    steps: u64,
    _dir: TempDir,
}

pub(super) fn github() -> Pace {
    Pace::of(crate::config::ForgeKind::GitHub)
}

pub(super) fn generous() -> Pace {
    Pace {
        windows: vec![Window {
            writes: 100_000,
            time: Duration::from_mins(1),
        }],
        ..github()
    }
}

impl World {
    pub(super) fn new(pace: &Pace, windows: &[(usize, Millis)], faults: Faults, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        Self {
            now: 1_000_000,
            forge: Forge {
                windows: windows.to_vec(),
                faults,
                is_down: false,
                refuses: Vec::new(),
                arrivals: Vec::new(),
                shown: BTreeMap::new(),
                limited: 0,
                refused: 0,
            },
            machine: Machine::new(pace, Vec::new()),
            pace: pace.clone(),
            due: BTreeMap::new(),
            index: Index::open(&dir.path().join("index.db")).unwrap(),
            runtime,
            dice: seed.wrapping_mul(2).wrapping_add(1),
            steps: 0,
            _dir: dir,
        }
    }

    /// From 0 up to 1.
    pub(super) fn dice(&mut self) -> f64 {
        self.dice = self
            .dice
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.dice >> 33) as f64 / (1_u64 << 31) as f64
    }

    fn take(&mut self, most: Millis) -> Millis {
        (self.dice() * most as f64) as Millis
    }

    fn wait<T>(&self, asked: impl Future<Output = index::Result<T>>) -> T {
        self.runtime.block_on(asked).unwrap()
    }

    fn later(&mut self, at: Millis, due: Due) {
        self.steps += 1;
        self.due.insert((at, self.steps), due);
    }

    /// Something is to be shown from that time on.
    pub(super) fn want_at(&mut self, at: Millis, evaluation: i64, context: &str, state: StatusState) {
        let wanted = Wanted {
            key: StatusKey {
                forge: "github".to_owned(),
                repository: "o/r".to_owned(),
                commit: format!("{evaluation:040}"),
                context: context.to_owned(),
            },
            evaluation: EvaluationId(evaluation),
            role: if context == SUMMARY {
                StatusRole::Summary
            } else {
                StatusRole::Job
            },
            attr: None,
            content: StatusContent {
                state,
                // What is wanted at another time is another content.
                description: format!("{} at {at}", state.word()),
                summary: String::new(),
                text: String::new(),
                url: None,
                annotations: Vec::new(),
                started: None,
                ended: None,
            },
        };
        self.later(at, Due::Want(Box::new(wanted)));
    }

    /// The sender is killed and begins again. What is on its way arrives all the same; answers do not.
    pub(super) fn crash(&mut self) {
        self.due.retain(|_, due| match due {
            Due::Event(_) => false,
            Due::Arrives(_) | Due::Want(_) => true,
        });
        let since = self.now - HOUR;
        let before = self
            .index
            .read(move |conn| statuses::tried_since(conn, "github", None, since));
        let before = self.wait(before);
        self.machine = Machine::new(&self.pace, before);
        self.later(self.now, Due::Event(Event::Rang));
    }

    pub(super) fn ring(&mut self) {
        self.later(self.now, Due::Event(Event::Rang));
    }

    /// Lets time pass.
    pub(super) fn run_until(&mut self, until: Millis) {
        while let Some(at) = self.next().filter(|at| *at <= until) {
            self.go(at);
        }
        self.now = self.now.max(until);
    }

    /// Lets time pass until nothing is to be done, for a week at most.
    pub(super) fn run(&mut self) {
        let until = self.now + 7 * 24 * HOUR;
        while let Some(at) = self.next().filter(|at| *at <= until) {
            if self.due.is_empty() && self.unsent().is_empty() {
                return;
            }
            self.go(at);
        }
    }

    fn next(&self) -> Option<Millis> {
        let due = self.due.keys().next().map(|(at, _)| *at);
        // Whoever drives it asks a moment after the step, when something may have become ready meanwhile.
        let wake = self.machine.wake_at(self.now + LATE);
        [due, wake].into_iter().flatten().min()
    }

    fn go(&mut self, at: Millis) {
        self.now = self.now.max(at);
        let first = self.due.first_entry().filter(|entry| entry.key().0 <= self.now);
        match first.map(std::collections::btree_map::OccupiedEntry::remove) {
            None => self.step(Event::Woke),
            Some(Due::Event(event)) => self.step(event),
            Some(Due::Want(wanted)) => {
                let now = self.now;
                let want = self.wait(self.index.write(move |tx| statuses::want(tx, &wanted, now)));
                if let Want::Changed(_) = want {
                    self.step(Event::Rang);
                }
            }
            Some(Due::Arrives(row)) => self.forge.take(&row, self.now),
        }
    }

    fn step(&mut self, event: Event) {
        let jitter = self.dice();
        let actions = self.machine.step(event, self.now, jitter);
        assert!(
            self.machine.under_way() <= 64 + self.pace.concurrent as usize,
            "requests are bounded"
        );
        for action in actions {
            self.perform(action);
        }
    }

    fn perform(&mut self, action: Action) {
        let now = self.now;
        match action {
            Action::Load => {
                let loaded = self.index.read(|conn| {
                    let repositories = statuses::unsent_repositories(conn, "github", None)?;
                    let mut found = (Vec::new(), true);
                    for repository in repositories {
                        let (rows, is_all) = statuses::unsent(conn, "github", &repository, 128)?;
                        found.0.extend(rows);
                        found.1 &= is_all;
                    }
                    Ok(found)
                });
                let (rows, is_all) = self.wait(loaded);
                let at = now + self.take(20);
                self.later(at, Due::Event(Event::Loaded { rows, is_all }));
            }
            Action::Send(id) => {
                let begun = self.wait(self.index.write(move |tx| statuses::begin(tx, id, now)));
                match begun {
                    Some(begun) => self.send(id, begun.row),
                    None => self.later(now, Due::Event(Event::Ended { id, end: End::Nothing })),
                }
            }
            Action::LookUp(id) => {
                let row = self.wait(self.index.read(move |conn| statuses::get(conn, id)));
                let end = match row {
                    None => End::Nothing,
                    Some(row) if self.forge.is_down => failed(row.seq, false),
                    Some(row) => match self.forge.shown.get(&id).and_then(|shown| shown.last()) {
                        Some((_, seq, state)) if *seq == row.seq => End::Sent {
                            seq: row.seq,
                            state: *state,
                            sent: Sent {
                                remote_id: Some(id.0.to_string()),
                                quota: Quota::default(),
                            },
                        },
                        shown => End::Other {
                            remote_id: shown.map(|_| id.0.to_string()),
                            state: shown.map(|(_, _, state)| *state),
                            quota: Quota::default(),
                        },
                    },
                };
                let at = now + self.take(self.forge.faults.slow);
                self.later(at, Due::Event(Event::Ended { id, end }));
            }
            Action::Record(id, record) => {
                let recorded = self.index.write(move |tx| write(tx, id, record, now));
                let is_newer = self.wait(recorded);
                let at = now + self.take(5);
                self.later(at, Due::Event(Event::Recorded { id, is_newer }));
            }
        }
    }

    fn send(&mut self, id: StatusId, row: StatusRow) {
        let seq = row.seq;
        let faults = self.forge.faults;
        let there = self.now + 1 + self.take(faults.slow);
        let back = there + 1 + self.take(faults.slow);
        if self.forge.is_down {
            return self.later(
                back,
                Due::Event(Event::Ended {
                    id,
                    end: failed(seq, false),
                }),
            );
        }
        if self.forge.refuses.contains(&row.wanted.key.repository) {
            self.forge.refused += 1;
            let error = SendError::Refused {
                scope: Scope::Repository,
                why: "`github` has no o/r".to_owned(),
            };
            return self.later(
                back,
                Due::Event(Event::Ended {
                    id,
                    end: End::Failed { seq, error },
                }),
            );
        }
        if let Some(wait) = self.forge.limit(there) {
            self.forge.limited += 1;
            let error = SendError::Limited {
                wait: Some(Duration::from_millis(wait as u64)),
                why: "`github` takes no more for now".to_owned(),
            };
            return self.later(
                back,
                Due::Event(Event::Ended {
                    id,
                    end: End::Failed { seq, error },
                }),
            );
        }
        let state = row.wanted.content.state;
        let dice = self.dice();
        let end = if dice < faults.lost {
            self.forge.arrivals.push(there);
            // Given up by us before it is done there, perhaps.
            let late = self.take(faults.late);
            self.later(there + late, Due::Arrives(Box::new(row)));
            failed(seq, true)
        } else if dice < faults.lost + faults.unknown {
            failed(seq, true)
        } else if dice < faults.lost + faults.unknown + faults.failed {
            failed(seq, false)
        } else {
            self.forge.arrivals.push(there);
            self.later(there, Due::Arrives(Box::new(row)));
            End::Sent {
                seq,
                state,
                sent: Sent {
                    remote_id: Some(id.0.to_string()),
                    quota: Quota::default(),
                },
            }
        };
        self.later(back, Due::Event(Event::Ended { id, end }));
    }

    /// Every status as it is to be shown.
    pub(super) fn rows(&self) -> Vec<StatusRow> {
        let all = self.index.read(|conn| {
            let mut found = Vec::new();
            for evaluation in 1..=5 {
                found.extend(statuses::of_evaluation(conn, EvaluationId(evaluation))?);
            }
            Ok(found)
        });
        self.wait(all)
    }

    fn unsent(&self) -> Vec<Unsent> {
        let read = self.index.read(|conn| statuses::unsent(conn, "github", "o/r", 4));
        self.wait(read).0
    }

    /// Every final status is there as it is to be, and every status of which the forge was told anything says so.
    pub(super) fn assert_all_shown(&self) {
        for row in self.rows() {
            let shown = self.forge.shown.get(&row.id).and_then(|shown| shown.last());
            let state = shown.map(|(_, seq, state)| (*seq, *state));
            if row.wanted.content.state.is_final() {
                assert_eq!(state, Some((row.seq, row.wanted.content.state)), "{row:#?}");
                assert_eq!(row.sent_seq, Some(row.seq), "{row:#?}");
            }
        }
    }

    pub(super) fn writes(&self) -> usize {
        self.forge.arrivals.len()
    }

    /// What was written of a context, in order.
    pub(super) fn shown(&self, context: &str) -> Vec<(Millis, StatusState)> {
        let rows = self.rows();
        let row = rows.iter().find(|row| row.wanted.key.context == context).unwrap();
        let shown = self.forge.shown.get(&row.id).map(Vec::as_slice).unwrap_or_default();
        shown.iter().map(|(at, _, state)| (*at, *state)).collect()
    }

    pub(super) fn is_open(&self) -> bool {
        self.machine.pace.ask(self.now) == When::Now
    }
}

impl Forge {
    /// How long to wait, if this is too much.
    fn limit(&self, at: Millis) -> Option<Millis> {
        let waits = self.windows.iter().filter_map(|(writes, time)| {
            let within: Vec<Millis> = self
                .arrivals
                .iter()
                .rev()
                .take(writes * 2)
                .copied()
                .filter(|other| *other > at - time)
                .collect();
            (within.len() >= *writes).then(|| within.iter().min().map_or(*time, |first| first + time - at))
        });
        waits.max()
    }

    fn take(&mut self, row: &StatusRow, now: Millis) {
        let shown = self.shown.entry(row.id).or_default();
        if let Some((_, seq, _)) = shown.last() {
            assert!(*seq <= row.seq, "{seq} was followed by the older {}", row.seq);
        }
        shown.push((now, row.seq, row.wanted.content.state));
    }
}

fn failed(seq: i64, is_lost: bool) -> End {
    let why = "`github` does not answer".to_owned();
    let error = if is_lost {
        SendError::Lost { why }
    } else {
        SendError::Failed { why }
    };
    End::Failed { seq, error }
}

fn write(tx: &rusqlite::Transaction<'_>, id: StatusId, record: Record, now: Millis) -> index::Result<bool> {
    match record {
        Record::Sent { seq, state, remote_id } => statuses::confirm(tx, id, seq, state, remote_id.as_deref(), now),
        Record::Found { remote_id, state } => {
            statuses::found(tx, id, remote_id.as_deref(), state)?;
            Ok(false)
        }
        Record::Failed { seq, failure } => statuses::fail(tx, id, seq, &failure),
        Record::Refused { seq, why } => statuses::refuse(tx, id, seq, &why, now),
        Record::RefusedRepository { repository, why, .. } => {
            let refused = RefusedRepository {
                forge: "github".to_owned(),
                repository,
                reason: why,
                since: now,
                settings: String::new(),
            };
            statuses::refuse_repository(tx, &refused)?;
            Ok(false)
        }
    }
}

impl World {
    /// The repository is tried again, as after a webhook.
    pub(super) fn allow(&mut self) {
        let allowed = self.index.write(|tx| statuses::allow_repository(tx, "github", "o/r"));
        self.wait(allowed);
        self.ring();
    }
}
