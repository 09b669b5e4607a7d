//! Following an evaluation: a snapshot, then what changes, at most ten times a second, then the verdict.
//!
//! The scheduler's changes are a broadcast that may lose some for a slow listener. Nothing here depends
//! on seeing each: a change only says which jobs to ask about again, and a gap means asking about all.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{EvaluationId, EvaluationState, Event, Selector};
use nixci_store::index::DrvId;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tracing::warn;

use crate::ci::Ci;
use crate::error::{CiError, told};
use crate::read::{Idle, Loaded, LoadedJob};
use crate::scheduler::Change;

/// Events that wait for a slow reader; the watch itself waits then, and coalesces meanwhile.
const EVENTS: usize = 64;
/// The shortest time between two progress events.
const PAUSE: Duration = Duration::from_millis(100);
/// How often the last lines of running builds are looked at when nothing else happens.
const LOOK: Duration = Duration::from_millis(500);

/// Starts a watch. It ends with its evaluation, with its reader, or with the daemon.
pub(crate) async fn watch(ci: &Ci, which: &Selector) -> Result<ReceiverStream<Event>, CiError> {
    let evaluation = ci.reader().find(which).await?.id;
    let (sender, events) = mpsc::channel(EVENTS);
    let (ci, stop) = (ci.clone(), ci.core.stop.connections.clone());
    tokio::spawn(async move {
        let mut watch = Watch::new(&ci, evaluation, &sender);
        let watching = async {
            tokio::select! {
                result = watch.run() => result,
                () = sender.closed() => Ok(()),
            }
        };
        if let Some(Err(Ended::Failed(error))) = stop.run_until_cancelled(watching).await {
            warn!(evaluation = evaluation.0, "a watch ended early: {}", told(&error));
        }
    });
    Ok(ReceiverStream::new(events))
}

enum Ended {
    /// Nobody reads any more.
    Unread,
    /// A question failed.
    Failed(CiError),
}

impl<E: Into<CiError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Watch<'w> {
    ci: &'w Ci,
    which: Selector,
    sender: &'w mpsc::Sender<Event>,
    changes: Receiver<Change>,
    evaluations: Receiver<EvaluationId>,
    evaluation: EvaluationId,
    loaded: Option<Loaded>,
    by_drv: HashMap<DrvId, Vec<usize>>,
    told: HashSet<AttrPath>,
    last: Option<Event>,
    told_at: Option<Instant>,
}

/// What to look at again.
#[derive(Default)]
struct Stale {
    everything: bool,
    jobs: HashSet<DrvId>,
}

impl<'w> Watch<'w> {
    fn new(ci: &'w Ci, evaluation: EvaluationId, sender: &'w mpsc::Sender<Event>) -> Self {
        Self {
            ci,
            which: Selector::Evaluation(evaluation),
            sender,
            // Subscribed before the first look, so that nothing falls between.
            changes: ci.core.scheduler.changes(),
            evaluations: ci.core.evaluations_changed.subscribe(),
            evaluation,
            loaded: None,
            by_drv: HashMap::new(),
            told: HashSet::new(),
            last: None,
            told_at: None,
        }
    }

    async fn run(&mut self) -> Result<(), Ended> {
        let mut stale = Stale {
            everything: true,
            jobs: HashSet::new(),
        };
        loop {
            let next = Instant::now() + PAUSE;
            if stale.everything {
                self.reload().await?;
            } else {
                self.refresh(stale.jobs.into_iter().collect()).await?;
            }
            if self.progress().await? {
                return Ok(());
            }
            stale = self.wait(next).await?;
        }
    }

    async fn send(&self, event: Event) -> Result<(), Ended> {
        self.sender.send(event).await.map_err(|_| Ended::Unread)
    }

    async fn reload(&mut self) -> Result<(), Ended> {
        let reader = self.ci.reader();
        let row = reader.find(&self.which).await?;
        let loaded = reader.load(row).await?;
        self.by_drv.clear();
        for (at, job) in loaded.jobs.iter().enumerate() {
            if let Some(drv) = job.drv {
                self.by_drv.entry(drv).or_default().push(at);
            }
        }
        let finished: Vec<LoadedJob> = loaded
            .jobs
            .iter()
            .filter(|job| job.outcome.is_final() && !self.told.contains(&job.attr))
            .cloned()
            .collect();
        self.loaded = Some(loaded);
        self.tell(finished).await
    }

    async fn refresh(&mut self, drvs: Vec<DrvId>) -> Result<(), Ended> {
        if drvs.is_empty() {
            return Ok(());
        }
        let Some(loaded) = &mut self.loaded else { return Ok(()) };
        let known = self.ci.reader().outcomes(drvs, Idle::from(loaded.row.state)).await?;
        let mut finished = Vec::new();
        for (drv, known) in known {
            for at in self.by_drv.get(&drv).into_iter().flatten() {
                let Some(job) = loaded.jobs.get_mut(*at) else { continue };
                job.outcome = known.outcome.clone();
                job.attempt = known.attempt;
                if job.outcome.is_final() && !self.told.contains(&job.attr) {
                    finished.push(job.clone());
                }
            }
        }
        self.tell(finished).await
    }

    async fn tell(&mut self, finished: Vec<LoadedJob>) -> Result<(), Ended> {
        if finished.is_empty() {
            return Ok(());
        }
        for status in self.ci.reader().statuses(finished).await? {
            self.told.insert(status.attr.clone());
            self.send(Event::Job(status)).await?;
        }
        Ok(())
    }

    /// Says where it stands, if that is news. True at the end.
    async fn progress(&mut self) -> Result<bool, Ended> {
        let Some(loaded) = &self.loaded else { return Ok(false) };
        let reader = self.ci.reader();
        let summary = reader.summary(loaded);
        let is_over = match summary.state {
            EvaluationState::Receiving | EvaluationState::Building => false,
            EvaluationState::Done | EvaluationState::Cancelled | EvaluationState::Abandoned => true,
        };
        let (running, builds_left) = if is_over {
            (Vec::new(), 0)
        } else {
            reader.running(&self.which).await?
        };
        let event = Event::Progress {
            summary: summary.clone(),
            running,
            builds_left,
        };
        let is_early = self.told_at.is_some_and(|at| at.elapsed() < PAUSE);
        if self.last.as_ref() != Some(&event) && (is_over || !is_early) {
            self.send(event.clone()).await?;
            self.last = Some(event);
            self.told_at = Some(Instant::now());
        }
        if is_over {
            let verdict = Box::new(reader.verdict(&self.which, None).await?);
            self.send(Event::Done { summary, verdict }).await?;
        }
        Ok(is_over)
    }

    /// Waits for a change, and then for the end of the pause.
    async fn wait(&mut self, next: Instant) -> Result<Stale, Ended> {
        let mut stale = Stale::default();
        let mut until = next.max(Instant::now() + LOOK);
        loop {
            let changed = tokio::select! {
                change = self.changes.recv() => match change {
                    Ok(change) => {
                        if self.by_drv.contains_key(&change.drv) {
                            stale.jobs.insert(change.drv);
                        }
                        true
                    }
                    Err(RecvError::Lagged(_)) => {
                        stale.everything = true;
                        true
                    }
                    Err(RecvError::Closed) => return Err(Ended::Failed(CiError::Stopping)),
                },
                changed = self.evaluations.recv() => match changed {
                    Ok(evaluation) => {
                        if evaluation == self.evaluation {
                            // It got jobs or came to its end: whoever waits for that waits no longer.
                            stale.everything = true;
                            return Ok(stale);
                        }
                        false
                    }
                    Err(RecvError::Lagged(_)) => {
                        stale.everything = true;
                        true
                    }
                    Err(RecvError::Closed) => return Err(Ended::Failed(CiError::Stopping)),
                },
                () = tokio::time::sleep_until(until) => return Ok(stale),
            };
            if changed {
                until = until.min(next);
            }
        }
    }
}
