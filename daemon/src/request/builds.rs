//! What one request waits for, and what became of it: a graph of derivations, as a stock store's goals. Pure.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;

use nixci_protocol::nixci::outcome::FailureClass;
use nixci_protocol::types::{BuildResult, BuildStatus, StoreDir, StorePath};
use nixci_store::index::DrvId;

use super::Outline;
use super::words::{Manner, error_line};
use crate::scheduler::{LiveState, StoreId};

/// The builds of one request.
#[derive(Debug)]
pub(crate) struct Builds {
    dir: StoreDir,
    keep_going: bool,
    manner: Manner,
    /// Roots that no plan has named yet.
    unplanned: HashSet<DrvId>,
    nodes: HashMap<DrvId, Node>,
    /// Roots for which nothing has to be built, with the store that has them.
    passed: HashMap<DrvId, StoreId>,
    open: u64,
    done: u64,
    failed: u64,
    root_failed: bool,
}

#[derive(Debug)]
struct Node {
    path: Option<StorePath>,
    store: Option<StoreId>,
    is_root: bool,
    dependents: Vec<DrvId>,
    inputs_left: u32,
    inputs_failed: u32,
    fate: Fate,
    logged: bool,
}

#[derive(Debug, Clone)]
enum Fate {
    Open,
    /// There, with the store's result if there was an attempt.
    Done(Option<Arc<BuildResult>>),
    Failed(Arc<BuildResult>),
}

/// What follows from something that happened.
#[derive(Debug, Default)]
pub(crate) struct Step {
    /// Lines for the client.
    pub(crate) lines: Vec<String>,
}

impl Builds {
    /// Waits for these roots.
    pub(crate) fn new(dir: StoreDir, roots: impl IntoIterator<Item = DrvId>, keep_going: bool) -> Self {
        Self {
            dir,
            keep_going,
            manner: Manner::default(),
            unplanned: roots.into_iter().collect(),
            nodes: HashMap::new(),
            passed: HashMap::new(),
            open: 0,
            done: 0,
            failed: 0,
            root_failed: false,
        }
    }

    /// How the store words failures, as far as is known.
    pub(crate) fn manner(&self) -> Manner {
        self.manner
    }

    /// Whether there is nothing left to wait for.
    pub(crate) fn is_over(&self) -> bool {
        if self.root_failed && !self.keep_going {
            return true;
        }
        self.unplanned.is_empty() && self.open == 0
    }

    /// Whether a derivation is waited for and not ended.
    pub(crate) fn is_open(&self, drv: DrvId) -> bool {
        self.nodes.get(&drv).is_some_and(|node| matches!(node.fate, Fate::Open))
    }

    /// Whether anything failed.
    pub(crate) fn has_failures(&self) -> bool {
        self.failed > 0
    }

    /// Done, expected, running, failed.
    pub(crate) fn totals(&self, running: u64) -> [u64; 4] {
        [self.done, self.done + self.open, running, self.failed]
    }

    /// Roots for which nothing was built, with the store to ask for them.
    pub(crate) fn passed(&self) -> &HashMap<DrvId, StoreId> {
        &self.passed
    }

    /// What came of a derivation: none while it is open, and where nothing was built for it.
    pub(crate) fn result(&self, drv: DrvId) -> Option<&BuildResult> {
        match &self.nodes.get(&drv)?.fate {
            Fate::Open | Fate::Done(None) => None,
            Fate::Done(Some(result)) | Fate::Failed(result) => Some(result),
        }
    }

    /// Whether its failure was told already, as that of an input of something else.
    pub(crate) fn was_logged(&self, drv: DrvId) -> bool {
        self.nodes.get(&drv).is_some_and(|node| node.logged)
    }

    /// Where a derivation was built.
    pub(crate) fn store(&self, drv: DrvId) -> Option<StoreId> {
        self.nodes.get(&drv).and_then(|node| node.store)
    }

    /// A store has said what must be built.
    pub(crate) fn planned(&mut self, outline: Outline) {
        for root in outline.passed {
            if self.unplanned.remove(&root) {
                self.passed.insert(root, outline.store);
            }
        }
        let drvs: HashSet<DrvId> = outline.builds.iter().map(|build| build.drv).collect();
        let mut fresh = Vec::new();
        for build in outline.builds {
            let is_root = self.unplanned.remove(&build.drv);
            if self.nodes.contains_key(&build.drv) {
                continue;
            }
            let inputs: HashSet<DrvId> = build.inputs.into_iter().filter(|input| drvs.contains(input)).collect();
            self.nodes.insert(
                build.drv,
                Node {
                    path: Some(build.path),
                    store: Some(outline.store),
                    is_root,
                    dependents: Vec::new(),
                    inputs_left: u32::try_from(inputs.len()).unwrap_or(u32::MAX),
                    inputs_failed: 0,
                    fate: Fate::Open,
                    logged: false,
                },
            );
            self.open += 1;
            fresh.push((build.drv, inputs));
        }
        for (drv, inputs) in fresh {
            for input in inputs {
                if let Some(node) = self.nodes.get_mut(&input) {
                    node.dependents.push(drv);
                }
            }
        }
    }

    /// Everything that needs this, directly or not.
    pub(crate) fn above(&self, drv: DrvId) -> Vec<DrvId> {
        let mut seen = HashSet::new();
        let mut work = vec![drv];
        while let Some(at) = work.pop() {
            let dependents = self
                .nodes
                .get(&at)
                .map(|node| node.dependents.as_slice())
                .unwrap_or_default();
            work.extend(dependents.iter().filter(|above| seen.insert(**above)));
        }
        seen.into_iter().collect()
    }

    /// An attempt has a result. `outputs` are those of everything above, for what has to be said of it.
    pub(crate) fn ended(&mut self, drv: DrvId, result: BuildResult, outputs: &HashMap<DrvId, Vec<StorePath>>) -> Step {
        let mut step = Step::default();
        if result.status.is_success() {
            self.succeed(drv, Some(Arc::new(result)), outputs, &mut step);
        } else {
            self.manner = Manner::of(&result.error_msg);
            self.fail(drv, result, outputs, &mut step);
        }
        step
    }

    /// The scheduler is done with something; attempts have told of it themselves where there was one.
    pub(crate) fn is_final(&mut self, drv: DrvId, state: &LiveState, outputs: &HashMap<DrvId, Vec<StorePath>>) -> Step {
        let mut step = Step::default();
        let why = match state {
            LiveState::Forwarding { .. }
            | LiveState::Waiting { .. }
            | LiveState::Ready { .. }
            | LiveState::Building { .. } => return step,
            LiveState::Succeeded(_) => {
                self.succeed(drv, None, outputs, &mut step);
                return step;
            }
            LiveState::Blocked(_) => {
                let stuck = self.nodes.get(&drv).is_some_and(|node| node.inputs_failed == 0);
                if let (true, Some(result)) = (stuck, self.dependency_failed(drv, 1, outputs)) {
                    self.fail(drv, result, outputs, &mut step);
                }
                return step;
            }
            LiveState::Cancelled => "was cancelled".to_owned(),
            LiveState::Failed(FailureClass::Unsupported) => {
                "cannot be built: no store offers its system and features".to_owned()
            }
            LiveState::Failed(class) => format!("failed: {}", class.words()),
        };
        let path = self.nodes.get(&drv).and_then(|node| node.path.as_ref());
        let name = path.map_or_else(
            || "a derivation".to_owned(),
            |path| format!("'{}'", self.dir.display(path)),
        );
        let result = BuildResult::new(BuildStatus::MiscFailure, format!("{name} {why}"));
        self.fail(drv, result, outputs, &mut step);
        step
    }

    /// A root can never be built.
    pub(crate) fn refused(&mut self, drv: DrvId, reason: &str) {
        let result = BuildResult::new(BuildStatus::MiscFailure, reason);
        self.fail(drv, result, &HashMap::new(), &mut Step::default());
    }

    /// The node of something that may not have been planned, as a root that no store can build.
    fn meet(&mut self, drv: DrvId) -> Option<&mut Node> {
        if self.unplanned.remove(&drv) {
            let node = Node {
                path: None,
                store: None,
                is_root: true,
                dependents: Vec::new(),
                inputs_left: 0,
                inputs_failed: 0,
                fate: Fate::Open,
                logged: false,
            };
            self.open += 1;
            self.nodes.insert(drv, node);
        }
        self.nodes.get_mut(&drv)
    }

    fn dependency_failed(
        &self,
        drv: DrvId,
        failed: u32,
        outputs: &HashMap<DrvId, Vec<StorePath>>,
    ) -> Option<BuildResult> {
        let path = self.nodes.get(&drv)?.path.as_ref()?;
        let outputs = outputs.get(&drv).map(Vec::as_slice).unwrap_or_default();
        Some(self.manner.dependency_failed(&self.dir, path, outputs, failed))
    }

    fn succeed(
        &mut self,
        drv: DrvId,
        result: Option<Arc<BuildResult>>,
        outputs: &HashMap<DrvId, Vec<StorePath>>,
        step: &mut Step,
    ) {
        let Some(node) = self.meet(drv).filter(|node| matches!(node.fate, Fate::Open)) else {
            return;
        };
        if let (true, None, Some(store)) = (node.is_root, &result, node.store) {
            self.passed.insert(drv, store);
        }
        if let Some(node) = self.nodes.get_mut(&drv) {
            node.fate = Fate::Done(result);
        }
        self.open -= 1;
        self.done += 1;
        self.spread(drv, outputs, step);
    }

    fn fail(&mut self, drv: DrvId, result: BuildResult, outputs: &HashMap<DrvId, Vec<StorePath>>, step: &mut Step) {
        if self.meet(drv).is_some_and(|node| matches!(node.fate, Fate::Open)) {
            self.note_failure(drv, result, step);
            self.spread(drv, outputs, step);
        }
    }

    fn note_failure(&mut self, drv: DrvId, result: BuildResult, step: &mut Step) {
        let Some(node) = self.nodes.get_mut(&drv) else { return };
        if !node.dependents.is_empty() {
            node.logged = true;
            step.lines.push(error_line(&result.error_msg));
        }
        self.failed += u64::from(result.status != BuildStatus::DependencyFailed);
        self.root_failed |= node.is_root;
        self.open -= 1;
        node.fate = Fate::Failed(Arc::new(result));
    }

    /// What the end of one derivation means for those above it.
    fn spread(&mut self, drv: DrvId, outputs: &HashMap<DrvId, Vec<StorePath>>, step: &mut Step) {
        let mut ended = VecDeque::from([drv]);
        while let Some(drv) = ended.pop_front() {
            let Some(node) = self.nodes.get(&drv) else { continue };
            let failed = matches!(node.fate, Fate::Failed(_));
            for above in node.dependents.clone() {
                let Some(node) = self.nodes.get_mut(&above) else {
                    continue;
                };
                node.inputs_left = node.inputs_left.saturating_sub(1);
                node.inputs_failed += u32::from(failed);
                let gives_up = node.inputs_failed > 0 && (node.inputs_left == 0 || !self.keep_going);
                let (is_open, count) = (matches!(node.fate, Fate::Open), node.inputs_failed);
                if gives_up
                    && is_open
                    && let Some(result) = self.dependency_failed(above, count, outputs)
                {
                    self.note_failure(above, result, step);
                    ended.push_back(above);
                }
            }
        }
    }
}
