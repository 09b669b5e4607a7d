//! The state of the scheduler and its pure step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Instant;

use nixci_protocol::nixci::control::{AttemptId, EvaluationId, Millis};
use nixci_store::index::DrvId;

use super::event::{Action, Change, Event, LiveState, Priority, Wisher};
use super::graph::{Key, Node, Status};
use super::queue::{Place, Queue};
use super::store::{Store, StoreId, StoreLoad, StoreSpec};
use super::wisher::{RootPhase, Wishes};

/// Everything that is wanted and not settled. See the module's page for how it is used.
#[derive(Debug)]
pub struct State {
    pub(super) stores: Vec<Store>,
    pub(super) queues: Vec<Queue>,
    pub(super) nodes: HashMap<Key, Node>,
    pub(super) wishes: BTreeMap<Wisher, Wishes>,
    /// Nodes that run.
    pub(super) running: BTreeSet<Key>,
    /// Wishers with roots that no plan was asked for yet.
    pub(super) unplanned: BTreeSet<Wisher>,
    /// Wishers that may have become settled in this step.
    pub(super) settling: BTreeSet<Wisher>,
    pub(super) arrivals: u64,
    pub(super) actions: Vec<Action>,
    pub(super) changes: Vec<Change>,
}

/// How far an evaluation is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EvaluationProgress {
    /// Builds it wants, dependencies included, that are not final; roots that are still on their way count too.
    pub builds_left: u64,
    /// What of it runs, oldest first.
    pub running: Vec<RunningNode>,
}

/// A build that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunningNode {
    /// The derivation.
    pub drv: DrvId,
    /// Where.
    pub store: StoreId,
    /// The attempt, once it has a number.
    pub attempt: Option<AttemptId>,
    /// Since when; 0 until it has a number.
    pub since: Millis,
}

impl State {
    /// Nothing wanted, and these stores; their order gives them their [`StoreId`].
    #[must_use]
    pub fn new(stores: Vec<StoreSpec>) -> Self {
        Self {
            queues: stores.iter().map(|_| Queue::default()).collect(),
            stores: stores.into_iter().map(Store::new).collect(),
            nodes: HashMap::new(),
            wishes: BTreeMap::new(),
            running: BTreeSet::new(),
            unplanned: BTreeSet::new(),
            settling: BTreeSet::new(),
            arrivals: 0,
            actions: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// Takes one event and returns what follows from it. Events about things that are not known (any
    /// more) are ignored.
    pub fn step(&mut self, event: Event, now: Instant) -> (Vec<Action>, Vec<Change>) {
        match event {
            Event::Submitted {
                wisher,
                project,
                priority,
                roots,
                on,
            } => {
                self.wishes
                    .entry(wisher)
                    .or_insert_with(|| Wishes::new(project, priority));
                self.submitted(wisher, roots, on, now);
            }
            Event::Resized { store, slots } => {
                if let Some(s) = self.stores.get_mut(usize::from(store.0)) {
                    s.spec.slots = slots.max(1);
                }
            }
            Event::Closed { evaluation } => {
                let wisher = Wisher::Evaluation(evaluation);
                if let Some(e) = self.wishes.get_mut(&wisher) {
                    e.closed = true;
                    self.settling.insert(wisher);
                }
            }
            Event::Planned {
                wisher,
                store,
                roots,
                plan,
            } => {
                if let Some(s) = self.stores.get_mut(usize::from(store.0)) {
                    s.answered();
                }
                self.planned(wisher, store, &roots, plan);
            }
            Event::PlanFailed {
                wisher,
                store,
                roots,
                reason,
            } => {
                if let Some(s) = self.stores.get_mut(usize::from(store.0)) {
                    s.did_not_answer(&reason, now);
                }
                if let Some(e) = self.wishes.get_mut(&wisher) {
                    e.planning.remove(&store);
                    e.unplanned.entry(store).or_default().extend(roots);
                    self.unplanned.insert(wisher);
                }
            }
            Event::PlanRefused { wisher, roots } => self.plan_refused(wisher, &roots),
            Event::Started {
                drv,
                store,
                attempt,
                since,
            } => self.started((store, drv), attempt, since),
            Event::Ended { drv, store, end } => self.ended((store, drv), end, now),
            Event::Cancelled { wisher } => self.forget(wisher),
            Event::CancelledBuild { drv } => self.cancelled_build(drv),
            Event::Restarted { drvs } => {
                for drv in drvs {
                    for key in self.keys_of(drv) {
                        self.reopen(key);
                    }
                }
            }
            Event::Woken => {}
        }
        while let Some(wisher) = self.settling.pop_first() {
            self.settle(wisher);
        }
        self.plan(now);
        self.dispatch(now);
        (std::mem::take(&mut self.actions), std::mem::take(&mut self.changes))
    }

    /// When [`Event::Woken`] is due, if anything waits for a time.
    #[must_use]
    pub fn wake_at(&self, now: Instant) -> Option<Instant> {
        self.stores.iter().filter_map(|s| s.wake_at(now)).min()
    }

    /// What a derivation is doing; `None` when nobody wants it.
    #[must_use]
    pub fn live(&self, drv: DrvId) -> Option<LiveState> {
        let nodes = (0..self.stores.len()).filter_map(|s| {
            let key = (StoreId(s as u16), drv);
            self.nodes.get(&key).map(|node| node.live(&self.stores[s]))
        });
        nodes
            .max_by_key(|state| matches!(state, LiveState::Succeeded(_) | LiveState::Building { .. }))
            .or_else(|| {
                self.wishes.values().find_map(|e| match e.roots.get(&drv)? {
                    RootPhase::Planning(store) => Some(LiveState::Forwarding {
                        reason: self.store(*store).and_then(Store::down_reason),
                    }),
                    RootPhase::Node => None,
                    RootPhase::Final(state) => Some(state.clone()),
                })
            })
    }

    /// How far an evaluation is; `None` when it is settled or was never known.
    #[must_use]
    pub fn progress(&self, evaluation: EvaluationId) -> Option<EvaluationProgress> {
        let e = self.wishes.get(&Wisher::Evaluation(evaluation))?;
        let of_this = self.running.iter().filter(|key| e.nodes.contains(key));
        let mut running: Vec<RunningNode> = of_this
            .filter_map(|key| match self.nodes.get(key)?.status {
                Status::Running { attempt, since, .. } => Some(RunningNode {
                    drv: key.1,
                    store: key.0,
                    attempt,
                    since,
                }),
                Status::Waiting
                | Status::Ready
                | Status::Succeeded(_)
                | Status::Failed(_)
                | Status::Blocked(_)
                | Status::Cancelled => None,
            })
            .collect();
        running.sort_by_key(|r| (r.since, r.drv));
        Some(EvaluationProgress {
            builds_left: e.builds_left + e.roots_planning,
            running,
        })
    }

    /// How busy the stores are, in the order of the configuration.
    #[must_use]
    pub fn load(&self) -> Vec<StoreLoad> {
        self.stores
            .iter()
            .zip(&self.queues)
            .map(|(store, queue)| store.load(queue.len()))
            .collect()
    }

    /// Evaluations that are not settled.
    pub fn evaluations(&self) -> impl Iterator<Item = EvaluationId> {
        self.wishes.keys().filter_map(|wisher| match wisher {
            Wisher::Evaluation(evaluation) => Some(*evaluation),
            Wisher::Request(_) => None,
        })
    }

    fn store(&self, id: StoreId) -> Option<&Store> {
        self.stores.get(usize::from(id.0))
    }

    pub(super) fn keys_of(&self, drv: DrvId) -> Vec<Key> {
        (0..self.stores.len())
            .map(|s| (StoreId(s as u16), drv))
            .filter(|key| self.nodes.contains_key(key))
            .collect()
    }

    pub(super) fn make_ready(&mut self, key: Key) {
        let (store, drv) = key;
        let Some(node) = self.nodes.get_mut(&key) else { return };
        // Who wants it first pays for it; the most urgent one decides the class.
        let wanted: Vec<&Wishes> = node.wanted_by.iter().filter_map(|id| self.wishes.get(id)).collect();
        let place = Place {
            priority: wanted.iter().map(|e| e.priority).min().unwrap_or(Priority::Background),
            project: wanted.first().map_or(0, |e| e.project),
            height: node.height,
            arrival: node.arrival,
        };
        node.status = Status::Ready;
        node.place = Some(place);
        if let Some(queue) = self.queues.get_mut(usize::from(store.0)) {
            queue.insert(place, drv);
        }
    }

    pub(super) fn unqueue(&mut self, key: Key) {
        if let Some(place) = self.nodes.get_mut(&key).and_then(|n| n.place.take())
            && let Some(queue) = self.queues.get_mut(usize::from(key.0.0))
        {
            queue.remove(place, key.1);
        }
    }
}
