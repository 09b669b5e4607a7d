//! The queue goes on elsewhere.

use std::collections::BTreeMap;
use std::path::Path;

use nixci_protocol::nixci::control::{EvaluationSummary, LogOf, Request, Selector};
use nixci_protocol::nixci::outcome::{FailureClass, Outcome};
use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv};
use rstest::rstest;

use crate::common::{ask, connect, log, submit, watch};
use crate::world::{backed_up, look_through, replace_state};

const SIBLING: &str = env!("CARGO_BIN_EXE_nixci-daemon");

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Store {
    Same,
    Other,
}

#[rstest]
#[case(Store::Same)]
#[case(Store::Other)]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_being_built_is_built_where_the_backup_is_restored(#[case] which: Store) {
    let store = TestDaemon::start(NixVersion::V2_34);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let gate = store.gate("held");
    let first = Service::start(Path::new(SIBLING), &[("here", &store.uri(), 2)]);
    let mut client = connect(&first.socket()).await;
    let done = evaluator.instantiate("done", &[TestDrv::good("early").script("echo I was early")]);
    let done = submit(&mut client, &evaluator, "done", &done).await;
    watch(&mut client, done).await;
    let drvs = [
        TestDrv::good("slow").gate("held"),
        TestDrv::good("after").needs(&["slow"]),
        TestDrv::failing("bad").needs(&["slow"]),
        TestDrv::good("blocked").needs(&["bad"]),
    ];
    let drvs: BTreeMap<String, String> = evaluator.instantiate("resumed", &drvs);
    let open = submit(&mut client, &evaluator, "open", &drvs).await;
    gate.started().await;

    let to = first.scratch().join("backup");
    let about = backed_up(&first, &to);
    assert_eq!(about["open_evaluations"], 1, "{about}");
    assert_eq!(about["running_attempts"], 1, "{about}");
    assert_eq!(about["missing_derivations"], 0, "{about}");
    // The machine is lost, with what it had after the backup.
    let lost = evaluator.instantiate("lost", &[TestDrv::good("lost")]);
    let lost = submit(&mut client, &evaluator, "lost", &lost).await;
    drop(client);
    first.kill9();

    let other = TestDaemon::start(NixVersion::V2_34);
    let (store, gate) = match which {
        Store::Same => (&store, gate),
        Store::Other => (&other, other.gate("held")),
    };
    let second = Service::start(Path::new(SIBLING), &[("here", &store.uri(), 2)]);
    replace_state(&second, &to);
    let mut client = connect(&second.socket()).await;
    gate.started().await;
    gate.open();
    let watched = watch(&mut client, open).await;
    let outcome = |job: &str| watched.outcomes[job].clone();
    assert!(matches!(outcome("slow"), Outcome::Succeeded { .. }), "{watched:#?}");
    assert!(matches!(outcome("after"), Outcome::Succeeded { .. }), "{watched:#?}");
    let class = FailureClass::Build;
    assert_eq!(outcome("bad"), Outcome::Failed { class });
    let by = vec![drvs["bad"].clone()];
    assert_eq!(outcome("blocked"), Outcome::Blocked { by });
    assert_eq!(watched.verdict.head.evaluation, open);
    // What was finished is known as it was, with its log.
    let early = LogOf::Job {
        which: Selector::Evaluation(done),
        attr: "early".parse().unwrap(),
    };
    let (lines, _) = log(&mut client, early, false).await;
    assert!(lines.contains(&"I was early".to_owned()), "{lines:?}");
    // Numbers that were given after the backup name nothing, and go to nobody.
    let status = Request::Status {
        which: Selector::Evaluation(lost),
    };
    let gone = crate::common::try_ask::<EvaluationSummary>(&mut client, &status).await;
    assert!(gone.is_err(), "{gone:?}");
    let new = evaluator.instantiate("new", &[TestDrv::good("new")]);
    let new = submit(&mut client, &evaluator, "new", &new).await;
    assert!(new.0 >= open.0 + 1_000, "{new:?} after {open:?}");
    watch(&mut client, new).await;
    let shown: EvaluationSummary = ask(
        &mut client,
        &Request::Status {
            which: Selector::Evaluation(open),
        },
    )
    .await;
    assert_eq!(shown.counts.succeeded, 2);
    drop(client);
    second.stop();
    // A stopped daemon is backed up too, and what runs again is whole.
    let again = second.scratch().join("again");
    assert_eq!(backed_up(&second, &again)["open_evaluations"], 0);
    let state = second.scratch().join("third");
    crate::world::good(&crate::world::restore(&again, &state));
    assert_eq!(look_through(&state).await.keys.len(), 3);
}
