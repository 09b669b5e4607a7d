//! What the scheduler is told, and what it asks for.

use std::sync::Arc;

use nixci_protocol::nixci::control::{AttemptId, EvaluationId, Millis};
use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_store::index::DrvId;

use super::store::StoreId;

/// A client's request to build something, for as long as the client waits. Numbers are given anew by each run of the
/// daemon and recorded nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// Who wants builds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Wisher {
    /// An evaluation: recorded, and settled when its roots are final.
    Evaluation(EvaluationId),
    /// A client that waits for the answer: its wish ends when it goes away or has it, and nothing of it is recorded.
    Request(RequestId),
}

impl From<EvaluationId> for Wisher {
    fn from(evaluation: EvaluationId) -> Self {
        Self::Evaluation(evaluation)
    }
}

impl From<RequestId> for Wisher {
    fn from(request: RequestId) -> Self {
        Self::Request(request)
    }
}

/// Which wishers go first when slots are short. The order is the order of service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Priority {
    /// Somebody waits for the answer: pull requests, submissions from a shell.
    Head,
    /// Nobody does: nightly sets.
    Background,
}

/// A derivation that somebody asks for by itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    /// The derivation.
    pub drv: DrvId,
    /// Its system.
    pub system: Arc<str>,
    /// The system features it requires.
    pub features: Arc<[String]>,
}

/// One derivation that a store says it has to build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlannedBuild {
    /// The derivation.
    pub drv: DrvId,
    /// Its inputs; those that are not builds of the same plan are ignored, for the store has them.
    pub inputs: Vec<DrvId>,
    /// A remembered failure: it is not tried again until it is restarted.
    pub known_failure: Option<FailureClass>,
}

/// What a store answered about roots.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Planned {
    /// What has to be built, in any order.
    pub builds: Vec<PlannedBuild>,
    /// Roots whose outputs the store has already.
    pub valid: Vec<DrvId>,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// The outputs exist.
    Succeeded(Success),
    /// It failed; a [`FailureClass::Store`] failure is tried again, the others are final.
    Failed(FailureClass),
    /// The store could not be reached, so that nothing was tried; the reason is shown to whoever waits.
    NotStarted(String),
    /// It was stopped on [`Action::Stop`].
    Stopped,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Somebody wants builds. Roots that are known already stay as they are.
    Submitted {
        /// Who; new here, or known.
        wisher: Wisher,
        /// The project it shares slots with.
        project: i64,
        /// Its place in the order of service.
        priority: Priority,
        /// What it asks for.
        roots: Vec<Root>,
        /// The only store that will do, where there is one; what that store offers is then for it to say.
        on: Option<StoreId>,
    },
    /// A store has another number of slots from now on; what runs goes on.
    Resized {
        /// The store.
        store: StoreId,
        /// Builds it may run at once.
        slots: u32,
    },
    /// The evaluation has no more jobs.
    Closed {
        /// The evaluation.
        evaluation: EvaluationId,
    },
    /// The answer to an [`Action::Plan`].
    Planned {
        /// For whom.
        wisher: Wisher,
        /// The store that answered.
        store: StoreId,
        /// The roots that were asked about.
        roots: Vec<DrvId>,
        /// Its answer.
        plan: Planned,
    },
    /// An [`Action::Plan`] came to nothing because of the store: it is repeated with back-off.
    PlanFailed {
        /// For whom.
        wisher: Wisher,
        /// The store.
        store: StoreId,
        /// The roots that were asked about.
        roots: Vec<DrvId>,
        /// What went wrong, in words.
        reason: String,
    },
    /// An [`Action::Plan`] can never succeed, for instance because a path is missing: the roots fail.
    PlanRefused {
        /// For whom.
        wisher: Wisher,
        /// The roots that were asked about.
        roots: Vec<DrvId>,
    },
    /// An attempt asked for by [`Action::Build`] has its number.
    Started {
        /// The derivation.
        drv: DrvId,
        /// The store.
        store: StoreId,
        /// The attempt.
        attempt: AttemptId,
        /// When it began.
        since: Millis,
    },
    /// An attempt asked for by [`Action::Build`] ended.
    Ended {
        /// The derivation.
        drv: DrvId,
        /// The store.
        store: StoreId,
        /// In which way.
        end: End,
    },
    /// Nobody waits for this evaluation or request any more.
    Cancelled {
        /// Whose wishes end.
        wisher: Wisher,
    },
    /// One derivation shall not be built, whoever wants it.
    CancelledBuild {
        /// The derivation.
        drv: DrvId,
    },
    /// Failures of these derivations are forgotten: what still wants them tries again.
    Restarted {
        /// The derivations.
        drvs: Vec<DrvId>,
    },
    /// The time that [`State::wake_at`](super::State::wake_at) named has come.
    Woken,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Forward the closure of these roots to the store and ask what has to be built; answer with
    /// [`Event::Planned`], [`Event::PlanFailed`] or [`Event::PlanRefused`].
    Plan {
        /// For whom.
        wisher: Wisher,
        /// The store.
        store: StoreId,
        /// Its roots.
        roots: Vec<DrvId>,
    },
    /// Build one derivation; answer with [`Event::Started`] and [`Event::Ended`].
    Build {
        /// The derivation.
        drv: DrvId,
        /// The store.
        store: StoreId,
    },
    /// Stop a running attempt; it still ends with [`Event::Ended`].
    Stop {
        /// The derivation.
        drv: DrvId,
        /// The store.
        store: StoreId,
    },
    /// Record that no store offers what the derivation requires.
    Unsupported {
        /// The derivation.
        drv: DrvId,
        /// What it requires and what there is, in words.
        message: String,
    },
    /// Tell a request that something it wants is final, whether or not an attempt made it so.
    Tell {
        /// The request.
        request: RequestId,
        /// The derivation.
        drv: DrvId,
        /// What became of it.
        state: LiveState,
    },
    /// Every job of the evaluation is final; it is forgotten here.
    Settled {
        /// The evaluation.
        evaluation: EvaluationId,
    },
}

/// What a derivation is doing now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LiveState {
    /// On the way to a store, or to be: the reason says what it waits for, when it waits.
    Forwarding {
        /// Why it does not move, if it does not.
        reason: Option<Arc<str>>,
    },
    /// Waits for so many inputs.
    Waiting {
        /// Inputs that are not built yet.
        left: u32,
    },
    /// Could run, but for the stated reason.
    Ready {
        /// Why it does not run yet.
        reason: Arc<str>,
    },
    /// Runs.
    Building {
        /// The attempt, once it has a number.
        attempt: Option<AttemptId>,
        /// Since when.
        since: Millis,
    },
    /// The outputs exist.
    Succeeded(Success),
    /// Failed by itself, finally.
    Failed(FailureClass),
    /// Derivations below it failed: at most [`MAX_BLOCKERS`] of them are named here.
    Blocked(Vec<DrvId>),
    /// Cancelled.
    Cancelled,
}

/// How many root causes a blocked build names while it is live; the index knows all of them.
pub const MAX_BLOCKERS: usize = 16;

impl LiveState {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Forwarding { .. } | Self::Waiting { .. } | Self::Ready { .. } | Self::Building { .. } => false,
            Self::Succeeded(_) | Self::Failed(_) | Self::Blocked(_) | Self::Cancelled => true,
        }
    }
}

/// A derivation changed its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The derivation.
    pub drv: DrvId,
    /// What it does now.
    pub state: LiveState,
}
