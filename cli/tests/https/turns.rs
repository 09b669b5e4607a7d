//! How often a submission waits for the other side.

use std::time::{Duration, Instant};

use nixci_store::testing::{TestDrv, poll_until};

use crate::runner::Runner;

/// Round trips beyond TLS: the switch of protocols, the handshake, the submission.
const TRIPS: u32 = 3;

#[test]
fn an_unchanged_set_is_submitted_over_https_in_three_round_trips() {
    let round_trip = Duration::from_millis(50);
    let runner = Runner::new(round_trip);
    let names: Vec<String> = (0..300).map(|n| format!("job-{n}")).collect();
    let list: Vec<TestDrv> = names.iter().map(|name| TestDrv::good(name)).collect();
    let (jobs, _) = runner.world.jobs("turns", &list);
    std::fs::write(runner.world.dir().join("jobs"), jobs).unwrap();
    let submit = ["submit", "--jobs-file", "jobs"];

    runner.nixci(&submit).ends(0).says("#1");
    let first = runner.link.take();
    // The set is remembered a moment after it was sent.
    let (again, took) = poll_until("the set to be known", || {
        let began = Instant::now();
        runner.nixci(&submit).ends(0).says("#");
        let took = began.elapsed();
        let again = runner.link.take();
        (again.trips <= TRIPS).then_some((again, took))
    });
    println!("first {first:?}; unchanged {again:?} in {took:?} at a round trip of {round_trip:?}");
    assert_eq!((again.trips, again.connections), (TRIPS, 1));
    // Generous: other tests run beside. On a quiet machine it is a third of it.
    assert!(took < Duration::from_secs(5), "{took:?}");
    let recorded = runner.nixci(&["jobs", "2", "--json"]).ends(0).json();
    assert_eq!(recorded.as_array().unwrap().len(), 300);
    runner.link.take();

    // What is not known costs the question, and what is uploaded its reply.
    let (jobs, _) = runner.world.jobs("turns-2", &list[..10]);
    std::fs::write(runner.world.dir().join("jobs"), jobs).unwrap();
    runner.nixci(&submit).ends(0);
    let changed = runner.link.take();
    println!("changed {changed:?}");
    assert!(changed.trips <= TRIPS + 3, "{changed:?}");
}

#[test]
fn what_is_evaluated_at_once_is_submitted_in_as_few() {
    let runner = Runner::new(Duration::ZERO);
    let expression = r#"
        { a = derivation { name = "a"; system = "x86_64-linux"; builder = "/bin/sh"; };
          b = throw "no"; }
    "#;
    let submit = ["submit", "--expr", expression];
    runner.nixci(&submit).ends(0).says("#1");
    runner.link.take();
    let again = poll_until("the set to be known", || {
        runner.nixci(&submit).ends(0);
        let again = runner.link.take();
        (again.trips <= TRIPS).then_some(again)
    });
    assert_eq!(again.trips, TRIPS);
    let jobs = runner.nixci(&["jobs", "1", "--json"]).ends(0).json();
    assert_eq!(jobs.as_array().unwrap().len(), 2, "{jobs}");
}
