//! Who wishes for builds: the roots on the way to a plan, and what is wanted of the graph.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::time::Instant;

use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_store::index::DrvId;

use super::event::{Action, Change, LiveState, Planned, Priority, RequestId, Root, Wisher};
use super::graph::{Key, Node, Status};
use super::state::State;
use super::store::{Store, StoreId};

#[derive(Debug)]
pub(super) struct Wishes {
    pub(super) project: i64,
    pub(super) priority: Priority,
    /// No more roots will come. Requests stay open: they end when the client has what it wants.
    pub(super) closed: bool,
    pub(super) roots: HashMap<DrvId, RootPhase>,
    /// Roots that are not final.
    pub(super) roots_left: usize,
    /// Nodes it wants that are not final.
    pub(super) builds_left: u64,
    pub(super) nodes: HashSet<Key>,
    /// Roots that are being forwarded, or are about to be.
    pub(super) roots_planning: u64,
    pub(super) unplanned: BTreeMap<StoreId, Vec<DrvId>>,
    pub(super) planning: BTreeSet<StoreId>,
    /// Stores that any root went to.
    pub(super) stores: BTreeSet<StoreId>,
}

#[derive(Debug)]
pub(super) enum RootPhase {
    /// Being forwarded to this store, or about to be.
    Planning(StoreId),
    /// Its build is a node.
    Node,
    /// Settled without a build.
    Final(LiveState),
}

impl Wishes {
    pub(super) fn new(project: i64, priority: Priority) -> Self {
        Self {
            project,
            priority,
            closed: false,
            roots: HashMap::new(),
            roots_left: 0,
            builds_left: 0,
            nodes: HashSet::new(),
            roots_planning: 0,
            unplanned: BTreeMap::new(),
            planning: BTreeSet::new(),
            stores: BTreeSet::new(),
        }
    }
}

impl State {
    pub(super) fn submitted(&mut self, id: Wisher, roots: Vec<Root>, on: Option<StoreId>, now: Instant) {
        for root in roots {
            if self.wishes.get(&id).is_none_or(|e| e.roots.contains_key(&root.drv)) {
                continue;
            }
            let store = match on {
                Some(store) => Some(store).filter(|store| usize::from(store.0) < self.stores.len()),
                None => self.choose_store(id, &root, now),
            };
            let Some(e) = self.wishes.get_mut(&id) else { return };
            if let Some(store) = store {
                e.roots.insert(root.drv, RootPhase::Planning(store));
                e.unplanned.entry(store).or_default().push(root.drv);
                e.stores.insert(store);
                e.roots_left += 1;
                e.roots_planning += 1;
                self.unplanned.insert(id);
            } else {
                let state = LiveState::Failed(FailureClass::Unsupported);
                e.roots.insert(root.drv, RootPhase::Final(state.clone()));
                self.changes.push(Change { drv: root.drv, state });
                self.actions.push(Action::Unsupported {
                    drv: root.drv,
                    message: self.why_unsupported(&root),
                });
                if let Wisher::Request(request) = id {
                    let (drv, state) = (root.drv, LiveState::Failed(FailureClass::Unsupported));
                    self.actions.push(Action::Tell { request, drv, state });
                }
            }
        }
    }

    fn why_unsupported(&self, root: &Root) -> String {
        let offered: BTreeSet<&str> = self
            .stores
            .iter()
            .flat_map(|s| &s.spec.systems)
            .map(String::as_str)
            .collect();
        let offered = if offered.is_empty() {
            "nothing".to_owned()
        } else {
            Vec::from_iter(offered).join(", ")
        };
        let features = if root.features.is_empty() {
            String::new()
        } else {
            format!(" with {}", root.features.join(", "))
        };
        format!(
            "no store offers {}{features}; the configured stores offer {offered}",
            root.system
        )
    }

    /// The store for a root: the one its wisher uses already, otherwise the least busy one.
    fn choose_store(&self, id: Wisher, root: &Root, now: Instant) -> Option<StoreId> {
        let used = self.wishes.get(&id);
        let rank = |(at, store): &(usize, &Store)| {
            let id = StoreId(*at as u16);
            let in_use = used.is_some_and(|e| e.stores.contains(&id));
            let free = store.free_slots(now);
            (
                in_use,
                free,
                std::cmp::Reverse(self.queues[*at].len()),
                std::cmp::Reverse(*at),
            )
        };
        self.stores
            .iter()
            .enumerate()
            .filter(|(_, s)| s.offers(root))
            .max_by_key(rank)
            .map(|(at, _)| StoreId(at as u16))
    }

    /// Asks for the plans that can be asked for: one at a time per wisher and store.
    pub(super) fn plan(&mut self, now: Instant) {
        let mut later = BTreeSet::new();
        for id in std::mem::take(&mut self.unplanned) {
            let Some(e) = self.wishes.get_mut(&id) else {
                continue;
            };
            for store in e.unplanned.keys().copied().collect::<Vec<_>>() {
                let is_open = self.stores.get(usize::from(store.0)).is_some_and(|s| s.is_open(now));
                if is_open
                    && !e.planning.contains(&store)
                    && let Some(roots) = e.unplanned.remove(&store)
                {
                    e.planning.insert(store);
                    self.actions.push(Action::Plan {
                        wisher: id,
                        store,
                        roots,
                    });
                }
            }
            if !e.unplanned.is_empty() {
                later.insert(id);
            }
        }
        self.unplanned = later;
    }

    pub(super) fn planned(&mut self, id: Wisher, store: StoreId, roots: &[DrvId], plan: Planned) {
        let Some(e) = self.wishes.get_mut(&id) else { return };
        e.planning.remove(&store);
        for drv in plan.valid {
            let state = LiveState::Succeeded(Success::AlreadyValid);
            if let Some(phase @ RootPhase::Planning(_)) = e.roots.get_mut(&drv) {
                *phase = RootPhase::Final(state.clone());
                e.roots_left -= 1;
                e.roots_planning -= 1;
                self.changes.push(Change { drv, state });
            }
        }
        let priority = e.priority;
        let mut builds: Vec<(DrvId, Vec<DrvId>)> = Vec::with_capacity(plan.builds.len());
        let mut known_failures = Vec::new();
        let mut fresh = HashSet::new();
        for build in plan.builds {
            let key = (store, build.drv);
            if self.want(id, key) {
                fresh.insert(build.drv);
                known_failures.extend(build.known_failure.map(|class| (build.drv, class)));
            } else {
                if build.known_failure.is_none() {
                    // What is not remembered is tried again for whoever wants it anew.
                    self.reopen(key);
                }
                self.hasten(key, priority);
            }
            builds.push((build.drv, build.inputs));
        }
        for root in roots {
            let Some(e) = self.wishes.get_mut(&id) else { return };
            match e.roots.get_mut(root) {
                Some(phase @ RootPhase::Planning(_)) => {
                    *phase = RootPhase::Node;
                    e.roots_planning -= 1;
                }
                Some(RootPhase::Node | RootPhase::Final(_)) | None => continue,
            }
            // A root the store neither has nor lists is for the store to explain: it is built like any other.
            if self.want(id, (store, *root)) {
                fresh.insert(*root);
            }
            let Some(node) = self.nodes.get_mut(&(store, *root)) else {
                continue;
            };
            node.root_of.push(id);
            if node.status.is_final() {
                let state = node.live(&self.stores[usize::from(store.0)]);
                self.changes.push(Change { drv: *root, state });
                if let Some(e) = self.wishes.get_mut(&id) {
                    e.roots_left -= 1;
                }
            }
        }
        self.link(store, &builds, &fresh);
        for (drv, class) in known_failures {
            self.finish((store, drv), Status::Failed(class));
        }
        for drv in fresh {
            let key = (store, drv);
            for input in self.nodes.get(&key).map(|n| n.inputs.clone()).unwrap_or_default() {
                if self.nodes.get(&(store, input)).is_some_and(|n| n.status.is_failure()) {
                    self.block_dependents((store, input));
                }
            }
            if self
                .nodes
                .get(&key)
                .is_some_and(|n| n.left == 0 && n.status == Status::Waiting)
            {
                self.make_ready(key);
            }
        }
        if let Wisher::Request(request) = id {
            self.tell_what_is_final(request, store, builds.iter().map(|(drv, _)| *drv));
        }
        self.settling.insert(id);
    }

    /// What was final before a request wanted it is not going to change for it.
    fn tell_what_is_final(&mut self, request: RequestId, store: StoreId, drvs: impl Iterator<Item = DrvId>) {
        let Some(place) = self.stores.get(usize::from(store.0)) else {
            return;
        };
        for drv in drvs {
            if let Some(node) = self.nodes.get(&(store, drv)).filter(|node| node.status.is_final()) {
                let state = node.live(place);
                self.actions.push(Action::Tell { request, drv, state });
            }
        }
    }

    /// Moves a ready build up when somebody more urgent wants it too.
    fn hasten(&mut self, key: Key, priority: Priority) {
        if self
            .nodes
            .get(&key)
            .and_then(|n| n.place)
            .is_some_and(|place| place.priority > priority)
        {
            self.unqueue(key);
            self.make_ready(key);
        }
    }

    /// Notes that somebody wants a node; whether the node is new.
    fn want(&mut self, id: Wisher, key: Key) -> bool {
        let mut is_new = false;
        let arrivals = &mut self.arrivals;
        let node = self.nodes.entry(key).or_insert_with(|| {
            is_new = true;
            *arrivals += 1;
            Node::new(*arrivals)
        });
        if let Some(e) = self.wishes.get_mut(&id)
            && e.nodes.insert(key)
        {
            node.wanted_by.push(id);
            e.builds_left += u64::from(!node.status.is_final());
        }
        is_new
    }

    pub(super) fn plan_refused(&mut self, id: Wisher, roots: &[DrvId]) {
        let Some(e) = self.wishes.get_mut(&id) else { return };
        for drv in roots {
            if let Some(phase @ RootPhase::Planning(_)) = e.roots.get_mut(drv) {
                let RootPhase::Planning(store) = *phase else { continue };
                let state = LiveState::Failed(FailureClass::Store);
                *phase = RootPhase::Final(state.clone());
                e.planning.remove(&store);
                e.roots_left -= 1;
                e.roots_planning -= 1;
                self.changes.push(Change { drv: *drv, state });
            }
        }
        self.settling.insert(id);
    }

    /// Forgets an evaluation whose every root is final and that has no more to come.
    pub(super) fn settle(&mut self, id: Wisher) {
        let Wisher::Evaluation(evaluation) = id else { return };
        let done = self
            .wishes
            .get(&id)
            .is_some_and(|e| e.closed && e.roots_left == 0 && e.planning.is_empty() && e.unplanned.is_empty());
        if done {
            self.actions.push(Action::Settled { evaluation });
            self.forget(id);
        }
    }

    /// Takes wishes back: what nobody else wants is stopped and forgotten.
    pub(super) fn forget(&mut self, id: Wisher) {
        let Some(e) = self.wishes.remove(&id) else { return };
        for (drv, phase) in e.roots {
            match phase {
                RootPhase::Planning(_) => self.changes.push(Change {
                    drv,
                    state: LiveState::Cancelled,
                }),
                RootPhase::Node | RootPhase::Final(_) => {}
            }
        }
        for key in &e.nodes {
            if let Some(node) = self.nodes.get_mut(key) {
                node.wanted_by.retain(|other| *other != id);
                node.root_of.retain(|other| *other != id);
            }
        }
        self.drop_unwanted(e.nodes.into_iter().collect());
    }
}
