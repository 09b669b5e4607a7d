//! The task that owns the [`State`], and the handle others hold.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use nixci_protocol::nixci::control::{AttemptId, EvaluationId, Millis};
use nixci_store::index::DrvId;
use tokio::sync::{broadcast, mpsc, oneshot};

use super::event::{Action, Change, End, Event, LiveState, Planned, Priority, RequestId, Root, Wisher};
use super::state::{EvaluationProgress, State};
use super::store::{StoreId, StoreLoad, StoreSpec};

/// Events that may wait for the scheduler. A step takes microseconds, so this is only ever full while a
/// plan of many thousand builds is taken in; senders wait then.
const EVENTS: usize = 1024;

/// Actions that may wait for the dispatcher; further ones wait in the scheduler itself, where their
/// number is bounded by what was submitted.
const ACTIONS: usize = 64;

/// Changes a slow listener may be behind before it loses some and has to look afresh.
const CHANGES: usize = 8192;

/// The scheduler has stopped; only while the daemon shuts down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the scheduler has stopped")]
pub struct SchedulerGone;

/// A handle on the scheduler. Clones share it; it stops when the last one is dropped.
///
/// Every verb waits only for a place in the scheduler's queue, except the questions, which wait for
/// their answer as well. All are cancellation safe: a verb that was dropped has either been queued or not.
#[derive(Debug, Clone)]
pub struct Scheduler {
    messages: mpsc::Sender<Message>,
    changes: broadcast::Sender<Change>,
}

#[derive(Debug)]
enum Message {
    Event(Event),
    Live(Vec<DrvId>, oneshot::Sender<HashMap<DrvId, LiveState>>),
    Progress(EvaluationId, oneshot::Sender<Option<EvaluationProgress>>),
    Load(oneshot::Sender<Vec<StoreLoad>>),
    Evaluations(oneshot::Sender<Vec<EvaluationId>>),
}

impl Scheduler {
    /// Starts the task. What comes out of the receiver is to be executed in any order; the task ends,
    /// and the receiver with it, when the last handle is dropped.
    #[must_use]
    pub fn spawn(stores: Vec<StoreSpec>) -> (Self, mpsc::Receiver<Action>) {
        let (messages, inbox) = mpsc::channel(EVENTS);
        let (actions, outbox) = mpsc::channel(ACTIONS);
        let (changes, _) = broadcast::channel(CHANGES);
        tokio::spawn(run(State::new(stores), inbox, actions, changes.clone()));
        (Self { messages, changes }, outbox)
    }

    /// Jobs of an evaluation arrived; see [`Event::Submitted`].
    pub async fn submitted(
        &self,
        evaluation: EvaluationId,
        project: i64,
        priority: Priority,
        roots: Vec<Root>,
    ) -> Result<(), SchedulerGone> {
        self.tell(Event::Submitted {
            wisher: Wisher::Evaluation(evaluation),
            project,
            priority,
            roots,
            on: None,
        })
        .await
    }

    /// A client waits for these; it is told of each by [`Action::Tell`], until [`cancel`](Self::cancel).
    pub async fn requested(
        &self,
        request: RequestId,
        project: i64,
        roots: Vec<Root>,
        on: Option<StoreId>,
    ) -> Result<(), SchedulerGone> {
        self.tell(Event::Submitted {
            wisher: Wisher::Request(request),
            project,
            priority: Priority::Head,
            roots,
            on,
        })
        .await
    }

    /// A store has another number of slots from now on.
    pub async fn resize(&self, store: StoreId, slots: u32) -> Result<(), SchedulerGone> {
        self.tell(Event::Resized { store, slots }).await
    }

    /// The evaluation has no more jobs.
    pub async fn closed(&self, evaluation: EvaluationId) -> Result<(), SchedulerGone> {
        self.tell(Event::Closed { evaluation }).await
    }

    /// A store answered an [`Action::Plan`].
    pub async fn planned(
        &self,
        wisher: Wisher,
        store: StoreId,
        roots: Vec<DrvId>,
        plan: Planned,
    ) -> Result<(), SchedulerGone> {
        self.tell(Event::Planned {
            wisher,
            store,
            roots,
            plan,
        })
        .await
    }

    /// A store could not answer an [`Action::Plan`]; it is asked again later.
    pub async fn plan_failed(
        &self,
        wisher: Wisher,
        store: StoreId,
        roots: Vec<DrvId>,
        reason: String,
    ) -> Result<(), SchedulerGone> {
        self.tell(Event::PlanFailed {
            wisher,
            store,
            roots,
            reason,
        })
        .await
    }

    /// An [`Action::Plan`] can never succeed; the roots fail.
    pub async fn plan_refused(&self, wisher: Wisher, roots: Vec<DrvId>) -> Result<(), SchedulerGone> {
        self.tell(Event::PlanRefused { wisher, roots }).await
    }

    /// An [`Action::Build`] has become this attempt.
    pub async fn started(
        &self,
        drv: DrvId,
        store: StoreId,
        attempt: AttemptId,
        since: Millis,
    ) -> Result<(), SchedulerGone> {
        self.tell(Event::Started {
            drv,
            store,
            attempt,
            since,
        })
        .await
    }

    /// An [`Action::Build`] has ended.
    pub async fn ended(&self, drv: DrvId, store: StoreId, end: End) -> Result<(), SchedulerGone> {
        self.tell(Event::Ended { drv, store, end }).await
    }

    /// Nobody waits for the evaluation or request any more.
    pub async fn cancel(&self, wisher: impl Into<Wisher>) -> Result<(), SchedulerGone> {
        let wisher = wisher.into();
        self.tell(Event::Cancelled { wisher }).await
    }

    /// A derivation shall not be built, whoever wants it.
    pub async fn cancel_build(&self, drv: DrvId) -> Result<(), SchedulerGone> {
        self.tell(Event::CancelledBuild { drv }).await
    }

    /// Failures of these derivations are forgotten.
    pub async fn restart(&self, drvs: Vec<DrvId>) -> Result<(), SchedulerGone> {
        self.tell(Event::Restarted { drvs }).await
    }

    /// What these derivations are doing; those that nobody wants are left out.
    pub async fn live(&self, drvs: Vec<DrvId>) -> Result<HashMap<DrvId, LiveState>, SchedulerGone> {
        self.ask(|reply| Message::Live(drvs, reply)).await
    }

    /// How far an evaluation is; `None` when it is settled or was never known.
    pub async fn progress(&self, evaluation: EvaluationId) -> Result<Option<EvaluationProgress>, SchedulerGone> {
        self.ask(|reply| Message::Progress(evaluation, reply)).await
    }

    /// How busy the stores are, in the order of the configuration.
    pub async fn load(&self) -> Result<Vec<StoreLoad>, SchedulerGone> {
        self.ask(Message::Load).await
    }

    /// The evaluations that are not settled.
    pub async fn evaluations(&self) -> Result<Vec<EvaluationId>, SchedulerGone> {
        self.ask(Message::Evaluations).await
    }

    /// What changes from now on. A listener that is more than [`CHANGES`] behind is told so and must
    /// look afresh at what it shows.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    async fn tell(&self, event: Event) -> Result<(), SchedulerGone> {
        self.messages
            .send(Message::Event(event))
            .await
            .map_err(|_| SchedulerGone)
    }

    async fn ask<T>(&self, question: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, SchedulerGone> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(question(reply)).await.map_err(|_| SchedulerGone)?;
        answer.await.map_err(|_| SchedulerGone)
    }
}

async fn run(
    mut state: State,
    mut inbox: mpsc::Receiver<Message>,
    actions: mpsc::Sender<Action>,
    changes: broadcast::Sender<Change>,
) {
    // Actions wait here rather than in a send: the dispatcher may itself be waiting for a place in our inbox.
    let mut pending = VecDeque::new();
    loop {
        let now = Instant::now();
        let wake = state.wake_at(now).map(tokio::time::Instant::from_std);
        let event = tokio::select! {
            permit = actions.reserve(), if !pending.is_empty() => {
                let (Ok(permit), Some(action)) = (permit, pending.pop_front()) else { return };
                permit.send(action);
                continue;
            }
            message = inbox.recv() => match message {
                None => return,
                Some(Message::Event(event)) => event,
                Some(question) => {
                    answer(&state, question);
                    continue;
                }
            },
            () = async { match wake { Some(at) => tokio::time::sleep_until(at).await, None => std::future::pending().await } } => Event::Woken,
        };
        let (wanted, moved) = state.step(event, Instant::now());
        pending.extend(wanted);
        for change in moved {
            // No listener is no error.
            let _ = changes.send(change);
        }
    }
}

/// Answers a question; one whose asker has gone away is answered into the void.
fn answer(state: &State, question: Message) {
    match question {
        Message::Live(drvs, reply) => {
            let live = drvs
                .into_iter()
                .filter_map(|drv| state.live(drv).map(|live| (drv, live)))
                .collect();
            let _ = reply.send(live);
        }
        Message::Progress(evaluation, reply) => {
            let _ = reply.send(state.progress(evaluation));
        }
        Message::Load(reply) => {
            let _ = reply.send(state.load());
        }
        Message::Evaluations(reply) => {
            let _ = reply.send(state.evaluations().collect());
        }
        Message::Event(_) => {}
    }
}
