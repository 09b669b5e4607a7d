//! The machine on random graphs, and on the recorded one.

mod remembered;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use nixci_protocol::types::{StoreDir, StorePath};
use proptest::prelude::*;

use super::*;
use crate::derivation::Derivation;
use crate::testing::recorded::{self, Set};

pub(super) type Graph = BTreeMap<usize, Vec<usize>>;

pub(super) fn path(node: usize) -> StorePath {
    let mut digest = [0; 20];
    digest[..8].copy_from_slice(&(node as u64).to_le_bytes());
    StorePath::new(digest, "node").unwrap()
}

pub(super) fn node(path: &StorePath) -> usize {
    u64::from_le_bytes(path.digest()[..8].try_into().unwrap()) as usize
}

/// A graph whose edges go to smaller numbers, the valid nodes closed under references, and roots.
fn graphs() -> impl Strategy<Value = (Graph, BTreeSet<usize>, Vec<usize>)> {
    (1_usize..60).prop_flat_map(|size| {
        let edges = proptest::collection::vec((0..size, 0..size), 0..size * 3);
        let valid = proptest::collection::vec(0..size, 0..6);
        let roots = proptest::collection::vec(0..size, 1..5);
        // Half of the graphs are as deep as they have nodes.
        (Just(size), any::<bool>(), edges, valid, roots).prop_map(|(size, is_chain, edges, valid, roots)| {
            let mut graph: Graph = (0..size).map(|node| (node, Vec::new())).collect();
            let chain = (1..size).filter(|_| is_chain).map(|node| (node, node - 1));
            let count = if is_chain { size / 10 } else { edges.len() };
            for (a, b) in edges.into_iter().take(count).chain(chain) {
                graph.get_mut(&a.max(b)).unwrap().extend((a != b).then_some(a.min(b)));
            }
            (graph.clone(), closure(&graph, &valid), roots)
        })
    })
}

fn closure(graph: &Graph, from: &[usize]) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut stack = from.to_vec();
    while let Some(node) = stack.pop() {
        if seen.insert(node) {
            stack.extend(&graph[&node]);
        }
    }
    seen
}

/// How many paths one below the other are missing at most.
fn depth(graph: &Graph, missing: &BTreeSet<usize>) -> u32 {
    let mut depths: HashMap<usize, u32> = HashMap::new();
    for node in missing {
        let below = graph[node]
            .iter()
            .filter_map(|child| depths.get(child))
            .max()
            .copied()
            .unwrap_or(0);
        depths.insert(*node, below + 1);
    }
    depths.values().max().copied().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn the_plan_is_the_missing_set_found_in_logarithmic_rounds((graph, valid, roots) in graphs()) {
        let mut machine = Negotiation::new(roots.iter().map(|node| path(*node)));
        let mut asked: HashSet<usize> = HashSet::new();
        let mut known_missing: HashSet<usize> = HashSet::new();
        let mut known_valid: Vec<usize> = Vec::new();
        let mut read: HashSet<usize> = HashSet::new();
        let plan = loop {
            match machine.next() {
                Step::Read(paths) => {
                    prop_assert!(!paths.is_empty());
                    for it in paths {
                        prop_assert!(read.insert(node(&it)), "read twice");
                        machine.know(&it, graph[&node(&it)].iter().map(|child| path(*child)));
                    }
                }
                Step::Ask(paths) => {
                    prop_assert!(!paths.is_empty());
                    let levels = (1_usize << machine.rounds()) - 1;
                    let below_valid = known_valid.iter().filter(|it| read.contains(it)).copied().collect::<Vec<_>>();
                    let implied = reach_read(&graph, &below_valid, &read);
                    let mut near = roots.iter().copied().collect::<HashSet<_>>();
                    near.extend(known_missing.iter().flat_map(|it| &graph[it]));
                    for _ in 0..levels {
                        let more = near.iter().flat_map(|it| &graph[it]).copied().collect::<Vec<_>>();
                        near.extend(more);
                    }
                    for it in &paths {
                        prop_assert!(asked.insert(node(it)), "asked twice");
                        prop_assert!(!implied.contains(&node(it)), "asked below what is known to be valid");
                        prop_assert!(near.contains(&node(it)), "asked too far below the frontier");
                    }
                    let bits = paths.iter().map(|it| valid.contains(&node(it))).collect::<Vec<_>>();
                    for (it, valid) in paths.iter().zip(&bits) {
                        if *valid { known_valid.push(node(it)); } else { known_missing.insert(node(it)); }
                    }
                    machine.answer(|position| bits[position]);
                }
                Step::Done(plan) => break plan,
            }
        };
        let missing = closure(&graph, &roots).difference(&valid).copied().collect::<BTreeSet<_>>();
        prop_assert_eq!(plan.iter().map(node).collect::<BTreeSet<_>>(), missing.clone());
        prop_assert_eq!(plan.len(), missing.len());
        let mut sent = valid.clone();
        for it in &plan {
            prop_assert!(graph[&node(it)].iter().all(|child| sent.contains(child)), "references first");
            sent.insert(node(it));
        }
        // k rounds see 2^k - 1 levels, and one more level may be needed to see that nothing is missing below.
        let rounds = (depth(&graph, &missing) + 2).ilog2() + 1;
        prop_assert!(machine.rounds() <= rounds, "{} rounds for a depth of {}", machine.rounds(), depth(&graph, &missing));
    }
}

fn reach_read(graph: &Graph, from: &[usize], read: &HashSet<usize>) -> HashSet<usize> {
    let mut seen = HashSet::new();
    let mut stack = from.to_vec();
    while let Some(node) = stack.pop() {
        if read.contains(&node) {
            stack.extend(graph[&node].iter().filter(|child| seen.insert(**child)));
        }
    }
    seen
}

#[test]
fn a_machine_that_was_told_nothing_says_the_same_again() {
    let mut machine = Negotiation::new([path(1), path(1)]);
    assert_eq!(machine.next(), Step::Ask(vec![path(1)]));
    assert_eq!(machine.next(), Step::Ask(vec![path(1)]));
    machine.answer(|_| false);
    assert_eq!(machine.next(), Step::Read(vec![path(1)]));
    assert_eq!(machine.next(), Step::Read(vec![path(1)]));
    machine.know(&path(1), [path(1), path(0)]);
    machine.next();
    machine.know(&path(0), []);
    assert_eq!(machine.next(), Step::Ask(vec![path(0)]));
    machine.answer(|_| false);
    assert_eq!(machine.next(), Step::Done(vec![path(0), path(1)]));
    assert_eq!(Negotiation::new([]).next(), Step::Done(vec![]));
}

/// Runs the machine on the recorded graph: plan, questions (paths in each), `.drv` files read.
fn recorded_run(
    graph: &HashMap<StorePath, Vec<StorePath>>,
    roots: &[StorePath],
    valid: &HashSet<StorePath>,
) -> (Vec<StorePath>, Vec<usize>, usize) {
    let mut machine = Negotiation::new(roots.iter().cloned());
    let (mut questions, mut read) = (Vec::new(), 0);
    loop {
        match machine.next() {
            Step::Read(paths) => {
                read += paths.len();
                for path in paths {
                    machine.know(&path, graph[&path].iter().cloned());
                }
            }
            Step::Ask(paths) => {
                questions.push(paths.len());
                machine.answer(|position| valid.contains(&paths[position]));
            }
            Step::Done(plan) => return (plan, questions, read),
        }
    }
}

/// Every path of the recorded graph with its references, and how a path of it is read.
fn recorded_graph() -> (HashMap<StorePath, Vec<StorePath>>, impl Fn(&str) -> StorePath) {
    let recorded = recorded::whole();
    let dir = StoreDir::default();
    let parse = |path: &str| StoreDir::default().parse(path).unwrap();
    let graph = (recorded.paths().iter())
        .map(|full| {
            let path = parse(full);
            let references = path.clone().try_into().map_or_else(
                |_| Vec::new(),
                |drv| {
                    let content = std::fs::read(recorded.root().join(&full[1..])).unwrap();
                    Derivation::parse(&drv, &dir, &content)
                        .unwrap()
                        .references()
                        .cloned()
                        .collect()
                },
            );
            (path, references)
        })
        .collect();
    (graph, parse)
}

#[test]
fn the_recorded_sets_take_few_and_small_questions() {
    let recorded = recorded::whole();
    let (graph, parse) = recorded_graph();
    let base = recorded.roots(Set::Base).into_iter().map(&parse).collect::<Vec<_>>();
    let head = recorded.roots(Set::Head).into_iter().map(&parse).collect::<Vec<_>>();

    let (plan, questions, read) = recorded_run(&graph, &base, &HashSet::new());
    println!("cold: {} missing, questions {questions:?}, {read} read", plan.len());
    assert_eq!(plan.len(), 28_240);
    let base_closure = plan.into_iter().collect();

    let (plan, questions, read) = recorded_run(&graph, &base, &base_closure);
    assert_eq!((plan.len(), questions, read), (0, vec![6_521], 0));

    let (plan, questions, read) = recorded_run(&graph, &head, &base_closure);
    println!(
        "head after base: {} missing, questions {questions:?}, {read} read",
        plan.len()
    );
    assert_eq!(plan.len(), 1_478);
    assert!(questions.len() <= 4, "{questions:?}");
    assert!(questions.iter().sum::<usize>() * 20 <= 290_000, "{questions:?}");
}
