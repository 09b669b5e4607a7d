//! Cancelling, restarting, stopping and coming back, on a real store with builds that wait at a gate.

mod common;

use std::path::Path;
use std::time::Duration;

use common::{ask, body_for, config, connect, daemon, log, submission, submit, try_submit, watch};
use nixci_daemon::start;
use nixci_protocol::nixci::control::{
    Begun, BuildDetail, Changed, EvaluationId, EvaluationState, EvaluationSummary, Event, LogEvent, LogOf, Request,
    Selector, StoreStatus, Target,
};
use nixci_protocol::nixci::outcome::{FailureClass, Outcome, Success};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};

const BUILT: Outcome = Outcome::Succeeded { how: Success::Built };

fn by_number(evaluation: EvaluationId) -> Selector {
    Selector::Evaluation(evaluation)
}

async fn status(socket: &Path, evaluation: EvaluationId) -> EvaluationSummary {
    let which = by_number(evaluation);
    ask(&mut connect(socket).await, &Request::Status { which }).await
}

async fn restart(socket: &Path, what: Target) -> u64 {
    let changed: Changed = ask(&mut connect(socket).await, &Request::Restart { what }).await;
    changed.builds
}

async fn cancel(socket: &Path, what: Target) -> u64 {
    let changed: Changed = ask(&mut connect(socket).await, &Request::Cancel { what }).await;
    changed.builds
}

async fn detail(socket: &Path, drv: &str) -> BuildDetail {
    let drv_path = drv.to_owned();
    ask(&mut connect(socket).await, &Request::Build { drv_path }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_evaluation_stops_and_a_restarted_one_goes_on() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let daemon = daemon(home.path(), &store, 2).await;
    let gate = store.gate("slow");
    let drvs = evaluator.instantiate(
        "cancel",
        &[
            TestDrv::good("slow").gate("slow"),
            TestDrv::good("after").needs(&["slow"]),
        ],
    );
    let mut client = connect(&daemon.socket).await;
    let evaluation = submit(&mut client, &evaluator, "cancel", &drvs).await;
    gate.started().await;
    assert_eq!(
        cancel(&daemon.socket, Target::Evaluation(by_number(evaluation))).await,
        2
    );
    let watched = watch(&mut client, evaluation).await;
    assert_eq!(watched.outcomes["after"], Outcome::Cancelled);
    assert_eq!(watched.outcomes["slow"], Outcome::Cancelled);
    assert_eq!(
        status(&daemon.socket, evaluation).await.state,
        EvaluationState::Cancelled
    );
    assert_eq!(
        cancel(&daemon.socket, Target::Evaluation(by_number(evaluation))).await,
        0,
        "nothing is left"
    );

    assert!(restart(&daemon.socket, Target::Evaluation(by_number(evaluation))).await > 0);
    gate.open();
    let watched = watch(&mut client, evaluation).await;
    assert_eq!(watched.outcomes["slow"], BUILT);
    assert_eq!(watched.outcomes["after"], BUILT);
    drop(client);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_daemon_comes_back_to_the_same_queue() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let first = daemon(home.path(), &store, 1).await;
    let gate = store.gate("stop");
    let drvs = evaluator.instantiate(
        "stop",
        &[
            TestDrv::good("held").gate("stop"),
            TestDrv::good("after").needs(&["held"]),
        ],
    );
    let mut client = connect(&first.socket).await;
    let evaluation = submit(&mut client, &evaluator, "stop", &drvs).await;
    gate.started().await;
    // A client that watches does not hold up the stop.
    let mut onlooker = connect(&first.socket).await;
    let watching = tokio::spawn(async move { common::try_watch(&mut onlooker, evaluation).await });
    first.stop().await;
    assert!(
        !matches!(watching.await.unwrap(), Ok(Some(_))),
        "there was no verdict yet"
    );

    let second = daemon(home.path(), &store, 1).await;
    let mut client = connect(&second.socket).await;
    gate.open();
    let watched = watch(&mut client, evaluation).await;
    assert_eq!(watched.outcomes["held"], BUILT);
    assert_eq!(watched.outcomes["after"], BUILT);
    let tries = detail(&second.socket, &drvs["held"]).await.attempts;
    assert_eq!(tries.len(), 2, "{tries:?}");
    assert_eq!(
        tries[1].outcome,
        Outcome::Failed {
            class: FailureClass::Store
        }
    );
    drop(client);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_is_followed_while_it_is_printed() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let daemon = daemon(home.path(), &store, 1).await;
    let gate = store.gate("log");
    let drvs = evaluator.instantiate(
        "log",
        &[TestDrv::good("chatty")
            .script("echo before the gate")
            .gate("log")
            .script("echo behind the gate")],
    );
    let mut client = connect(&daemon.socket).await;
    let evaluation = submit(&mut client, &evaluator, "log", &drvs).await;
    gate.started().await;
    let request = Request::Log {
        of: LogOf::Job {
            which: by_number(evaluation),
            attr: "chatty".parse().unwrap(),
        },
        follow: true,
    };
    let json = serde_json::to_string(&request).unwrap();
    let mut stream = client.control_stream(&json).await.unwrap();
    let mut lines = Vec::new();
    let mut end = None;
    while let Some(line) = stream.next_line().await.unwrap() {
        match serde_json::from_str(&line).unwrap() {
            LogEvent::Line { text } => {
                if text == "before the gate" {
                    // The line came while the builder waits: only now may it go on.
                    gate.open();
                }
                lines.push(text);
            }
            LogEvent::End { outcome } => end = Some(outcome),
            LogEvent::Attempt { .. } | LogEvent::Phase { .. } => {}
        }
    }
    assert!(lines.iter().any(|line| line == "behind the gate"), "{lines:?}");
    assert_eq!(end, Some(BUILT));
    drop(client);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_are_remembered_until_they_are_restarted_and_nothing_is_built_twice() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let daemon = daemon(home.path(), &store, 2).await;
    let drvs = evaluator.instantiate(
        "remember",
        &[
            TestDrv::good("good"),
            TestDrv::failing("bad"),
            TestDrv::good("above").needs(&["bad"]),
        ],
    );
    let mut client = connect(&daemon.socket).await;
    for key in ["first", "second"] {
        let evaluation = submit(&mut client, &evaluator, key, &drvs).await;
        let watched = watch(&mut client, evaluation).await;
        let by = vec![drvs["bad"].clone()];
        assert_eq!(watched.outcomes["above"], Outcome::Blocked { by }, "{key}");
        assert_eq!(
            watched.outcomes["bad"],
            Outcome::Failed {
                class: FailureClass::Build
            },
            "{key}"
        );
        assert!(matches!(watched.outcomes["good"], Outcome::Succeeded { .. }), "{key}");
    }
    assert_eq!(detail(&daemon.socket, &drvs["bad"]).await.attempts.len(), 1);
    assert_eq!(detail(&daemon.socket, &drvs["good"]).await.attempts.len(), 1);
    assert_eq!(
        restart(&daemon.socket, Target::Derivation(drvs["good"].clone())).await,
        0
    );
    assert_eq!(
        restart(&daemon.socket, Target::Derivation(drvs["bad"].clone())).await,
        1
    );
    let latest = Request::Watch {
        which: Selector::Latest { project: None },
    };
    let json = serde_json::to_string(&latest).unwrap();
    let mut stream = client.control_stream(&json).await.unwrap();
    let mut done = false;
    while let Some(line) = stream.next_line().await.unwrap() {
        done |= matches!(serde_json::from_str(&line).unwrap(), Event::Done { .. });
    }
    assert!(done);
    assert_eq!(detail(&daemon.socket, &drvs["bad"]).await.attempts.len(), 2);
    let (lines, _) = log(&mut client, LogOf::Derivation(drvs["bad"].clone()), false).await;
    assert!(
        lines.iter().any(|line| line.contains("bad does not compile")),
        "{lines:?}"
    );
    let stores: Vec<StoreStatus> = ask(&mut client, &Request::Stores).await;
    assert_eq!(stores[0].error, None);
    assert_eq!(stores[0].protocol.as_deref(), Some("1.38"));
    drop(client);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_evaluation_whose_client_does_not_return_is_given_up() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 1);
    config.limits.abandon_after = Duration::from_millis(200);
    let daemon = start(config).await.unwrap();
    let mut client = connect(&daemon.socket).await;
    let mut other = connect(&daemon.socket).await;
    let begun: Begun = ask(&mut client, &Request::SubmitBegin(submission("gone"))).await;
    drop(client);
    let watched = watch(&mut other, begun.evaluation).await;
    assert!(watched.outcomes.is_empty());
    let state = status(&daemon.socket, begun.evaluation).await.state;
    assert_eq!(state, EvaluationState::Abandoned);
    drop(other);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_said_twice_is_one() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let daemon = daemon(home.path(), &store, 1).await;
    let drvs = evaluator.instantiate("twice", &[TestDrv::good("one"), TestDrv::good("two")]);
    let body = body_for(&evaluator, drvs.values()).await;
    let mut client = connect(&daemon.socket).await;
    let first = try_submit(&mut client, &body, "same", &drvs).await.unwrap();
    let again = try_submit(&mut client, &body, "same", &drvs).await.unwrap();
    assert_eq!(first, again);
    let watched = watch(&mut client, first).await;
    assert_eq!(watched.outcomes.len(), 2);
    assert!(watched.progress > 0);
    let all: Vec<EvaluationSummary> = ask(
        &mut client,
        &Request::Evaluations {
            project: None,
            limit: 10,
        },
    )
    .await;
    assert_eq!(all.len(), 1);
    drop(client);
    daemon.stop().await;
}
