//! What derivations have come to, derived from their attempts on every question and stored nowhere.
//!
//! **The rule.** Running, cancelled and forgotten attempts say nothing. Of the others the newest decides, with one
//! exception: a failure of class store says nothing about outputs that exist, so after a success it does not count,
//! however many there are. So a derivation
//! - has *succeeded* when the newest attempt that is no store failure succeeded;
//! - has *failed* when the newest attempt failed in any other case, with the class of that attempt;
//! - was *cancelled* when no attempt says anything and the newest was cancelled;
//! - is *open* otherwise: never tried, running for the first time, or forgotten.
//!
//! That a failure is *remembered* (stands in the way of another try) is another question, answered by
//! [`super::attempts::remembered_failures`]; a failure that has expired is still what the derivation has come to.

use std::collections::HashMap;

use fixedbitset::FixedBitSet;
use nixci_protocol::nixci::control::AttemptId;
use nixci_protocol::nixci::outcome::{FailureClass, Success};
use rusqlite::{CachedStatement, Connection};

use super::DrvId;
use super::attempts::{AttemptResult, parse};
use super::derivations::INPUTS;
use super::error::Result;

/// What a derivation's own attempts have come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// They say nothing.
    Open,
    /// They say nothing, and the newest was cancelled.
    Cancelled {
        /// The attempt.
        attempt: AttemptId,
    },
    /// The outputs exist.
    Succeeded {
        /// How they came to be.
        how: Success,
        /// The attempt that says so.
        attempt: AttemptId,
    },
    /// It failed.
    Failed {
        /// In which way.
        class: FailureClass,
        /// The attempt that says so.
        attempt: AttemptId,
    },
}

/// What each derivation has come to, in the order given.
pub fn of(conn: &Connection, drvs: &[DrvId]) -> Result<Vec<Standing>> {
    let mut find = conn.prepare_cached(SAID)?;
    drvs.iter().map(|drv| standing(&mut find, *drv)).collect()
}

/// For each derivation that has neither succeeded nor failed itself: the failed ones that it cannot be built without,
/// lowest number first.
///
/// They are found through inputs that have not succeeded; the search ends at a failed one, so that an intermediate is
/// never named in place of its cause. Derivations that nothing blocks are absent.
pub fn blocked_by(conn: &Connection, drvs: &[DrvId]) -> Result<HashMap<DrvId, Vec<DrvId>>> {
    let mut failed = conn.prepare_cached(ANY_FAILED)?;
    if !failed.exists([])? {
        return Ok(HashMap::new());
    }
    let unbuilt = Unbuilt::below(conn, drvs)?;
    if unbuilt.failed.is_empty() {
        return Ok(HashMap::new());
    }
    let causes = unbuilt.causes();
    let mut blocked = HashMap::new();
    for drv in drvs {
        if let Some(&at) = unbuilt.numbers.get(&drv.0)
            && unbuilt.nodes[at as usize].cause.is_none()
            && let Some(set) = &causes.of[at as usize]
        {
            blocked.insert(*drv, unbuilt.named(&causes.sets[*set as usize]));
        }
    }
    Ok(blocked)
}

pub(super) const SAID: &str =
    "SELECT id, result, class FROM attempt WHERE drv = ?1 AND forgotten = 0 AND result IS NOT NULL ORDER BY id DESC";
pub(super) const ANY_FAILED: &str = "SELECT 1 FROM attempt WHERE result = 'failed' AND forgotten = 0 LIMIT 1";

fn standing(find: &mut CachedStatement<'_>, drv: DrvId) -> Result<Standing> {
    let mut rows = find.query([drv.0])?;
    let mut cancelled = None;
    let mut store_failure = None;
    while let Some(row) = rows.next()? {
        let attempt = AttemptId(row.get(0)?);
        let result = row.get_ref(1)?.as_str().map_err(rusqlite::Error::from)?;
        let class = row.get_ref(2)?.as_str_or_null().map_err(rusqlite::Error::from)?;
        match parse(result, class)? {
            AttemptResult::Cancelled => cancelled = cancelled.or(Some(attempt)),
            AttemptResult::Succeeded(how) => return Ok(Standing::Succeeded { how, attempt }),
            AttemptResult::Failed(FailureClass::Store) => store_failure = store_failure.or(Some(attempt)),
            AttemptResult::Failed(class) => match store_failure {
                Some(_) => break,
                None => return Ok(Standing::Failed { class, attempt }),
            },
        }
    }
    Ok(match (store_failure, cancelled) {
        (Some(attempt), _) => Standing::Failed {
            class: FailureClass::Store,
            attempt,
        },
        (None, Some(attempt)) => Standing::Cancelled { attempt },
        (None, None) => Standing::Open,
    })
}

/// The derivations without success below some others, renumbered from zero.
struct Unbuilt {
    numbers: HashMap<i64, u32, foldhash::fast::FixedState>,
    nodes: Vec<Node>,
    /// Inputs of all nodes, one node after the other.
    inputs: Vec<u32>,
    /// The failed ones, lowest number first: where a bit of a set points.
    failed: Vec<DrvId>,
}

struct Node {
    drv: DrvId,
    /// Where its inputs are in the common list.
    from: u32,
    to: u32,
    /// Its place among the failed ones, if it failed itself.
    cause: Option<u32>,
}

/// For each node the number of its set of causes, if it has any. Equal unions are made once.
struct Causes {
    of: Vec<Option<u32>>,
    sets: Vec<FixedBitSet>,
}

impl Unbuilt {
    /// Walks down from `drvs`, breadth first, through what has neither succeeded nor failed.
    fn below(conn: &Connection, drvs: &[DrvId]) -> Result<Self> {
        let mut said = conn.prepare_cached(SAID)?;
        let mut find = conn.prepare_cached(INPUTS)?;
        let mut standings: HashMap<i64, Option<u32>, foldhash::fast::FixedState> = HashMap::default();
        let mut this = Self {
            numbers: HashMap::default(),
            nodes: Vec::new(),
            inputs: Vec::new(),
            failed: Vec::new(),
        };
        for drv in drvs {
            this.meet(&mut said, &mut standings, *drv)?;
        }
        let mut at = 0;
        while let Some(node) = this.nodes.get(at) {
            let (drv, failed) = (node.drv, node.cause.is_some());
            let from = this.inputs.len() as u32;
            if !failed {
                let mut rows = find.query([drv.0])?;
                while let Some(row) = rows.next()? {
                    if let Some(number) = this.meet(&mut said, &mut standings, DrvId(row.get(0)?))? {
                        this.inputs.push(number);
                    }
                }
            }
            let to = this.inputs.len() as u32;
            let node = &mut this.nodes[at];
            (node.from, node.to) = (from, to);
            at += 1;
        }
        this.failed.sort_unstable();
        for (at, drv) in this.failed.iter().enumerate() {
            let number = this.numbers[&drv.0];
            this.nodes[number as usize].cause = Some(at as u32);
        }
        Ok(this)
    }

    /// The number of a derivation; none if it has succeeded.
    fn meet(
        &mut self,
        said: &mut CachedStatement<'_>,
        met: &mut HashMap<i64, Option<u32>, foldhash::fast::FixedState>,
        drv: DrvId,
    ) -> Result<Option<u32>> {
        if let Some(known) = met.get(&drv.0) {
            return Ok(*known);
        }
        let cause = match standing(said, drv)? {
            Standing::Succeeded { .. } => {
                met.insert(drv.0, None);
                return Ok(None);
            }
            Standing::Failed { .. } => {
                self.failed.push(drv);
                Some(0)
            }
            Standing::Open | Standing::Cancelled { .. } => None,
        };
        let number = self.nodes.len() as u32;
        met.insert(drv.0, Some(number));
        self.numbers.insert(drv.0, number);
        self.nodes.push(Node {
            drv,
            from: 0,
            to: 0,
            cause,
        });
        Ok(Some(number))
    }

    fn inputs(&self, node: u32) -> &[u32] {
        let node = &self.nodes[node as usize];
        &self.inputs[node.from as usize..node.to as usize]
    }

    /// The causes of every node, inputs before what needs them, without recursion.
    fn causes(&self) -> Causes {
        let mut causes = Causes {
            of: vec![None; self.nodes.len()],
            sets: Vec::with_capacity(self.failed.len()),
        };
        for at in 0..self.failed.len() {
            let mut set = FixedBitSet::with_capacity(self.failed.len());
            set.insert(at);
            causes.sets.push(set);
        }
        let mut unions: HashMap<Vec<u32>, u32, foldhash::fast::FixedState> = HashMap::default();
        // Every node is entered once; on its second visit all its inputs are done. A graph of derivations has no
        // cycles; if the index held one, its nodes would miss causes and the walk would still end.
        let mut entered = FixedBitSet::with_capacity(self.nodes.len());
        let mut stack: Vec<(u32, bool)> = Vec::new();
        for root in 0..self.nodes.len() as u32 {
            stack.push((root, false));
            while let Some((node, inputs_done)) = stack.pop() {
                if inputs_done {
                    causes.of[node as usize] = self.union(node, &mut causes, &mut unions);
                } else if !entered.put(node as usize) {
                    stack.push((node, true));
                    stack.extend(self.inputs(node).iter().map(|input| (*input, false)));
                }
            }
        }
        causes
    }

    fn union(
        &self,
        node: u32,
        causes: &mut Causes,
        unions: &mut HashMap<Vec<u32>, u32, foldhash::fast::FixedState>,
    ) -> Option<u32> {
        if let Some(cause) = self.nodes[node as usize].cause {
            return Some(cause);
        }
        let mut parts: Vec<u32> = self
            .inputs(node)
            .iter()
            .filter_map(|input| causes.of[*input as usize])
            .collect();
        parts.sort_unstable();
        parts.dedup();
        match parts.as_slice() {
            [] => None,
            [only] => Some(*only),
            [first, rest @ ..] => {
                if let Some(known) = unions.get(&parts) {
                    return Some(*known);
                }
                let mut set = causes.sets[*first as usize].clone();
                for part in rest {
                    set.union_with(&causes.sets[*part as usize]);
                }
                // Often one part holds the others already.
                let known = parts.iter().find(|part| causes.sets[**part as usize] == set).copied();
                let number = known.unwrap_or_else(|| {
                    causes.sets.push(set);
                    causes.sets.len() as u32 - 1
                });
                unions.insert(parts, number);
                Some(number)
            }
        }
    }

    fn named(&self, set: &FixedBitSet) -> Vec<DrvId> {
        set.ones().map(|at| self.failed[at]).collect()
    }
}
