//! Collections of the spool beside everything else that goes on.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{ask, body_for, closure, config, connect, connect_stock, packed, submission, try_ask, watch};
use nixci_daemon::{CiError, Config, Principal, Running, start};
use nixci_protocol::client::Connection;
use nixci_protocol::nixci::control::{
    Begun, Collected, Evaluated, EvaluationId, EvaluationSummary, NewJob, Request, Selector,
};
use nixci_protocol::nixci::outcome::{Outcome, Success};
use nixci_protocol::nixci::{AddClosure, QueryValidBatch};
use nixci_protocol::types::{PathInfo, StoreDir, StorePath};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};

/// Nothing is protected by its age.
fn eager(folder: &Path, store: &TestDaemon) -> Config {
    let mut config = config(folder, store, 2);
    config.retention.uploads = Duration::ZERO;
    config
}

async fn gc(client: &mut Connection) -> Collected {
    ask(client, &Request::CollectGarbage { dry_run: false }).await
}

async fn infos(evaluator: &TestDaemon, drvs: &BTreeMap<String, String>) -> Vec<PathInfo> {
    let dir = StoreDir::default();
    let roots: Vec<StorePath> = drvs.values().map(|drv| dir.parse(drv).unwrap()).collect();
    closure(&mut connect_stock(evaluator).await, &roots).await
}

async fn missing(client: &mut Connection, of: &[PathInfo]) -> Vec<PathInfo> {
    let question = QueryValidBatch::of(of.iter().map(|info| &info.path));
    let valid = client.call(&question, &mut ()).await.unwrap();
    let missing = of.iter().enumerate().filter(|(nth, _)| !valid.get(*nth));
    missing.map(|(_, info)| info.clone()).collect()
}

/// Sends what the daemon says it lacks, and nothing else.
async fn upload(client: &mut Connection, evaluator: &TestDaemon, closure: &[PathInfo]) {
    let missing = missing(client, closure).await;
    let body = packed(&mut connect_stock(evaluator).await, &missing).await;
    client.call_framed(&AddClosure {}, &body[..], &mut ()).await.unwrap();
}

async fn submit(client: &mut Connection, key: &str, drvs: &BTreeMap<String, String>) -> EvaluationId {
    let begun: Begun = ask(client, &Request::SubmitBegin(submission(key))).await;
    let evaluation = begun.evaluation;
    let jobs = drvs.iter().map(|(attr, drv)| NewJob {
        attr: attr.parse().unwrap(),
        result: Evaluated::Drv(drv.clone()),
    });
    let jobs = jobs.collect();
    let _: serde_json::Value = ask(client, &Request::SubmitJobs { evaluation, jobs }).await;
    let error = None;
    let _: EvaluationSummary = ask(client, &Request::SubmitEnd { evaluation, error }).await;
    evaluation
}

/// How many files are in a folder and those in it.
fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

/// Collects until nothing but so many objects is left, as connections end a little after their clients.
async fn collect_down_to(client: &mut Connection, left: usize) {
    for _ in 0..3_000 {
        let collected = gc(client).await;
        let now = collected.objects_before - collected.objects;
        assert!(now >= left as u64, "{now} of {left} are left");
        if now == left as u64 {
            return;
        }
    }
    panic!("what nobody needs does not go");
}

async fn running(config: Config) -> Running {
    start(config).await.expect("the daemon starts")
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_upload_meanwhile_lose_nothing() {
    const ROUNDS: usize = 4;
    let store = TestDaemon::start(NixVersion::V2_34);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = running(eager(home.path(), &store)).await;
    let chain = [
        TestDrv::good("base"),
        TestDrv::good("left").needs(&["base"]),
        TestDrv::good("right").needs(&["base"]),
        TestDrv::good("top").needs(&["left", "right"]),
    ];
    // Both clients submit the even rounds, and send the odd ones without submitting them.
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let drvs = evaluator.instantiate(&format!("round-{round}"), &chain);
        let infos = infos(&evaluator, &drvs).await;
        rounds.push((drvs, infos));
    }
    let over = AtomicBool::new(false);
    let collecting = async {
        let mut client = connect(&daemon.socket).await;
        let (mut runs, mut objects) = (0, 0);
        while !over.load(Ordering::SeqCst) {
            objects += gc(&mut client).await.objects;
            runs += 1;
        }
        (runs, objects)
    };
    let client = async |name: &str| {
        for (round, (drvs, infos)) in rounds.iter().enumerate() {
            let mut client = connect(&daemon.socket).await;
            upload(&mut client, &evaluator, infos).await;
            assert_eq!(missing(&mut client, infos).await, [], "{name}, round {round}");
            if round % 2 == 0 {
                let evaluation = submit(&mut client, &format!("{name}-{round}"), drvs).await;
                let watched = watch(&mut client, evaluation).await;
                assert_eq!(watched.outcomes.len(), drvs.len());
                for (job, outcome) in &watched.outcomes {
                    let is_fine = matches!(
                        outcome,
                        Outcome::Succeeded {
                            how: Success::Built | Success::AlreadyValid
                        }
                    );
                    assert!(is_fine, "{name}, round {round}: {job} {outcome:?}");
                }
            }
            assert_eq!(missing(&mut client, infos).await, [], "{name}, round {round}");
        }
    };
    let clients = async {
        tokio::join!(client("first"), client("second"));
        over.store(true, Ordering::SeqCst);
    };
    let ((runs, _), ()) = tokio::join!(collecting, clients);
    assert!(runs > ROUNDS, "{runs} collections");
    let submitted = rounds.iter().step_by(2).flat_map(|(_, infos)| infos);
    let submitted: BTreeSet<&StorePath> = submitted.map(|info| &info.path).collect();
    let mut client = connect(&daemon.socket).await;
    collect_down_to(&mut client, submitted.len()).await;
    for (round, (_, infos)) in rounds.iter().enumerate() {
        let is_whole = missing(&mut client, infos).await.is_empty();
        assert_eq!(is_whole, round % 2 == 0, "round {round}");
    }
    drop(client);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_was_told_stays_until_it_leaves() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = running(eager(home.path(), &store)).await;
    let drvs = evaluator.instantiate("leave", &[TestDrv::good("one"), TestDrv::good("two").needs(&["one"])]);
    let infos = infos(&evaluator, &drvs).await;
    let mut admin = connect(&daemon.socket).await;
    let mut sender = connect(&daemon.socket).await;
    upload(&mut sender, &evaluator, &infos).await;
    let mut asker = connect(&daemon.socket).await;
    // Only about the top: what it needs stays with it.
    let top = infos.last().unwrap();
    assert_eq!(missing(&mut asker, std::slice::from_ref(top)).await, []);
    drop(sender);
    for _ in 0..50 {
        gc(&mut admin).await;
    }
    let whole = closure(&mut connect_stock(&evaluator).await, std::slice::from_ref(&top.path)).await;
    collect_down_to(&mut admin, whole.len()).await;
    let dry: Collected = ask(&mut admin, &Request::CollectGarbage { dry_run: true }).await;
    assert_eq!((dry.objects, dry.objects_before), (0, whole.len() as u64));
    // It may still submit what it was told is there.
    let job = drvs
        .into_iter()
        .filter(|(_, drv)| drv.ends_with(top.path.name()))
        .collect();
    let evaluation = submit(&mut asker, "told", &job).await;
    watch(&mut asker, evaluation).await;
    drop(asker);
    for _ in 0..50 {
        gc(&mut admin).await;
    }
    assert_eq!(missing(&mut admin, &whole).await, [], "the evaluation needs it");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_vanishes_after_negotiating_leaves_no_lease() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = running(eager(home.path(), &store)).await;
    let drvs = evaluator.instantiate("vanish", &[TestDrv::good("one")]);
    let infos = infos(&evaluator, &drvs).await;
    let mut admin = connect(&daemon.socket).await;
    for _ in 0..3 {
        let mut client = connect(&daemon.socket).await;
        upload(&mut client, &evaluator, &infos).await;
        assert_eq!(missing(&mut client, &infos).await, []);
        let kept = gc(&mut admin).await;
        assert_eq!((kept.objects, kept.objects_before), (0, infos.len() as u64));
        drop(client);
        collect_down_to(&mut admin, 0).await;
    }
    // What is gone is not taken as a job, although the graph remembers it.
    let begun: Begun = ask(&mut admin, &Request::SubmitBegin(submission("gone"))).await;
    let jobs = Request::SubmitJobs {
        evaluation: begun.evaluation,
        jobs: vec![NewJob {
            attr: "one".parse().unwrap(),
            result: Evaluated::Drv(drvs["one"].clone()),
        }],
    };
    let refused = try_ask::<serde_json::Value>(&mut admin, &jobs)
        .await
        .unwrap_err()
        .to_string();
    assert!(refused.contains("not here; upload the derivations"), "{refused}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn old_evaluations_are_forgotten_with_their_logs_and_uploads() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let mut config = eager(home.path(), &store);
    config.retention.evaluations = Duration::ZERO;
    config.retention.newest = 1;
    let logs = config.state_dir.join("logs");
    let daemon = running(config).await;
    let mut ids = Vec::new();
    for salt in ["older", "newer"] {
        let drvs = evaluator.instantiate(salt, &[TestDrv::good("said").script("echo something")]);
        let mut client = connect(&daemon.socket).await;
        let body = body_for(&evaluator, drvs.values()).await;
        client.call_framed(&AddClosure {}, &body[..], &mut ()).await.unwrap();
        let evaluation = submit(&mut client, salt, &drvs).await;
        watch(&mut client, evaluation).await;
        ids.push(evaluation);
    }
    let count = || files(&logs);
    assert_eq!(count(), 2);
    let mut admin = connect(&daemon.socket).await;
    let dry: Collected = ask(&mut admin, &Request::CollectGarbage { dry_run: true }).await;
    assert_eq!((dry.evaluations, count()), (1, 2));
    let collected = gc(&mut admin).await;
    assert_eq!((collected.evaluations, collected.attempts), (1, 1));
    assert!(collected.log_bytes > 0 && count() == 1, "{collected:?}");
    let status = |id| Request::Status {
        which: Selector::Evaluation(id),
    };
    let gone = try_ask::<EvaluationSummary>(&mut admin, &status(ids[0])).await;
    assert!(gone.is_err(), "{gone:?}");
    let kept: EvaluationSummary = ask(&mut admin, &status(ids[1])).await;
    assert_eq!(kept.counts.succeeded, 1);
    assert_eq!(gc(&mut admin).await.attempts, 0);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_trusted_may_collect() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = running(eager(home.path(), &store)).await;
    let refused = daemon.ci.collect_garbage(&Principal::local(4_711, false), true).await;
    let error = refused.unwrap_err();
    assert!(matches!(error, CiError::NotAllowed(_)), "{error:?}");
    assert!(error.to_string().contains("`trusted_users`"), "{error}");
    let allowed = daemon.ci.collect_garbage(&Principal::local(0, true), true).await;
    assert_eq!(allowed.unwrap().objects, 0);
    daemon.stop().await;
}
