//! The builds that are wanted and the inputs they wait for.

use std::collections::{HashMap, HashSet};

use nixci_protocol::nixci::control::{AttemptId, Millis};
use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_store::index::DrvId;

use super::event::{LiveState, MAX_BLOCKERS, Wisher};
use super::queue::Place;
use super::state::State;
use super::store::{Store, StoreId};

/// A build on a store. The same derivation on two stores is two nodes: outputs stay where they were built.
pub(super) type Key = (StoreId, DrvId);

#[derive(Debug)]
pub(super) struct Node {
    pub(super) status: Status,
    pub(super) inputs: Vec<DrvId>,
    pub(super) dependents: Vec<DrvId>,
    /// Inputs that have not succeeded.
    pub(super) left: u32,
    /// Builds on the longest path above it.
    pub(super) height: u32,
    pub(super) arrival: u64,
    pub(super) wanted_by: Vec<Wisher>,
    /// Those of `wanted_by` that asked for it by itself.
    pub(super) root_of: Vec<Wisher>,
    /// Attempts that failed because of the store.
    pub(super) tries: u32,
    /// Where it stands in the queue, while it is [`Status::Ready`].
    pub(super) place: Option<Place>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    Waiting,
    Ready,
    Running {
        attempt: Option<AttemptId>,
        since: Millis,
        stop: Option<Stop>,
    },
    Succeeded(Success),
    Failed(FailureClass),
    Blocked(Vec<DrvId>),
    Cancelled,
}

/// Why a running attempt was asked to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// Nobody wants it any more; somebody may again before it has stopped.
    Unwanted,
    /// Somebody cancelled the derivation itself.
    Cancelled,
}

impl Status {
    pub(super) fn is_final(&self) -> bool {
        match self {
            Self::Waiting | Self::Ready | Self::Running { .. } => false,
            Self::Succeeded(_) | Self::Failed(_) | Self::Blocked(_) | Self::Cancelled => true,
        }
    }

    /// Final, and not a success.
    pub(super) fn is_failure(&self) -> bool {
        self.is_final() && !matches!(self, Self::Succeeded(_))
    }
}

impl Node {
    pub(super) fn new(arrival: u64) -> Self {
        Self {
            status: Status::Waiting,
            inputs: Vec::new(),
            dependents: Vec::new(),
            left: 0,
            height: 0,
            arrival,
            wanted_by: Vec::new(),
            root_of: Vec::new(),
            tries: 0,
            place: None,
        }
    }

    pub(super) fn live(&self, store: &Store) -> LiveState {
        match &self.status {
            Status::Waiting => LiveState::Waiting { left: self.left },
            Status::Ready => LiveState::Ready {
                reason: store.why_not(),
            },
            Status::Running { attempt, since, .. } => LiveState::Building {
                attempt: *attempt,
                since: *since,
            },
            Status::Succeeded(how) => LiveState::Succeeded(*how),
            Status::Failed(class) => LiveState::Failed(*class),
            Status::Blocked(by) => LiveState::Blocked(by.clone()),
            Status::Cancelled => LiveState::Cancelled,
        }
    }

    /// What blocks the builds above it, if it does: itself when it failed or was cancelled, its own
    /// blockers otherwise.
    fn blocks_with(&self, drv: DrvId) -> Vec<DrvId> {
        match &self.status {
            Status::Failed(_) | Status::Cancelled => vec![drv],
            Status::Blocked(by) => by.clone(),
            Status::Waiting | Status::Ready | Status::Running { .. } | Status::Succeeded(_) => Vec::new(),
        }
    }
}

/// Adds blockers to a status; whether that changed anything.
fn add_blockers(status: &mut Status, blockers: &[DrvId]) -> bool {
    match status {
        Status::Waiting => {
            *status = Status::Blocked(blockers.iter().copied().take(MAX_BLOCKERS).collect());
            true
        }
        Status::Blocked(by) => {
            let before = by.len();
            for blocker in blockers {
                if by.len() < MAX_BLOCKERS && !by.contains(blocker) {
                    by.push(*blocker);
                }
            }
            by.len() != before
        }
        Status::Ready | Status::Running { .. } | Status::Succeeded(_) | Status::Failed(_) | Status::Cancelled => false,
    }
}

impl State {
    /// Links new nodes to their inputs and places them on their longest paths. `builds` are the
    /// derivations of one plan with their inputs; `new` those of them that were not known before.
    pub(super) fn link(&mut self, store: StoreId, builds: &[(DrvId, Vec<DrvId>)], new: &HashSet<DrvId>) {
        let planned: HashSet<DrvId> = builds.iter().map(|(drv, _)| *drv).collect();
        for (drv, inputs) in builds.iter().filter(|(drv, _)| new.contains(drv)) {
            let inputs: Vec<DrvId> = inputs
                .iter()
                .copied()
                .filter(|i| i != drv && planned.contains(i))
                .collect();
            let mut left = 0;
            for input in &inputs {
                if let Some(node) = self.nodes.get_mut(&(store, *input)) {
                    node.dependents.push(*drv);
                    left += u32::from(!matches!(node.status, Status::Succeeded(_)));
                }
            }
            if let Some(node) = self.nodes.get_mut(&(store, *drv)) {
                node.inputs = inputs;
                node.left = left;
            }
        }
        self.raise(store, &planned);
    }

    /// Heights from the top of a plan downwards: each node once, after all nodes of the plan above it.
    fn raise(&mut self, store: StoreId, planned: &HashSet<DrvId>) {
        let above = |node: &Node| node.dependents.iter().filter(|d| planned.contains(d)).count();
        let mut open: HashMap<DrvId, usize> = planned
            .iter()
            .filter_map(|drv| self.nodes.get(&(store, *drv)).map(|node| (*drv, above(node))))
            .collect();
        let mut top: Vec<DrvId> = open
            .iter()
            .filter(|(_, above)| **above == 0)
            .map(|(drv, _)| *drv)
            .collect();
        while let Some(drv) = top.pop() {
            let Some(node) = self.nodes.get(&(store, drv)) else {
                continue;
            };
            let height = node
                .dependents
                .iter()
                .filter_map(|d| self.nodes.get(&(store, *d)))
                .map(|dependent| dependent.height + 1)
                .max()
                .unwrap_or(0)
                .max(node.height);
            let inputs = node.inputs.clone();
            if let Some(node) = self.nodes.get_mut(&(store, drv)) {
                node.height = height;
            }
            for input in inputs {
                if let Some(left) = open.get_mut(&input) {
                    *left -= 1;
                    if *left == 0 {
                        top.push(input);
                    }
                }
            }
        }
    }

    /// An input of these builds has succeeded, or is not waited for any more.
    pub(super) fn release(&mut self, store: StoreId, dependents: &[DrvId]) {
        for dependent in dependents {
            if let Some(above) = self.nodes.get_mut(&(store, *dependent)) {
                above.left = above.left.saturating_sub(1);
                if above.left == 0 && above.status == Status::Waiting {
                    self.make_ready((store, *dependent));
                }
            }
        }
    }

    /// Blocks everything above a node that failed, was cancelled or is blocked itself.
    pub(super) fn block_dependents(&mut self, (store, drv): Key) {
        let Some(node) = self.nodes.get(&(store, drv)) else {
            return;
        };
        let blockers = node.blocks_with(drv);
        let mut work = node.dependents.clone();
        while let Some(dependent) = work.pop() {
            let key = (store, dependent);
            let Some(above) = self.nodes.get_mut(&key) else {
                continue;
            };
            let was_final = above.status.is_final();
            if add_blockers(&mut above.status, &blockers) {
                work.extend_from_slice(&above.dependents);
                self.became_final(key, was_final);
            }
        }
    }

    /// Takes a failed or cancelled node back into the queue, and unblocks what only it blocked.
    pub(super) fn reopen(&mut self, key: Key) {
        let (store, drv) = key;
        let Some(node) = self.nodes.get_mut(&key) else { return };
        if !matches!(node.status, Status::Failed(_) | Status::Cancelled) {
            return;
        }
        node.status = Status::Waiting;
        node.tries = 0;
        let mut work = node.dependents.clone();
        let mut unblocked = vec![drv];
        while let Some(dependent) = work.pop() {
            let Some(above) = self.nodes.get_mut(&(store, dependent)) else {
                continue;
            };
            if matches!(above.status, Status::Blocked(_)) {
                above.status = Status::Waiting;
                unblocked.push(dependent);
                work.extend_from_slice(&above.dependents);
            }
        }
        for drv in &unblocked {
            self.became_open((store, *drv));
        }
        // Some of them have other failed inputs still; these lie outside what was unblocked.
        let still: Vec<DrvId> = unblocked
            .iter()
            .filter_map(|drv| self.nodes.get(&(store, *drv)))
            .flat_map(|node| node.inputs.iter().copied())
            .filter(|input| self.nodes.get(&(store, *input)).is_some_and(|n| n.status.is_failure()))
            .collect();
        for input in still {
            self.block_dependents((store, input));
        }
        for drv in unblocked {
            let ready = self
                .nodes
                .get(&(store, drv))
                .is_some_and(|n| n.left == 0 && n.status == Status::Waiting);
            if ready {
                self.make_ready((store, drv));
            }
        }
    }
}
