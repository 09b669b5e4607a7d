//! What one sender does next: a pure and total step, `(state, event, now) -> actions`. It reads no clock, no database and
//! no forge, so every decision can be replayed in a test.
//!
//! What it keeps to:
//!
//! - Of a status at most one request is under way, and each carries what is newest when it goes out. What changes
//!   meanwhile is sent afterwards. So an older state never follows a newer one.
//! - A request whose end is not known leaves a *doubt*: the forge is asked what it has before anything is sent again,
//!   also after a restart, and not at once, for the request may still be on its way.
//! - The order is that of [`order`]: first summaries first, final ones last, red jobs before the others.
//! - What a forge refuses for good is recorded and not tried again; what it refuses for now waits as long as it says.
//!   After some failures in a row the forge is taken to be down, and one request at a time tries it.

mod flow;
mod order;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod world;

use std::collections::{BTreeMap, BTreeSet};

use nixci_protocol::nixci::control::Millis;
use nixci_protocol::nixci::report::StatusState;
use nixci_store::index::statuses::{Failure, StatusId, Unsent};

use super::pace::Pace;
use crate::config;
use crate::forge::{Quota, SendError, Sent};

/// What happens to a sender.
#[derive(Debug, Clone)]
pub enum Event {
    /// It begins, or something was written that it may have to send.
    Rang,
    /// Answer to [`Action::Load`]: what is to be sent, and whether that is all.
    Loaded {
        /// Of each repository and rank the oldest.
        rows: Vec<Unsent>,
        /// Whether there is no more.
        is_all: bool,
    },
    /// A request has ended.
    Ended {
        /// Of which status.
        id: StatusId,
        /// How.
        end: End,
    },
    /// What came of a request is in the index.
    Recorded {
        /// Of which status.
        id: StatusId,
        /// Whether its content has changed meanwhile.
        is_newer: bool,
    },
    /// The index failed: at loading, or at the request of a status.
    IndexFailed(Option<StatusId>),
    /// Time has passed.
    Woke,
    /// The daemon stops: what is under way is recorded, nothing more begins.
    Stop,
}

/// How a request ended.
#[derive(Debug, Clone)]
pub enum End {
    /// The forge has this content.
    Sent {
        /// Its number.
        seq: i64,
        /// Its state.
        state: StatusState,
        /// What the forge said.
        sent: Sent,
    },
    /// The forge was looked at and has nothing, or another content under this number.
    Other {
        /// The forge's number.
        remote_id: Option<String>,
        /// What it says there.
        state: Option<StatusState>,
        /// What the forge said of how much more it takes.
        quota: Quota,
    },
    /// There was nothing to send any more; no request went out.
    Nothing,
    /// It came to nothing.
    Failed {
        /// The number of the content.
        seq: i64,
        /// Why.
        error: SendError,
    },
}

/// What a sender is to do. Each is answered with an event.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Read what is to be sent: [`Event::Loaded`].
    Load,
    /// Begin a request with the newest content, and send it: [`Event::Ended`].
    Send(StatusId),
    /// Ask the forge what it has: [`Event::Ended`].
    LookUp(StatusId),
    /// Write down what came of a request: [`Event::Recorded`].
    Record(StatusId, Record),
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Record {
    /// The forge has this content.
    Sent {
        /// Its number.
        seq: i64,
        /// Its state.
        state: StatusState,
        /// The forge's number.
        remote_id: Option<String>,
    },
    /// The forge has not what was tried.
    Found {
        /// The forge's number.
        remote_id: Option<String>,
        /// What it says there.
        state: Option<StatusState>,
    },
    /// It is to be tried again.
    Failed {
        /// The number of the content.
        seq: i64,
        /// How it failed.
        failure: Failure,
    },
    /// It is not to be tried again.
    Refused {
        /// The number of the content.
        seq: i64,
        /// Why.
        why: String,
    },
    /// Nothing of its repository is to be tried again.
    RefusedRepository {
        /// The repository.
        repository: String,
        /// The number of the content.
        seq: i64,
        /// Why.
        why: String,
    },
}

/// Why a sender is behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Of which kind.
    pub kind: TroubleKind,
    /// In one line.
    pub reason: String,
    /// Since when.
    pub since: Millis,
}

/// Kinds of trouble.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// The forge does not know us: nothing is tried before something changes.
    Stopped,
    /// The forge takes nothing for some time.
    Limited,
    /// The forge fails or does not answer.
    Down,
}

/// The state of one sender.
#[derive(Debug)]
pub struct Machine {
    pace: Pace,
    per_context: Option<u64>,
    /// The least time between two writes of progress of one status.
    progress_gap: Millis,
    rows: BTreeMap<StatusId, Row>,
    loading: Loading,
    /// Something may have been written since the last load.
    is_due: bool,
    /// When it was loaded last.
    loaded_at: Millis,
    /// There is more than was loaded.
    has_more: bool,
    /// Rows that ended since the last load.
    ended: usize,
    /// Rows that were changed by us since the load under way began: what it finds of them may be old.
    stale: BTreeSet<StatusId>,
    /// When each repository was last served: in turns.
    served: BTreeMap<String, u64>,
    turns: u64,
    /// Failures in a row, of any status.
    failures: u32,
    /// Refusals for now in a row that did not say how long.
    limits: u32,
    trouble: Option<Trouble>,
    /// When to go on after the index failed.
    index_retry: Option<Millis>,
    /// Repositories that were refused since the last load: what a load under way finds of them is not tried.
    refused: BTreeSet<String>,
    is_ending: bool,
}

/// One status.
#[derive(Debug, Clone)]
struct Row {
    unsent: Unsent,
    /// Since when this content waits, by our clock: never later than it was first seen.
    since: Millis,
    at: At,
}

/// Where a status stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Waiting,
    Sending,
    Asking,
    /// What came of it is being written down; afterwards it goes, or waits again.
    Recording {
        stays: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Loading {
    Idle,
    UnderWay,
}

impl Machine {
    /// A sender that keeps to a pace; `before` are the times of its writes before the start, oldest first.
    #[must_use]
    pub fn new(config: &config::Pace, before: Vec<Millis>) -> Self {
        Self {
            pace: Pace::new(config, before),
            per_context: config.per_context,
            progress_gap: order::progress_gap(config),
            rows: BTreeMap::new(),
            loading: Loading::Idle,
            is_due: false,
            loaded_at: Millis::MIN,
            has_more: false,
            ended: 0,
            stale: BTreeSet::new(),
            served: BTreeMap::new(),
            turns: 0,
            failures: 0,
            limits: 0,
            trouble: None,
            index_retry: None,
            refused: BTreeSet::new(),
            is_ending: false,
        }
    }

    /// Why it is behind, if it is.
    #[must_use]
    pub fn trouble(&self) -> Option<&Trouble> {
        self.trouble.as_ref()
    }

    /// Whether the forge does not know us, so that it does nothing more.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.trouble
            .as_ref()
            .is_some_and(|trouble| trouble.kind == TroubleKind::Stopped)
    }

    /// Requests whose end it waits for, and records that are being written.
    #[must_use]
    pub fn under_way(&self) -> usize {
        self.rows.values().filter(|row| row.at != At::Waiting).count()
    }

    /// Whether it has nothing to do, and nothing to remember for its pace.
    #[must_use]
    pub fn is_done(&self, now: Millis) -> bool {
        self.rows.is_empty()
            && self.loading == Loading::Idle
            && !self.is_due
            && !self.has_more
            && self.pace.clear_at(now).is_none()
            && self.pace.closed_until(now).is_none()
    }
}
