//! The life of a node: dispatched, running, ended, tried again, dropped.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use nixci_protocol::nixci::control::{AttemptId, Millis};
use nixci_protocol::nixci::outcome::FailureClass;
use nixci_store::index::DrvId;

use super::event::{Action, Change, End, LiveState, Wisher};
use super::graph::{Key, Status, Stop};
use super::state::State;
use super::store::StoreId;

/// Attempts at one build that a store may lose before the build fails with [`FailureClass::Store`]: a
/// build that takes its store down with it must not do so for ever.
const MAX_TRIES: u32 = 8;

impl State {
    pub(super) fn dispatch(&mut self, now: Instant) {
        for (at, (store, queue)) in self.stores.iter_mut().zip(&mut self.queues).enumerate() {
            while store.free_slots(now) > 0 {
                let Some(drv) = queue.pop() else { break };
                let id = StoreId(at as u16);
                if let Some(node) = self.nodes.get_mut(&(id, drv)) {
                    node.place = None;
                    node.status = Status::Running {
                        attempt: None,
                        since: 0,
                        stop: None,
                    };
                    store.takes(now);
                    self.running.insert((id, drv));
                    self.actions.push(Action::Build { drv, store: id });
                }
            }
        }
    }

    pub(super) fn started(&mut self, key: Key, number: AttemptId, began: Millis) {
        let Some(node) = self.nodes.get_mut(&key) else { return };
        if let Status::Running { attempt, since, .. } = &mut node.status {
            *attempt = Some(number);
            *since = began;
            self.changes.push(Change {
                drv: key.1,
                state: LiveState::Building {
                    attempt: Some(number),
                    since: began,
                },
            });
        }
    }

    pub(super) fn ended(&mut self, key: Key, end: End, now: Instant) {
        let Some(node) = self.nodes.get_mut(&key) else { return };
        let Status::Running { stop, .. } = node.status else {
            return;
        };
        let Some(store) = self.stores.get_mut(usize::from(key.0.0)) else {
            return;
        };
        store.leaves();
        self.running.remove(&key);
        match end {
            End::Succeeded(how) => {
                store.answered();
                self.finish(key, Status::Succeeded(how));
            }
            End::Failed(FailureClass::Store) => {
                store.did_not_answer("it broke off a build", now);
                node.tries += 1;
                if node.tries >= MAX_TRIES {
                    self.finish(key, Status::Failed(FailureClass::Store));
                } else {
                    self.retry(key);
                }
            }
            End::Failed(class) => {
                store.answered();
                self.finish(key, Status::Failed(class));
            }
            End::NotStarted(reason) => {
                store.did_not_answer(&reason, now);
                self.retry(key);
            }
            End::Stopped => match stop {
                Some(Stop::Cancelled) => self.finish(key, Status::Cancelled),
                Some(Stop::Unwanted) | None => self.retry(key),
            },
        }
        self.drop_unwanted(vec![key]);
    }

    /// Back into the queue, if anybody still wants it.
    fn retry(&mut self, key: Key) {
        match self.nodes.get_mut(&key) {
            Some(node) if node.wanted_by.is_empty() => node.status = Status::Cancelled,
            Some(_) => self.make_ready(key),
            None => {}
        }
    }

    pub(super) fn finish(&mut self, key: Key, status: Status) {
        self.unqueue(key);
        let Some(node) = self.nodes.get_mut(&key) else { return };
        let was_final = node.status.is_final();
        let succeeded = matches!(status, Status::Succeeded(_));
        node.status = status;
        self.became_final(key, was_final);
        if succeeded {
            let dependents = self.nodes.get(&key).map(|n| n.dependents.clone()).unwrap_or_default();
            self.release(key.0, &dependents);
        } else {
            self.block_dependents(key);
        }
    }

    /// Bookkeeping after a node's status became final, or became another final one.
    pub(super) fn became_final(&mut self, key: Key, was_final: bool) {
        let Some(node) = self.nodes.get(&key) else { return };
        let Some(store) = self.stores.get(usize::from(key.0.0)) else {
            return;
        };
        self.changes.push(Change {
            drv: key.1,
            state: node.live(store),
        });
        if was_final {
            return;
        }
        let state = node.live(store);
        for id in &node.wanted_by {
            match id {
                Wisher::Evaluation(_) => {}
                Wisher::Request(request) => self.actions.push(Action::Tell {
                    request: *request,
                    drv: key.1,
                    state: state.clone(),
                }),
            }
            if let Some(e) = self.wishes.get_mut(id) {
                e.builds_left = e.builds_left.saturating_sub(1);
            }
        }
        for id in &node.root_of {
            if let Some(e) = self.wishes.get_mut(id) {
                e.roots_left = e.roots_left.saturating_sub(1);
                self.settling.insert(*id);
            }
        }
    }

    /// Bookkeeping after a final node was taken back.
    pub(super) fn became_open(&mut self, key: Key) {
        let Some(node) = self.nodes.get(&key) else { return };
        let Some(store) = self.stores.get(usize::from(key.0.0)) else {
            return;
        };
        self.changes.push(Change {
            drv: key.1,
            state: node.live(store),
        });
        for id in &node.wanted_by {
            if let Some(e) = self.wishes.get_mut(id) {
                e.builds_left += 1;
            }
        }
        for id in &node.root_of {
            if let Some(e) = self.wishes.get_mut(id) {
                e.roots_left += 1;
            }
        }
    }

    pub(super) fn cancelled_build(&mut self, drv: DrvId) {
        for key in self.keys_of(drv) {
            let Some(node) = self.nodes.get_mut(&key) else { continue };
            match &mut node.status {
                Status::Running { stop, .. } => {
                    *stop = Some(Stop::Cancelled);
                    self.actions.push(Action::Stop { drv, store: key.0 });
                }
                Status::Waiting | Status::Ready => self.finish(key, Status::Cancelled),
                Status::Succeeded(_) | Status::Failed(_) | Status::Blocked(_) | Status::Cancelled => {}
            }
        }
    }

    /// Forgets those of these nodes that nobody wants; one that runs is stopped first, and forgotten
    /// when it has ended.
    pub(super) fn drop_unwanted(&mut self, keys: Vec<Key>) {
        let mut dropped = HashMap::new();
        for key in keys {
            let Some(node) = self.nodes.get_mut(&key).filter(|n| n.wanted_by.is_empty()) else {
                continue;
            };
            if let Status::Running { stop, .. } = &mut node.status {
                if stop.is_none() {
                    *stop = Some(Stop::Unwanted);
                    self.actions.push(Action::Stop {
                        drv: key.1,
                        store: key.0,
                    });
                }
                continue;
            }
            if !node.status.is_final() {
                self.changes.push(Change {
                    drv: key.1,
                    state: LiveState::Cancelled,
                });
            }
            self.unqueue(key);
            dropped.extend(self.nodes.remove(&key).map(|node| (key, node)));
        }
        let mut inputs = HashSet::new();
        for ((store, _), node) in &dropped {
            inputs.extend(node.inputs.iter().map(|input| (*store, *input)));
            if !matches!(node.status, Status::Succeeded(_)) {
                // A build above it that somebody else wants was planned when this one was valid.
                self.release(*store, &node.dependents);
            }
        }
        for key in inputs {
            if let Some(node) = self.nodes.get_mut(&key) {
                node.dependents.retain(|d| !dropped.contains_key(&(key.0, *d)));
            }
        }
    }
}
