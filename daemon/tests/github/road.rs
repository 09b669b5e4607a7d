//! The whole road: a submission to a real daemon, built on a real store, seen on an emulated GitHub.

use std::collections::BTreeMap;
use std::time::Duration;

use nixci_daemon::config::{Config, ContextNames, Detail, Project};
use nixci_daemon::start;
use nixci_protocol::nixci::control::{Changed, Request, Selector, Submission, Target};
use nixci_protocol::nixci::report::StatusReport;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, until};
use serde_json::Value;

use crate::common::{self, ask, connect};
use crate::world::{REPOSITORY, World, app, forge, secret};

/// How long GitHub may take to show what became of a build that has ended.
const CONCLUDES: Duration = Duration::from_secs(10);

fn config(world: &World, store: &TestDaemon) -> Config {
    let key = secret(world.home.path(), "road.pem", &world.keys.pkcs1);
    let mut config = Config::in_folder(world.home.path(), &store.uri(), 2);
    config.listen.url = Some("https://ci.example.org".to_owned());
    config.forges = vec![forge(&world.peer.url(), app(key))];
    config.projects = vec![Project {
        name: "acme/*".to_owned(),
        forge: Some("github".to_owned()),
        repository: None,
        repository_id: None,
        notify: Vec::new(),
        detail: Detail::Adaptive,
        details: 47,
        comment: false,
        contexts: ContextNames::default(),
    }];
    config
}

fn of<'r>(runs: &'r [Value], name: &str) -> Option<&'r Value> {
    // The newest of a name counts.
    let found = runs.iter().filter(|run| run["name"] == name);
    found.max_by_key(|run| run["id"].as_u64())
}

/// Waits until the newest run of a name is so; the runs of that time.
async fn shows(world: &World, name: &str, what: &str) -> Vec<Value> {
    until(&format!("{name} to be {what}"), CONCLUDES, async || {
        let runs = world.runs().await;
        let is_so = of(&runs, name).is_some_and(|run| run["status"] == what || run["conclusion"] == what);
        is_so.then_some(runs)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_submission_ends_on_its_commit() {
    let world = World::start().await;
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let daemon = start(config(&world, &store)).await.unwrap();
    let gate = store.gate("flaky");
    let drvs = evaluator.instantiate(
        "road",
        &[
            TestDrv::good("fine"),
            TestDrv::failing("broken"),
            TestDrv::good("above").needs(&["broken"]),
            TestDrv::good("slow").gate("flaky"),
        ],
    );
    let mut client = connect(&daemon.socket).await;
    let submission = Submission {
        project: REPOSITORY.to_owned(),
        commit: Some(world.commit.clone()),
        source: ".#checks".to_owned(),
        ..common::submission("road")
    };
    let body = common::body_for(&evaluator, drvs.values()).await;
    let evaluation = common::try_submit_as(&mut client, &body, submission, &drvs)
        .await
        .unwrap();
    gate.started().await;
    let runs = shows(&world, "nixci", "in_progress").await;
    assert_eq!(of(&runs, "nixci").unwrap()["external_id"], "nixci-1");
    // What is final is shown while the rest is being built, in one write.
    let runs = shows(&world, "nixci/above", "failure").await;
    let above = of(&runs, "nixci/above").unwrap();
    let title = above["output"]["title"].as_str().unwrap();
    assert!(title.contains("blocked by") && title.contains("broken"), "{title}");
    let summary = above["output"]["summary"].as_str().unwrap();
    assert!(summary.contains("error: broken does not compile"), "{summary}");
    assert!(
        above["details_url"]
            .as_str()
            .unwrap()
            .starts_with("https://ci.example.org/b/")
    );
    gate.open();
    let runs = shows(&world, "nixci", "failure").await;
    let expected = [
        ("nixci", "failure"),
        ("nixci/evaluation", "success"),
        ("nixci/above", "failure"),
        ("nixci/broken", "failure"),
        ("nixci/fine", "success"),
        ("nixci/slow", "success"),
    ];
    let shown: BTreeMap<&str, &str> = runs
        .iter()
        .map(|run| {
            (
                run["name"].as_str().unwrap(),
                run["conclusion"].as_str().unwrap_or("open"),
            )
        })
        .collect();
    assert_eq!(shown, expected.into_iter().collect());
    assert_eq!(runs.len(), expected.len(), "nothing is there twice");

    let which = Selector::Evaluation(evaluation);
    let reports: Vec<StatusReport> = ask(&mut client, &Request::Report { which, again: false }).await;
    assert!(
        reports.iter().all(|report| report.is_sent && !report.is_refused),
        "{reports:?}"
    );
    let jobs = reports.iter().filter(|report| report.attr.is_some());
    let writes: u64 = jobs.clone().map(|report| report.writes).sum();
    assert_eq!(writes, jobs.count() as u64, "one write for each job that is shown");

    // Built again: what was red is said to be built, and is red again in the end.
    let restarted: Changed = ask(
        &mut client,
        &Request::Restart {
            what: Target::Evaluation(Selector::Evaluation(evaluation)),
        },
    )
    .await;
    assert_eq!(restarted.builds, 1);
    shows(&world, "nixci", "failure").await;
    daemon.stop().await;
}
