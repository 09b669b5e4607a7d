//! The machine where the world is not as it should be: validity that changes meanwhile, circles, and a million paths.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Instant;

use proptest::prelude::*;

use super::tests::{Graph, node, path};
use super::{Negotiation, Step};

fn reached(graph: &Graph, from: &[usize]) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut stack = from.to_vec();
    while let Some(node) = stack.pop() {
        if seen.insert(node) {
            stack.extend(&graph[&node]);
        }
    }
    seen
}

/// Nodes with their references, the same one several times too; towards smaller numbers only, or in circles.
fn graphs(in_circles: bool) -> impl Strategy<Value = Graph> {
    (1_usize..50).prop_flat_map(move |size| {
        let edges = proptest::collection::vec((0..size, 0..size), 0..size * 3);
        (Just(size), any::<bool>(), edges).prop_map(move |(size, is_chain, edges)| {
            let mut graph: Graph = (0..size).map(|node| (node, Vec::new())).collect();
            let chain = (1..size).filter(|_| is_chain).map(|node| (node, node - 1));
            let count = if is_chain { size / 8 } else { edges.len() };
            for (a, b) in edges.into_iter().take(count).chain(chain) {
                let (a, b) = if in_circles { (a, b) } else { (a.max(b), a.min(b)) };
                if in_circles || a != b {
                    graph.get_mut(&a).unwrap().push(b);
                }
            }
            graph
        })
    })
}

/// Runs the machine; `valid` answers each question as a whole.
fn run(graph: &Graph, roots: &[usize], mut valid: impl FnMut(&[usize]) -> Vec<bool>) -> (Vec<usize>, u32) {
    let mut machine = Negotiation::new(roots.iter().map(|root| path(*root)));
    let (mut asked, mut read) = (HashSet::new(), HashSet::new());
    loop {
        match machine.next() {
            Step::Read(paths) => {
                for it in paths {
                    assert!(read.insert(node(&it)), "read twice");
                    machine.know(&it, graph[&node(&it)].iter().map(|to| path(*to)));
                }
            }
            Step::Ask(paths) => {
                let nodes: Vec<usize> = paths.iter().map(node).collect();
                assert!(nodes.iter().all(|it| asked.insert(*it)), "asked twice");
                let answers = valid(&nodes);
                machine.answer(|position| answers[position]);
            }
            Step::Done(plan) => return (plan.iter().map(node).collect(), machine.rounds()),
        }
    }
}

/// A store that somebody else changes.
#[derive(Debug, Clone)]
struct Changing<'g> {
    graph: &'g Graph,
    valid: BTreeSet<usize>,
}

impl Changing<'_> {
    /// With everything that refers to it.
    fn collect(&mut self, node: usize) {
        self.valid.retain(|it| !reached(self.graph, &[*it]).contains(&node));
    }

    /// With everything it refers to.
    fn appear(&mut self, node: usize) {
        self.valid.extend(reached(self.graph, &[node]));
    }

    /// As a store takes a stream: up to the first path that refers to what is not valid.
    fn upload(&mut self, plan: &[usize]) {
        for node in plan {
            if !self.graph[node].iter().all(|to| self.valid.contains(to)) {
                return;
            }
            self.valid.insert(*node);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn what_changes_between_rounds_is_found_at_the_latest_when_asked_again(
        graph in graphs(false),
        before in proptest::collection::vec(0_usize..50, 0..6),
        roots in proptest::collection::vec(0_usize..50, 1..5),
        changes in proptest::collection::vec((any::<bool>(), 0_usize..50), 0..8),
    ) {
        let size = graph.len();
        let roots: Vec<usize> = roots.into_iter().map(|root| root % size).collect();
        let mut store = Changing { graph: &graph, valid: BTreeSet::new() };
        for node in before {
            store.appear(node % size);
        }
        let needed = reached(&graph, &roots);
        let (mut always, mut ever) = (store.valid.clone(), store.valid.clone());
        let mut changes = changes.into_iter();
        let (plan, _) = run(&graph, &roots, |asked| {
            let answers = asked.iter().map(|it| store.valid.contains(it)).collect();
            for (is_collection, node) in changes.by_ref().take(2) {
                if is_collection {
                    store.collect(node % size);
                } else {
                    store.appear(node % size);
                }
                always.retain(|it| store.valid.contains(it));
                ever.extend(&store.valid);
            }
            answers
        });
        // Whatever happened: what was never there is sent, what was there all the time is not, references come first.
        let sent: BTreeSet<usize> = plan.iter().copied().collect();
        prop_assert_eq!(sent.len(), plan.len());
        prop_assert!(sent.is_subset(&needed));
        prop_assert!(needed.difference(&ever).all(|it| sent.contains(it)));
        prop_assert!(always.is_disjoint(&sent));
        for (at, it) in plan.iter().enumerate() {
            prop_assert!(graph[it].iter().all(|to| !plan[at..].contains(to)), "references first");
        }
        // What was collected behind the question is asked again after the store refused what refers to it.
        store.upload(&plan);
        let (again, _) = run(&graph, &roots, |asked| asked.iter().map(|it| store.valid.contains(it)).collect());
        let missing: BTreeSet<usize> = needed.difference(&store.valid).copied().collect();
        prop_assert_eq!(again.iter().copied().collect::<BTreeSet<_>>(), missing);
        store.upload(&again);
        prop_assert!(needed.is_subset(&store.valid));
    }

    #[test]
    fn circles_and_stores_that_lie_end_all_the_same(
        graph in graphs(true),
        valid in proptest::collection::btree_set(0_usize..50, 0..20),
        roots in proptest::collection::vec(0_usize..50, 1..5),
    ) {
        let roots: Vec<usize> = roots.into_iter().map(|root| root % graph.len()).collect();
        // A store that says a path is valid while what it refers to is not.
        let (plan, rounds) = run(&graph, &roots, |asked| asked.iter().map(|it| valid.contains(it)).collect());
        let sent: BTreeSet<usize> = plan.iter().copied().collect();
        prop_assert_eq!(sent.len(), plan.len(), "each once");
        // Exactly what is reached from the roots through what is missing.
        let open: Graph = graph.iter().map(|(node, to)| {
            (*node, if valid.contains(node) { Vec::new() } else { to.clone() })
        }).collect();
        let missing: BTreeSet<usize> = reached(&open, &roots).difference(&valid).copied().collect();
        prop_assert_eq!(sent, missing);
        prop_assert!(rounds <= (graph.len() as u32 + 2).next_power_of_two().ilog2());
    }
}

#[test]
fn a_chain_takes_exactly_the_logarithm_of_its_missing_part() {
    for depth in 0..600_usize {
        let graph: Graph = (0..=depth + 3)
            .map(|node| (node, node.checked_sub(1).into_iter().collect()))
            .collect();
        // k rounds see 2^k - 1 levels, one of which is to be valid.
        let bound = (depth as u32 + 2).next_power_of_two().ilog2();
        let (plan, rounds) = run(&graph, &[depth + 3], |asked| asked.iter().map(|it| *it <= 3).collect());
        assert_eq!((plan.len(), rounds), (depth, bound), "{depth} missing");
    }
}

/// The largest memory this process has had, in MiB.
fn peak_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

#[test]
fn heavy_a_million_paths_take_bounded_memory_and_time() {
    const PATHS: usize = 1_000_000;
    // As deep as can be, and a thousand levels of a thousand, each path with three references.
    let chain = |node: usize| node.checked_sub(1).into_iter().collect::<Vec<_>>();
    let levels = |node: usize| -> Vec<usize> {
        let below = (node / 1_000).checked_sub(1);
        let below = below.map(|level| [1, 7, 31].map(|step| level * 1_000 + node * step % 1_000));
        below.into_iter().flatten().collect()
    };
    let shapes = [
        ("chain", &chain as &dyn Fn(usize) -> Vec<usize>, vec![PATHS - 1], 20),
        ("levels", &levels, (PATHS - 1_000..PATHS).collect(), 10),
    ];
    for (name, references, roots, most) in shapes {
        for valid_below in [0, PATHS - 1_000] {
            let start = Instant::now();
            let before = peak_mib();
            let mut machine = Negotiation::new(roots.iter().map(|root| path(*root)));
            let plan = loop {
                match machine.next() {
                    Step::Read(paths) => {
                        for it in paths {
                            machine.know(&it, references(node(&it)).into_iter().map(path));
                        }
                    }
                    Step::Ask(paths) => machine.answer(|position| node(&paths[position]) < valid_below),
                    Step::Done(plan) => break plan,
                }
            };
            let (took, peak) = (start.elapsed(), peak_mib());
            println!(
                "{name}, {} of {PATHS} missing: {} rounds, {took:?}, {peak} MiB at most, {before} before",
                plan.len(),
                machine.rounds()
            );
            assert!(plan.len() <= PATHS - valid_below && plan.len() * 10 >= (PATHS - valid_below) * 9);
            assert!(machine.rounds() <= most);
            let order: HashMap<usize, usize> = plan.iter().enumerate().map(|(at, it)| (node(it), at)).collect();
            let is_before = |at: usize, to: usize| order.get(&to).is_none_or(|before| *before < at);
            assert!((plan.iter().enumerate()).all(|(at, it)| references(node(it)).iter().all(|to| is_before(at, *to))));
            assert!(peak < 700, "{peak} MiB");
            // An unoptimised build on a busy machine took 44 s.
            assert!(took.as_secs() < 150, "{took:?}");
        }
    }
}
