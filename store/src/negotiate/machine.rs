//! The machine: which paths to read, which to ask about, and what is missing in the end. No I/O, no time.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::FixedState;
use nixci_protocol::types::StorePath;

use super::memory::Digests;

/// Paths that are looked below beyond the speculative levels because memory has them not: what changed since is a small
/// part, and if it is not then memory says little.
const AHEAD: usize = 2_048;

/// What the machine wants next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Tell me the references of these, by [`Negotiation::know`].
    Read(Vec<StorePath>),
    /// Tell me which of these are valid, by [`Negotiation::answer`].
    Ask(Vec<StorePath>),
    /// All is known: these are missing, references first.
    Done(Vec<StorePath>),
}

/// Finds out what another store lacks of a closure, in few rounds of questions.
///
/// A valid path's references are valid, so only paths above the frontier are asked about: the roots, then what missing
/// paths refer to. From the second round on a question goes twice as many levels below the frontier as the one before,
/// so a missing part of depth *d* takes about log₂ *d* rounds. References are asked for lazily, level by level.
///
/// Memory of what the other store had only says where to look: what it has is asked about like anything else, but not
/// looked below ahead of the answer, and what it has not is looked below at once, so that a small change takes one round.
/// When an answer contradicts it, it is not looked at again.
#[derive(Debug)]
pub struct Negotiation {
    numbers: HashMap<StorePath, u32, FixedState>,
    nodes: Vec<Node>,
    roots: Vec<u32>,
    /// Missing nodes that a root needs and that were not looked below yet.
    open: Vec<u32>,
    /// The question in the making: first the frontier, then the speculative levels.
    question: Vec<u32>,
    /// Where the last level of `question` begins.
    layer: usize,
    /// How many levels below the frontier the question has, and how many it is to have.
    level: u32,
    levels: u32,
    rounds: u32,
    asked: bool,
    memory: Option<Arc<Digests>>,
    /// How many more paths are looked below because memory has them not.
    ahead: usize,
    contradicted: bool,
}

#[derive(Debug)]
struct Node {
    path: StorePath,
    references: Option<Box<[u32]>>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unknown,
    /// In the question in the making, or in the one under way.
    InQuestion,
    Valid,
    Missing,
    /// Missing, and reached from a root through missing paths only.
    Needed,
}

impl Negotiation {
    /// Starts with the paths that are to be valid in the end.
    pub fn new(roots: impl IntoIterator<Item = StorePath>) -> Self {
        let mut this = Self {
            numbers: HashMap::default(),
            nodes: Vec::new(),
            roots: Vec::new(),
            open: Vec::new(),
            question: Vec::new(),
            layer: 0,
            level: 0,
            levels: 0,
            rounds: 0,
            asked: false,
            memory: None,
            ahead: 0,
            contradicted: false,
        };
        for root in roots {
            let root = this.number(root);
            if this.nodes[root as usize].state == State::Unknown {
                this.nodes[root as usize].state = State::InQuestion;
                this.roots.push(root);
            }
        }
        this.question.clone_from(&this.roots);
        this
    }

    /// As [`Self::new`], with a memory of paths that were valid; it may be wrong in any way.
    pub fn remembering(roots: impl IntoIterator<Item = StorePath>, memory: Arc<Digests>) -> Self {
        let mut this = Self::new(roots);
        if !memory.is_empty() {
            this.memory = Some(memory);
            this.ahead = AHEAD;
        }
        this
    }

    /// Whether something that memory has is missing.
    #[must_use]
    pub fn contradicts_memory(&self) -> bool {
        self.contradicted
    }

    /// What was answered to be valid so far.
    pub fn valid(&self) -> impl Iterator<Item = &StorePath> {
        let valid = self.nodes.iter().filter(|node| node.state == State::Valid);
        valid.map(|node| &node.path)
    }

    /// How many questions were answered so far.
    #[must_use]
    pub fn rounds(&self) -> u32 {
        self.rounds
    }

    /// What to do next. After [`Step::Read`] and [`Step::Ask`] it is to be called again when the machine has been told;
    /// before that it says the same again.
    #[expect(
        clippy::should_implement_trait,
        reason = "a step wants an answer, so this is no iterator"
    )]
    pub fn next(&mut self) -> Step {
        if !self.asked {
            if let Some(unread) = self.look_below_missing() {
                return Step::Read(unread);
            }
            if let Some(unread) = self.look_below_frontier() {
                return Step::Read(unread);
            }
            if self.question.is_empty() {
                self.memory = None;
                return Step::Done(self.missing());
            }
            self.asked = true;
        }
        Step::Ask(
            self.question
                .iter()
                .map(|node| self.nodes[*node as usize].path.clone())
                .collect(),
        )
    }

    /// Tells the references of a path. References to itself are ignored.
    pub fn know(&mut self, path: &StorePath, references: impl IntoIterator<Item = StorePath>) {
        let node = self.number(path.clone());
        let references = references
            .into_iter()
            .map(|reference| self.number(reference))
            .filter(|it| *it != node);
        let references: Box<[u32]> = references.collect();
        self.nodes[node as usize].references = Some(references);
    }

    /// Answers the last question: which of its paths, by position, are valid.
    pub fn answer(&mut self, is_valid: impl Fn(usize) -> bool) {
        if !self.asked {
            return;
        }
        self.asked = false;
        self.rounds += 1;
        let question = std::mem::take(&mut self.question);
        for (position, node) in question.iter().enumerate() {
            let state = if is_valid(position) {
                State::Valid
            } else {
                self.contradicted |= self.is_remembered(*node);
                State::Missing
            };
            self.nodes[*node as usize].state = state;
        }
        if self.contradicted {
            self.memory = None;
        }
        if self.rounds == 1 {
            for root in self.roots.clone() {
                self.need(root);
            }
        } else {
            // Whatever is missing now may be needed by what was needed before.
            self.open = (0..self.nodes.len() as u32)
                .filter(|node| self.nodes[*node as usize].state == State::Needed)
                .collect();
        }
        self.layer = 0;
        self.level = 0;
        self.levels = (1_u32 << self.rounds.min(30)) - 1;
    }

    fn number(&mut self, path: StorePath) -> u32 {
        if let Some(number) = self.numbers.get(&path) {
            return *number;
        }
        let number = self.nodes.len() as u32;
        self.numbers.insert(path.clone(), number);
        self.nodes.push(Node {
            path,
            references: None,
            state: State::Unknown,
        });
        number
    }

    fn references(&self, node: u32) -> &[u32] {
        self.nodes[node as usize].references.as_deref().unwrap_or_default()
    }

    fn is_remembered(&self, node: u32) -> bool {
        let path = &self.nodes[node as usize].path;
        self.memory
            .as_ref()
            .is_some_and(|memory| memory.contains(path.digest()))
    }

    fn put_in_question(&mut self, node: u32) {
        let state = &mut self.nodes[node as usize].state;
        if *state == State::Unknown {
            *state = State::InQuestion;
            self.question.push(node);
        }
    }

    fn need(&mut self, node: u32) {
        let state = &mut self.nodes[node as usize].state;
        if *state == State::Missing {
            *state = State::Needed;
            self.open.push(node);
        }
    }

    /// Walks from needed paths to the frontier, and gives back paths whose references that takes.
    fn look_below_missing(&mut self) -> Option<Vec<StorePath>> {
        let mut unread = Vec::new();
        while let Some(node) = self.open.pop() {
            if self.nodes[node as usize].references.is_none() {
                unread.push(node);
            }
            for position in 0..self.references(node).len() {
                let reference = self.references(node)[position];
                self.need(reference);
                self.put_in_question(reference);
            }
        }
        if unread.is_empty() {
            return None;
        }
        let paths = unread
            .iter()
            .map(|node| self.nodes[*node as usize].path.clone())
            .collect();
        self.open = unread;
        Some(paths)
    }

    /// Adds levels below the frontier to the question, and gives back paths whose references that takes.
    fn look_below_frontier(&mut self) -> Option<Vec<StorePath>> {
        while self.layer < self.question.len() {
            let layer = self.layer..self.question.len();
            let mut below = self.question[layer.clone()].to_vec();
            below.retain(|node| !self.is_remembered(*node));
            if self.level >= self.levels {
                if self.memory.is_none() || below.len() > self.ahead {
                    break;
                }
                self.ahead -= below.len();
                // Not taken off again when the machine is back with what it has to read.
                self.levels = self.level + 1;
            }
            let unread: Vec<_> = (below.iter())
                .map(|node| &self.nodes[*node as usize])
                .filter(|node| node.references.is_none())
                .map(|node| node.path.clone())
                .collect();
            if !unread.is_empty() {
                return Some(unread);
            }
            self.layer = layer.end;
            self.level += 1;
            for node in below {
                for position in 0..self.references(node).len() {
                    self.put_in_question(self.references(node)[position]);
                }
            }
        }
        None
    }

    /// The needed paths, references first.
    fn missing(&self) -> Vec<StorePath> {
        let mut order = Vec::new();
        let mut seen = vec![false; self.nodes.len()];
        let mut stack: Vec<(u32, usize)> = Vec::new();
        for root in &self.roots {
            stack.push((*root, 0));
            while let Some((node, next)) = stack.last_mut() {
                let this = &self.nodes[*node as usize];
                if *next == 0 && (this.state != State::Needed || std::mem::replace(&mut seen[*node as usize], true)) {
                    stack.pop();
                } else if let Some(reference) = self.references(*node).get(*next) {
                    *next += 1;
                    stack.push((*reference, 0));
                } else {
                    order.push(this.path.clone());
                    stack.pop();
                }
            }
        }
        order
    }
}
