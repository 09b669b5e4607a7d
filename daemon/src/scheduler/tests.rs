use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nixci_protocol::nixci::control::{AttemptId, EvaluationId};
use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_store::index::DrvId;
use proptest::prelude::*;

use super::store::{FIRST_PAUSE, PROBE_TIME};
use super::*;

const S: StoreId = StoreId(0);
const E1: EvaluationId = EvaluationId(1);
const E2: EvaluationId = EvaluationId(2);
const R1: RequestId = RequestId(1);
const R2: RequestId = RequestId(2);

fn spec(slots: u32) -> StoreSpec {
    StoreSpec {
        name: "s".into(),
        slots,
        systems: Vec::new(),
        features: Vec::new(),
    }
}

fn root(drv: i64) -> Root {
    Root {
        drv: DrvId(drv),
        system: "x86_64-linux".into(),
        features: Arc::from([]),
    }
}

fn build(drv: i64, inputs: &[i64]) -> PlannedBuild {
    PlannedBuild {
        drv: DrvId(drv),
        inputs: inputs.iter().copied().map(DrvId).collect(),
        known_failure: None,
    }
}

/// A scheduler and a clock that only the test moves.
struct Bench {
    state: State,
    now: Instant,
    changes: Vec<Change>,
}

impl Bench {
    fn new(slots: u32) -> Self {
        Self {
            state: State::new(vec![spec(slots)]),
            now: Instant::now(),
            changes: Vec::new(),
        }
    }

    fn step(&mut self, event: Event) -> Vec<Action> {
        let (actions, changes) = self.state.step(event, self.now);
        self.changes.extend(changes);
        actions
    }

    fn submit(&mut self, wisher: impl Into<Wisher>, project: i64, roots: &[i64]) -> Vec<Action> {
        let roots = roots.iter().copied().map(root).collect();
        self.step(Event::Submitted {
            wisher: wisher.into(),
            project,
            priority: Priority::Head,
            roots,
            on: None,
        })
    }

    fn plan(
        &mut self,
        wisher: impl Into<Wisher>,
        roots: &[i64],
        builds: Vec<PlannedBuild>,
        valid: &[i64],
    ) -> Vec<Action> {
        let plan = Planned {
            builds,
            valid: valid.iter().copied().map(DrvId).collect(),
        };
        self.step(Event::Planned {
            wisher: wisher.into(),
            store: S,
            roots: roots.iter().copied().map(DrvId).collect(),
            plan,
        })
    }

    fn end(&mut self, drv: i64, end: End) -> Vec<Action> {
        self.step(Event::Ended {
            drv: DrvId(drv),
            store: S,
            end,
        })
    }

    fn live(&self, drv: i64) -> Option<LiveState> {
        self.state.live(DrvId(drv))
    }
}

fn builds(actions: &[Action]) -> Vec<i64> {
    actions
        .iter()
        .filter_map(|a| {
            if let Action::Build { drv, .. } = a {
                Some(drv.0)
            } else {
                None
            }
        })
        .collect()
}

fn built() -> End {
    End::Succeeded(Success::Built)
}

#[test]
fn a_chain_is_built_inputs_first_and_its_evaluation_settles() {
    let mut b = Bench::new(4);
    assert_eq!(
        b.submit(E1, 1, &[3]),
        vec![Action::Plan {
            wisher: E1.into(),
            store: S,
            roots: vec![DrvId(3)]
        }]
    );
    assert!(matches!(b.live(3), Some(LiveState::Forwarding { reason: None })));
    assert_eq!(b.step(Event::Closed { evaluation: E1 }), vec![]);
    assert_eq!(
        builds(&b.plan(E1, &[3], vec![build(3, &[2]), build(2, &[1]), build(1, &[])], &[])),
        [1]
    );
    assert_eq!(b.live(3), Some(LiveState::Waiting { left: 1 }));
    assert_eq!(b.state.progress(E1).unwrap().builds_left, 3);
    assert_eq!(builds(&b.end(1, built())), [2]);
    assert_eq!(builds(&b.end(2, built())), [3]);
    assert_eq!(b.end(3, built()), vec![Action::Settled { evaluation: E1 }]);
    assert_eq!(b.live(3), None);
    assert_eq!(b.state.progress(E1), None);
}

#[test]
fn a_failure_blocks_what_is_above_it_and_names_the_root_cause() {
    let mut b = Bench::new(1);
    b.submit(E1, 1, &[3, 4]);
    b.plan(
        E1,
        &[3, 4],
        vec![build(4, &[]), build(3, &[2]), build(2, &[1]), build(1, &[])],
        &[],
    );
    // The longest path goes first: 1, although 4 arrived before it.
    assert_eq!(builds(&b.end(1, End::Failed(FailureClass::Build))), [4]);
    assert_eq!(b.live(3), Some(LiveState::Blocked(vec![DrvId(1)])));
    assert_eq!(b.live(2), Some(LiveState::Blocked(vec![DrvId(1)])));
    b.step(Event::Closed { evaluation: E1 });
    assert_eq!(b.end(4, built()), vec![Action::Settled { evaluation: E1 }]);
}

#[test]
fn a_restart_reopens_the_root_cause_and_keeps_what_others_block() {
    let mut b = Bench::new(4);
    b.submit(E1, 1, &[3, 5]);
    b.plan(
        E1,
        &[3, 5],
        vec![build(5, &[2]), build(3, &[1, 2]), build(2, &[]), build(1, &[])],
        &[],
    );
    b.end(1, End::Failed(FailureClass::Build));
    b.end(2, End::Failed(FailureClass::Build));
    assert_eq!(b.live(3), Some(LiveState::Blocked(vec![DrvId(1), DrvId(2)])));
    assert_eq!(builds(&b.step(Event::Restarted { drvs: vec![DrvId(1)] })), [1]);
    assert_eq!(b.live(3), Some(LiveState::Blocked(vec![DrvId(2)])));
    b.end(1, built());
    assert_eq!(builds(&b.step(Event::Restarted { drvs: vec![DrvId(2)] })), [2]);
    assert_eq!(
        {
            let mut b = builds(&b.end(2, built()));
            b.sort_unstable();
            b
        },
        [3, 5]
    );
    assert_eq!(b.state.progress(E1).unwrap().builds_left, 2);
}

#[test]
fn cancelling_stops_only_what_nobody_else_wants() {
    let mut b = Bench::new(4);
    b.submit(E1, 1, &[2, 3]);
    b.plan(E1, &[2, 3], vec![build(2, &[1]), build(3, &[]), build(1, &[])], &[]);
    b.submit(E2, 2, &[4]);
    b.plan(E2, &[4], vec![build(4, &[1]), build(1, &[])], &[]);
    let actions = b.step(Event::Cancelled { wisher: E1.into() });
    assert_eq!(
        actions,
        vec![Action::Stop {
            drv: DrvId(3),
            store: S
        }]
    );
    assert_eq!(b.live(2), None);
    assert_eq!(b.end(3, End::Stopped), vec![]);
    assert_eq!(b.live(3), None);
    assert_eq!(builds(&b.end(1, built())), [4]);
}

#[test]
fn a_build_that_is_wanted_again_while_it_stops_is_started_again() {
    let mut b = Bench::new(4);
    b.submit(E1, 1, &[1]);
    b.plan(E1, &[1], vec![build(1, &[])], &[]);
    b.step(Event::Cancelled { wisher: E1.into() });
    b.submit(E2, 1, &[1]);
    assert_eq!(b.plan(E2, &[1], vec![build(1, &[])], &[]), vec![]);
    assert_eq!(builds(&b.end(1, End::Stopped)), [1]);
}

#[test]
fn a_cancelled_derivation_blocks_and_is_tried_again_for_the_next_who_wants_it() {
    let mut b = Bench::new(4);
    b.submit(E1, 1, &[2]);
    b.plan(E1, &[2], vec![build(2, &[1]), build(1, &[])], &[]);
    assert_eq!(
        b.step(Event::CancelledBuild { drv: DrvId(1) }),
        vec![Action::Stop {
            drv: DrvId(1),
            store: S
        }]
    );
    b.end(1, End::Stopped);
    assert_eq!(b.live(1), Some(LiveState::Cancelled));
    assert_eq!(b.live(2), Some(LiveState::Blocked(vec![DrvId(1)])));
    b.submit(E2, 1, &[2]);
    assert_eq!(builds(&b.plan(E2, &[2], vec![build(2, &[1]), build(1, &[])], &[])), [1]);
    assert_eq!(b.live(2), Some(LiveState::Waiting { left: 1 }));
}

#[test]
fn a_store_that_does_not_answer_is_left_alone_and_then_probed_with_one_build() {
    let mut b = Bench::new(4);
    b.submit(E1, 1, &[1, 2, 3]);
    b.plan(E1, &[1, 2, 3], vec![build(1, &[]), build(2, &[]), build(3, &[])], &[]);
    assert_eq!(b.end(1, End::NotStarted("connection refused".to_owned())), vec![]);
    b.end(2, End::Failed(FailureClass::Store));
    b.end(3, End::NotStarted("connection refused".to_owned()));
    let Some(LiveState::Ready { reason }) = b.live(2) else {
        panic!("{:?}", b.live(2))
    };
    assert_eq!(&*reason, "store `s` does not answer: connection refused");
    let wake = b.state.wake_at(b.now).unwrap();
    b.now = wake;
    assert_eq!(
        builds(&b.step(Event::Woken)).len(),
        1,
        "one probe until it has answered"
    );
    let running = (1..=3)
        .find(|d| matches!(b.live(*d), Some(LiveState::Building { .. })))
        .unwrap();
    assert_eq!(builds(&b.end(running, built())).len(), 2);
}

#[test]
fn a_probe_that_goes_on_does_not_hold_up_the_others() {
    let mut b = Bench::new(4);
    b.submit(E1, 1, &[1, 2, 3]);
    b.plan(E1, &[1, 2, 3], vec![build(1, &[]), build(2, &[]), build(3, &[])], &[]);
    for drv in 1..=3 {
        b.end(drv, End::Failed(FailureClass::Store));
    }
    b.now = b.state.wake_at(b.now).unwrap();
    let probe = builds(&b.step(Event::Woken));
    assert_eq!(probe.len(), 1);
    let tried = b.now + PROBE_TIME;
    assert_eq!(b.state.wake_at(b.now), Some(tried));
    b.now = tried;
    assert_eq!(builds(&b.step(Event::Woken)).len(), 2, "it has not broken off");
    assert_eq!(b.state.wake_at(b.now), None);
    // It was no answer: the next pause is longer than the first.
    b.end(probe[0], End::Failed(FailureClass::Store));
    assert_eq!(b.state.wake_at(b.now), Some(b.now + FIRST_PAUSE * 2));
}

#[test]
fn a_build_that_takes_its_store_down_each_time_fails_at_last() {
    let mut b = Bench::new(1);
    b.submit(E1, 1, &[1]);
    b.plan(E1, &[1], vec![build(1, &[])], &[]);
    for _ in 0..7 {
        b.end(1, End::Failed(FailureClass::Store));
        b.now += Duration::from_mins(1);
        assert_eq!(builds(&b.step(Event::Woken)), [1]);
    }
    b.end(1, End::Failed(FailureClass::Store));
    assert_eq!(b.live(1), Some(LiveState::Failed(FailureClass::Store)));
}

#[test]
fn a_plan_that_fails_is_asked_for_again_and_a_refused_one_is_final() {
    let mut b = Bench::new(1);
    b.submit(E1, 1, &[1]);
    let failed = Event::PlanFailed {
        wisher: E1.into(),
        store: S,
        roots: vec![DrvId(1)],
        reason: "gone".to_owned(),
    };
    assert_eq!(b.step(failed), vec![]);
    assert_eq!(
        b.live(1),
        Some(LiveState::Forwarding {
            reason: Some("gone".into())
        })
    );
    b.now = b.state.wake_at(b.now).unwrap();
    assert_eq!(
        b.step(Event::Woken),
        vec![Action::Plan {
            wisher: E1.into(),
            store: S,
            roots: vec![DrvId(1)]
        }]
    );
    b.step(Event::Closed { evaluation: E1 });
    let refused = Event::PlanRefused {
        wisher: E1.into(),
        roots: vec![DrvId(1)],
    };
    assert_eq!(b.step(refused), vec![Action::Settled { evaluation: E1 }]);
}

#[test]
fn a_remembered_failure_is_not_tried_again() {
    let mut b = Bench::new(1);
    b.submit(E1, 1, &[2]);
    let known = PlannedBuild {
        known_failure: Some(FailureClass::Build),
        ..build(1, &[])
    };
    assert_eq!(
        builds(&b.plan(E1, &[2], vec![build(2, &[1]), known], &[])),
        [] as [i64; 0]
    );
    assert_eq!(b.live(2), Some(LiveState::Blocked(vec![DrvId(1)])));
}

#[test]
fn what_no_store_offers_fails_with_what_there_is() {
    let mut state = State::new(vec![StoreSpec {
        systems: vec!["x86_64-linux".to_owned()],
        ..spec(1)
    }]);
    let darwin = Root {
        system: "aarch64-darwin".into(),
        ..root(1)
    };
    let (actions, _) = state.step(
        Event::Submitted {
            wisher: E1.into(),
            project: 1,
            priority: Priority::Head,
            roots: vec![darwin],
            on: None,
        },
        Instant::now(),
    );
    assert_eq!(
        actions,
        vec![Action::Unsupported {
            drv: DrvId(1),
            message: "no store offers aarch64-darwin; the configured stores offer x86_64-linux".to_owned(),
        }]
    );
}

#[test]
fn projects_take_turns_and_heads_go_before_background() {
    let mut b = Bench::new(1);
    for (evaluation, project, priority, roots) in [
        (3, 30, Priority::Background, vec![31, 32]),
        (1, 10, Priority::Head, vec![11, 12, 13]),
        (2, 20, Priority::Head, vec![21]),
    ] {
        let evaluation = EvaluationId(evaluation);
        b.step(Event::Submitted {
            wisher: evaluation.into(),
            project,
            priority,
            roots: roots.iter().map(|r| root(*r)).collect(),
            on: None,
        });
        b.plan(evaluation, &roots, roots.iter().map(|r| build(*r, &[])).collect(), &[]);
    }
    // 31 or 32 got the only slot when it was alone.
    let mut order = Vec::new();
    let mut running = (1..=32)
        .find(|d| matches!(b.live(*d), Some(LiveState::Building { .. })))
        .unwrap();
    while let Some(next) = builds(&b.end(running, built())).first().copied() {
        order.push(next / 10);
        running = next;
    }
    assert_eq!(order, [1, 2, 1, 1, 3]);
}

#[test]
fn roots_that_are_valid_already_settle_without_a_build() {
    let mut b = Bench::new(1);
    b.submit(E1, 1, &[1, 2]);
    b.step(Event::Closed { evaluation: E1 });
    assert_eq!(
        b.plan(E1, &[1, 2], vec![], &[1, 2]),
        vec![Action::Settled { evaluation: E1 }]
    );
    assert_eq!(b.changes.len(), 2);
}

#[test]
fn a_started_attempt_is_seen_with_its_number() {
    let mut b = Bench::new(1);
    b.submit(E1, 1, &[1]);
    b.plan(E1, &[1], vec![build(1, &[])], &[]);
    b.step(Event::Started {
        drv: DrvId(1),
        store: S,
        attempt: AttemptId(7),
        since: 99,
    });
    assert_eq!(
        b.live(1),
        Some(LiveState::Building {
            attempt: Some(AttemptId(7)),
            since: 99
        })
    );
    assert_eq!(b.state.progress(E1).unwrap().running[0].attempt, Some(AttemptId(7)));
}

fn told(actions: &[Action], request: RequestId) -> Vec<(i64, LiveState)> {
    let of = actions.iter().filter_map(|action| match action {
        Action::Tell {
            request: to,
            drv,
            state,
        } if *to == request => Some((drv.0, state.clone())),
        _ => None,
    });
    of.collect()
}

#[test]
fn a_request_shares_a_build_and_is_told_how_everything_it_wants_ended() {
    let mut b = Bench::new(4);
    b.submit(E1, 1, &[2]);
    b.plan(E1, &[2], vec![build(2, &[1]), build(1, &[])], &[]);
    b.submit(R1, 2, &[3]);
    assert_eq!(b.plan(R1, &[3], vec![build(3, &[1]), build(1, &[])], &[]), vec![]);
    let actions = b.end(1, built());
    assert_eq!(builds(&actions), [2, 3]);
    assert_eq!(told(&actions, R1), [(1, LiveState::Succeeded(Success::Built))]);
    let actions = b.end(3, End::Failed(FailureClass::Build));
    assert_eq!(told(&actions, R1), [(3, LiveState::Failed(FailureClass::Build))]);
    // It stays until its client lets go, and is no evaluation that anybody could settle.
    assert_eq!(b.step(Event::Cancelled { wisher: R1.into() }), vec![]);
    assert_eq!(b.live(3), None);
    assert_eq!(b.state.evaluations().collect::<Vec<_>>(), [E1]);
}

#[test]
fn a_request_that_ends_stops_only_what_nobody_else_wants() {
    let mut b = Bench::new(4);
    for request in [R1, R2] {
        b.submit(request, 1, &[1]);
        b.plan(request, &[1], vec![build(1, &[])], &[]);
    }
    assert_eq!(b.step(Event::Cancelled { wisher: R1.into() }), vec![]);
    let stop = Action::Stop {
        drv: DrvId(1),
        store: S,
    };
    assert_eq!(b.step(Event::Cancelled { wisher: R2.into() }), vec![stop]);
    assert_eq!(b.end(1, End::Stopped), vec![], "nobody is told");
    assert!(b.state.nodes.is_empty());
}

#[test]
fn what_failed_is_tried_again_for_a_request_and_everybody_gains() {
    let mut b = Bench::new(4);
    b.submit(E1, 1, &[2]);
    b.plan(E1, &[2], vec![build(2, &[1]), build(1, &[])], &[]);
    b.end(1, End::Failed(FailureClass::Build));
    b.submit(R1, 1, &[1]);
    assert_eq!(builds(&b.plan(R1, &[1], vec![build(1, &[])], &[])), [1]);
    assert_eq!(builds(&b.end(1, built())), [2]);
}

#[test]
fn a_request_is_pinned_to_its_store_whatever_that_is_said_to_offer() {
    let specs = ["a", "b"].map(|name| StoreSpec {
        name: name.into(),
        systems: vec!["x86_64-linux".to_owned()],
        ..spec(1)
    });
    let mut state = State::new(specs.into());
    let foreign = Root {
        system: "riscv64-linux".into(),
        ..root(1)
    };
    let (actions, _) = state.step(
        Event::Submitted {
            wisher: R1.into(),
            project: 1,
            priority: Priority::Head,
            roots: vec![foreign],
            on: Some(StoreId(1)),
        },
        Instant::now(),
    );
    assert_eq!(
        actions,
        vec![Action::Plan {
            wisher: R1.into(),
            store: StoreId(1),
            roots: vec![DrvId(1)],
        }]
    );
}

/// A random run: a random graph, several evaluations and requests over random roots of it, random ends, cancels and
/// restarts, in a random order.
#[derive(Debug, Clone)]
struct Script {
    inputs: Vec<Vec<usize>>,
    roots: Vec<Vec<usize>>,
    choices: Vec<u16>,
    slots: u32,
}

fn script() -> impl Strategy<Value = Script> {
    (2_usize..24).prop_flat_map(|nodes| {
        let inputs = (0..nodes)
            .map(|n| {
                prop::collection::btree_set(0..n.max(1), 0..4)
                    .prop_map(move |s| s.into_iter().filter(|i| *i < n).collect())
            })
            .collect::<Vec<_>>();
        let roots = prop::collection::vec(prop::collection::vec(0..nodes, 1..4), 1..4);
        (inputs, roots, prop::collection::vec(any::<u16>(), 200), 1_u32..5).prop_map(
            |(inputs, roots, choices, slots)| Script {
                inputs,
                roots,
                choices,
                slots,
            },
        )
    })
}

fn closure(inputs: &[Vec<usize>], roots: &[usize]) -> BTreeSet<usize> {
    let mut seen = BTreeSet::new();
    let mut work = roots.to_vec();
    while let Some(n) = work.pop() {
        if seen.insert(n) {
            work.extend(&inputs[n]);
        }
    }
    seen
}

/// Every second one is a request.
fn wisher(at: usize) -> Wisher {
    if at.is_multiple_of(2) {
        EvaluationId(at as i64).into()
    } else {
        RequestId(at as u64).into()
    }
}

fn play(script: &Script) {
    let mut b = Bench::new(script.slots);
    let mut done: BTreeSet<usize> = BTreeSet::new();
    let mut running: BTreeSet<usize> = BTreeSet::new();
    let mut failed: HashMap<usize, FailureClass> = HashMap::new();
    let mut settled = BTreeSet::new();
    let mut todo: Vec<Action> = Vec::new();
    let mut open: BTreeSet<usize> = (0..script.roots.len()).collect();
    // What the clients of open requests still wait for.
    let mut waits: HashMap<RequestId, BTreeSet<i64>> = HashMap::new();
    let mut choices = script.choices.iter().copied().cycle();
    for (at, roots) in script.roots.iter().enumerate() {
        let id = wisher(at);
        let roots: Vec<i64> = roots.iter().map(|r| *r as i64).collect();
        todo.extend(b.submit(id, at as i64 % 2, &roots));
        match id {
            Wisher::Evaluation(evaluation) => todo.extend(b.step(Event::Closed { evaluation })),
            Wisher::Request(request) => drop(waits.insert(request, roots.into_iter().collect())),
        }
    }
    for turn in 0..5_000 {
        while let Some(action) = todo.pop() {
            let next = match action {
                Action::Plan {
                    wisher,
                    store: _,
                    roots,
                } => {
                    let roots: Vec<usize> = roots.iter().map(|r| r.0 as usize).collect();
                    let needed: Vec<usize> = closure(&script.inputs, &roots)
                        .into_iter()
                        .filter(|n| !done.contains(n))
                        .collect();
                    let plan = needed
                        .iter()
                        .map(|n| {
                            let inputs: Vec<i64> = script.inputs[*n].iter().map(|i| *i as i64).collect();
                            PlannedBuild {
                                known_failure: match wisher {
                                    Wisher::Evaluation(_) => failed.get(n).copied(),
                                    Wisher::Request(_) => None,
                                },
                                ..build(*n as i64, &inputs)
                            }
                        })
                        .collect();
                    let valid: Vec<i64> = roots.iter().filter(|r| done.contains(r)).map(|r| *r as i64).collect();
                    if let Wisher::Request(request) = wisher
                        && let Some(waits) = waits.get_mut(&request)
                    {
                        waits.retain(|root| !valid.contains(root));
                    }
                    b.plan(
                        wisher,
                        &roots.iter().map(|r| *r as i64).collect::<Vec<_>>(),
                        plan,
                        &valid,
                    )
                }
                Action::Build { drv, store } => {
                    assert_eq!(store, S);
                    let n = drv.0 as usize;
                    assert!(running.insert(n), "{n} runs twice");
                    assert!(running.len() <= script.slots as usize, "more builds than slots");
                    assert!(
                        script.inputs[n].iter().all(|i| done.contains(i)),
                        "{n} before its inputs"
                    );
                    assert!(!done.contains(&n), "{n} built again");
                    b.step(Event::Started {
                        drv,
                        store,
                        attempt: AttemptId(1),
                        since: 1,
                    })
                }
                Action::Stop { drv, .. } => {
                    assert!(running.remove(&(drv.0 as usize)), "only what runs is stopped");
                    b.end(drv.0, End::Stopped)
                }
                Action::Settled { evaluation } => {
                    assert!(settled.insert(evaluation), "settled twice");
                    open.remove(&(evaluation.0 as usize));
                    Vec::new()
                }
                Action::Tell { request, drv, state } => {
                    assert!(state.is_final(), "{drv:?} is {state:?}");
                    if let Some(waits) = waits.get_mut(&request) {
                        waits.remove(&drv.0);
                    }
                    Vec::new()
                }
                Action::Unsupported { .. } => unreachable!("the store offers everything"),
            };
            todo.extend(next);
        }
        let answered: Vec<RequestId> = waits
            .iter()
            .filter(|(_, waits)| waits.is_empty())
            .map(|(request, _)| *request)
            .collect();
        for request in answered {
            waits.remove(&request);
            open.remove(&(request.0 as usize));
            todo.extend(b.step(Event::Cancelled { wisher: request.into() }));
        }
        if !todo.is_empty() {
            continue;
        }
        if open.is_empty() && running.is_empty() {
            break;
        }
        let choice = choices.next().unwrap();
        let picked = running.iter().nth(usize::from(choice) % running.len().max(1)).copied();
        todo = match (choice % 23, picked) {
            (0, _) if turn < 100 => {
                let at = usize::from(choice) % script.roots.len();
                open.remove(&at);
                if let Wisher::Request(request) = wisher(at) {
                    waits.remove(&request);
                }
                b.step(Event::Cancelled { wisher: wisher(at) })
            }
            (1, _) if turn < 100 => {
                let drvs: Vec<DrvId> = failed.drain().map(|(n, _)| DrvId(n as i64)).collect();
                b.step(Event::Restarted { drvs })
            }
            (2, Some(n)) => {
                running.remove(&n);
                failed.insert(n, FailureClass::Build);
                b.end(n as i64, End::Failed(FailureClass::Build))
            }
            (3, Some(n)) if turn < 1_000 => {
                running.remove(&n);
                b.end(n as i64, End::NotStarted("refused".to_owned()))
            }
            (_, Some(n)) => {
                running.remove(&n);
                done.insert(n);
                b.end(n as i64, built())
            }
            (_, None) => {
                let wake = b
                    .state
                    .wake_at(b.now)
                    .expect("nothing runs, nothing waits for a time, and not all is final");
                b.now = wake;
                b.step(Event::Woken)
            }
        };
    }
    assert!(open.is_empty(), "these never settled: {open:?}");
    assert!(b.state.nodes.is_empty(), "nothing is kept that nobody wants");
    assert!(b.state.load().iter().all(|l| l.running == 0 && l.ready == 0));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, ..ProptestConfig::default() })]
    #[test]
    fn every_random_run_settles_and_keeps_the_rules(script in script()) {
        play(&script);
    }
}
