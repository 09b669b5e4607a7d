//! The machine with a memory, right or wrong.

use std::sync::Arc;

use super::*;

/// What came of a run: the plan, what was asked round by round, and whether memory was contradicted.
struct Run {
    plan: Vec<usize>,
    questions: Vec<Vec<usize>>,
    contradicted: bool,
}

fn run(graph: &Graph, valid: &BTreeSet<usize>, roots: &[usize], memory: &BTreeSet<usize>) -> Run {
    let digests = memory.iter().map(|node| *path(*node).digest()).collect::<Digests>();
    let mut machine = Negotiation::remembering(roots.iter().map(|node| path(*node)), Arc::new(digests));
    let mut questions: Vec<Vec<usize>> = Vec::new();
    loop {
        match machine.next() {
            Step::Read(paths) => {
                for it in paths {
                    machine.know(&it, graph[&node(&it)].iter().map(|child| path(*child)));
                }
            }
            Step::Ask(paths) => {
                let paths = paths.iter().map(node).collect::<Vec<_>>();
                machine.answer(|position| valid.contains(&paths[position]));
                questions.push(paths);
            }
            Step::Done(plan) => {
                return Run {
                    plan: plan.iter().map(node).collect(),
                    questions,
                    contradicted: machine.contradicts_memory(),
                };
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn memory_never_changes_the_plan(
        (graph, valid, roots) in graphs(),
        memory in proptest::collection::btree_set(0_usize..60, 0..60),
    ) {
        let missing = closure(&graph, &roots).difference(&valid).copied().collect::<BTreeSet<_>>();
        let cold = run(&graph, &valid, &roots, &BTreeSet::new());
        prop_assert!(!cold.contradicted);
        let warm = run(&graph, &valid, &roots, &memory);
        prop_assert_eq!(warm.plan.iter().copied().collect::<BTreeSet<_>>(), missing.clone());
        prop_assert_eq!(warm.plan.len(), missing.len());
        let mut sent = valid.clone();
        for it in &warm.plan {
            prop_assert!(graph[it].iter().all(|child| sent.contains(child)), "references first");
            sent.insert(*it);
        }
        // The round in which memory proves wrong may be lost, and no other.
        let allowed = cold.questions.len() + usize::from(warm.contradicted);
        prop_assert!(warm.questions.len() <= allowed, "{:?} for {:?}", warm.questions, cold.questions);
        let asked = warm.questions.concat();
        prop_assert_eq!(asked.iter().collect::<BTreeSet<_>>().len(), asked.len(), "asked twice");
        prop_assert_eq!(warm.contradicted, asked.iter().any(|it| memory.contains(it) && !valid.contains(it)));
        // What is remembered is not looked below ahead of its answer, as long as memory was right.
        let mut right = true;
        let mut answered = BTreeSet::new();
        for question in &warm.questions {
            for it in question.iter().filter(|_| right) {
                let above = |above: &usize| graph[above].contains(it) && (answered.contains(above)
                    || question.contains(above) && !memory.contains(above));
                prop_assert!(roots.contains(it) || graph.keys().any(above), "{it} was asked too early");
            }
            answered.extend(question.iter().copied());
            right &= !question.iter().any(|it| memory.contains(it) && !valid.contains(it));
        }
    }

    #[test]
    fn with_a_right_memory_one_question_about_the_change_is_enough((graph, valid, roots) in graphs()) {
        let Run { plan, questions, contradicted } = run(&graph, &valid, &roots, &valid);
        prop_assert!(!contradicted);
        // An empty memory is none.
        prop_assume!(!valid.is_empty());
        let mut change = roots.iter().copied().collect::<BTreeSet<_>>();
        change.extend(plan.iter().flat_map(|it| &graph[it]));
        prop_assert_eq!(questions.len(), 1);
        prop_assert_eq!(questions[0].iter().copied().collect::<BTreeSet<_>>(), change);
    }
}

#[test]
fn a_memory_that_says_little_does_not_make_questions_large() {
    // A comb of new paths, all of whose references are valid but not remembered.
    let width = 5_000;
    let graph: Graph = (0..2 * width)
        .map(|node| (node, (node >= width).then(|| node - width).into_iter().collect()))
        .collect();
    let roots = (width..2 * width).collect::<Vec<_>>();
    let valid = (0..2 * width).collect::<BTreeSet<_>>();
    let warm = run(&graph, &valid, &roots, &BTreeSet::from([2 * width]));
    assert_eq!(warm.questions, [roots]);
}

#[test]
fn a_change_of_the_recorded_sets_takes_one_small_question() {
    let recorded = recorded::whole();
    let (graph, parse) = recorded_graph();
    let base = recorded.roots(Set::Base).into_iter().map(&parse).collect::<Vec<_>>();
    let head = recorded.roots(Set::Head).into_iter().map(&parse).collect::<Vec<_>>();
    let known = recorded_run(&graph, &base, &HashSet::new())
        .0
        .into_iter()
        .collect::<HashSet<_>>();
    let digests = Arc::new(known.iter().map(|path| *path.digest()).collect::<Digests>());
    let bytes = |paths: &[StorePath]| {
        paths
            .iter()
            .map(|path| (8 + 11 + path.to_string().len()).next_multiple_of(8))
            .sum::<usize>()
    };
    let mut told = Vec::new();
    for memory in [Arc::default(), digests] {
        let mut machine = Negotiation::remembering(head.iter().cloned(), memory);
        let (mut read, mut sizes, mut up) = (0, Vec::new(), 0);
        let plan = loop {
            match machine.next() {
                Step::Read(paths) => {
                    read += paths.len();
                    for path in paths {
                        machine.know(&path, graph[&path].iter().cloned());
                    }
                }
                Step::Ask(paths) => {
                    sizes.push(paths.len());
                    up += bytes(&paths);
                    machine.answer(|position| known.contains(&paths[position]));
                }
                Step::Done(plan) => break plan,
            }
        };
        assert_eq!(plan.len(), 1_478);
        println!("questions {sizes:?}, {up} bytes of paths to a stock daemon, {read} read");
        told.push((sizes, up, read));
    }
    let [(cold, cold_bytes, _), (warm, warm_bytes, read)] = &told[..] else {
        panic!("two runs");
    };
    assert_eq!((warm.len(), *read), (1, 1_478));
    assert!(warm.len() < cold.len() && warm_bytes < cold_bytes);
}
