//! Buttons on check runs: run again, run all again, cancel.

use std::path::Path;

use nixci_protocol::nixci::AddClosure;
use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{
    Begun, BuildDetail, Evaluated, EvaluationId, EvaluationState, EvaluationSummary, NewJob, Request, Submission,
};
use nixci_protocol::nixci::report::{StatusContent, StatusRole, StatusState};
use nixci_store::index::Index;
use nixci_store::index::statuses::{self, StatusId, StatusKey, Want, Wanted};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, poll_until};
use serde_json::{Value, json};

use crate::common::{ask, body_for, connect, submission, watch};
use crate::world::{APP, World, count, index};

fn sha(digit: char) -> String {
    digit.to_string().repeat(40)
}

/// A status as the daemon would have shown it: sent, as check run `remote`, in red.
async fn shown(state: &Path, evaluation: EvaluationId, commit: &str, attr: Option<&str>, remote: u64) -> StatusId {
    let attr: Option<AttrPath> = attr.map(|attr| attr.parse().unwrap());
    let wanted = Wanted {
        key: StatusKey {
            forge: "github".to_owned(),
            repository: "o/n".to_owned(),
            commit: commit.to_owned(),
            context: format!("by hand {remote}"),
        },
        evaluation,
        role: if attr.is_some() {
            StatusRole::Job
        } else {
            StatusRole::Summary
        },
        attr,
        content: StatusContent {
            state: StatusState::Failure,
            description: "it failed".to_owned(),
            summary: String::new(),
            text: String::new(),
            url: None,
            annotations: Vec::new(),
            started: None,
            ended: None,
        },
    };
    let index = Index::open(&state.join("index.db")).unwrap();
    let wanted = index.write(move |tx| statuses::want(tx, &wanted, 1)).await.unwrap();
    let Want::Changed(id) = wanted else {
        panic!("it is new: {wanted:?}")
    };
    index.close().await;
    self::index(state)
        .execute(
            "UPDATE status SET sent_seq = seq, sent_state = 'failure', remote_id = ?2 WHERE id = ?1",
            rusqlite::params![id.0, remote.to_string()],
        )
        .unwrap();
    id
}

/// Whether a status is to be sent as a new one.
fn is_renewed(state: &Path, id: StatusId) -> bool {
    let find = "SELECT sent_seq IS NOT seq AND remote_id IS NULL FROM status WHERE id = ?1";
    index(state).query_row(find, [id.0], |row| row.get(0)).unwrap()
}

fn check_run(action: &str, button: Option<&str>, external_id: &str, remote: u64, head: &str) -> Value {
    json!({
        "action": action,
        "requested_action": button.map(|identifier| json!({"identifier": identifier})),
        "check_run": {"id": remote, "head_sha": head, "external_id": external_id, "app": {"id": APP}},
        "repository": {"id": 3, "full_name": "o/n"},
        "installation": {"id": 1},
    })
}

/// Two jobs that fail, each in a derivation of its own.
async fn submitted(world: &World, evaluator: &TestDaemon) -> (EvaluationId, String, String) {
    let drvs = evaluator.instantiate("checks", &[TestDrv::failing("one"), TestDrv::failing("two")]);
    let mut client = connect(&world.daemon.socket).await;
    let body = body_for(evaluator, drvs.values()).await;
    client.call_framed(&AddClosure {}, &body[..], &mut ()).await.unwrap();
    let begin = Request::SubmitBegin(Submission {
        project: "o/n".to_owned(),
        commit: Some(sha('a')),
        ..submission("checks")
    });
    let Begun { evaluation, .. } = ask(&mut client, &begin).await;
    let jobs = drvs.iter().map(|(attr, drv)| NewJob {
        attr: attr.parse().unwrap(),
        result: Evaluated::Drv(drv.clone()),
    });
    let jobs = Request::SubmitJobs {
        evaluation,
        jobs: jobs.collect(),
    };
    let _: Value = ask(&mut client, &jobs).await;
    let end = Request::SubmitEnd {
        evaluation,
        error: None,
    };
    let _: EvaluationSummary = ask(&mut client, &end).await;
    watch(&mut client, evaluation).await;
    (evaluation, drvs["one"].clone(), drvs["two"].clone())
}

async fn attempts(world: &World, drv: &str) -> usize {
    let drv_path = drv.to_owned();
    let detail: BuildDetail = ask(&mut connect(&world.daemon.socket).await, &Request::Build { drv_path }).await;
    detail.attempts.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn buttons_restart_what_they_are_of_and_nothing_of_others() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let world = World::with(&store.uri(), |_| {}).await;
    let state = world.state();
    let (evaluation, one, two) = submitted(&world, &evaluator).await;
    let ended = async || {
        let mut client = connect(&world.daemon.socket).await;
        watch(&mut client, evaluation).await;
    };
    let of_one = shown(&state, evaluation, &sha('a'), Some("one"), 501).await;
    let of_two = shown(&state, evaluation, &sha('a'), Some("two"), 502).await;
    let summary = shown(&state, evaluation, &sha('a'), None, 500).await;
    let name = |id: StatusId| format!("nixci-{}", id.0);

    // Nothing of this is about a check run of ours in this repository.
    let forged = [
        check_run("rerequested", None, "nixci-999999", 77, &sha('a')),
        check_run("rerequested", None, "nixci--1", 77, &sha('a')),
        check_run("rerequested", None, "nixci-", 77, &sha('a')),
        check_run("rerequested", None, "' OR 1=1; --", 77, &sha('a')),
        check_run("rerequested", None, &name(of_one), 501, &sha('b')),
        check_run("requested_action", Some("fix"), &name(of_one), 501, &sha('a')),
        check_run("requested_action", Some("cancel"), &name(of_one), 501, &sha('a')),
    ];
    let mut forged = Vec::from(forged);
    for (path, value) in [
        ("/repository/full_name", json!("evil/n")),
        ("/check_run/app/id", json!(APP + 1)),
        ("/check_run/app", Value::Null),
    ] {
        let mut body = check_run("rerequested", None, &name(of_one), 501, &sha('a'));
        *body.pointer_mut(path).unwrap() = value;
        forged.push(body);
    }
    for (nth, body) in forged.iter().enumerate() {
        let (outcome, text) = world.told("check_run", &format!("forged-{nth}"), body).await;
        assert_eq!(outcome, "ignored", "{body}: {text}");
    }
    assert_eq!((attempts(&world, &one).await, attempts(&world, &two).await), (1, 1));
    assert!(![of_one, of_two, summary].iter().any(|id| is_renewed(&state, *id)));

    // By our own name of it: that job alone.
    let body = check_run("rerequested", None, &name(of_one), 501, &sha('a'));
    let (outcome, text) = world.told("check_run", "r1", &body).await;
    assert_eq!(outcome, "handled", "{text}");
    ended().await;
    assert_eq!((attempts(&world, &one).await, attempts(&world, &two).await), (2, 1));
    assert_eq!(
        [of_one, of_two, summary].map(|id| is_renewed(&state, id)),
        [true, false, false]
    );

    // By the forge's number of it.
    let body = check_run("requested_action", Some("rerun"), "", 502, &sha('a'));
    assert_eq!(world.told("check_run", "r2", &body).await.0, "handled");
    ended().await;
    assert_eq!((attempts(&world, &one).await, attempts(&world, &two).await), (2, 2));
    assert!(is_renewed(&state, of_two));

    // Of the summary: all of it.
    let body = check_run("rerequested", None, &name(summary), 500, &sha('a'));
    assert_eq!(world.told("check_run", "r3", &body).await.0, "handled");
    ended().await;
    assert_eq!((attempts(&world, &one).await, attempts(&world, &two).await), (3, 3));
    assert!(is_renewed(&state, summary));

    let suite = |head: &str, app: u64, repository: &str| {
        json!({
            "action": "rerequested",
            "check_suite": {"id": 1, "head_sha": head, "app": {"id": app}},
            "repository": {"id": 3, "full_name": repository},
        })
    };
    for (nth, body) in [
        suite(&sha('b'), APP, "o/n"),
        suite(&sha('a'), APP + 1, "o/n"),
        suite(&sha('a'), APP, "evil/n"),
    ]
    .iter()
    .enumerate()
    {
        assert_eq!(
            world.told("check_suite", &format!("suite-{nth}"), body).await.0,
            "ignored"
        );
    }
    let (outcome, text) = world.told("check_suite", "r4", &suite(&sha('a'), APP, "o/n")).await;
    assert_eq!(outcome, "handled", "{text}");
    ended().await;
    assert_eq!((attempts(&world, &one).await, attempts(&world, &two).await), (4, 4));
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_summary_cancels_and_new_rights_open_refused_repositories() {
    let world = World::start().await;
    let state = world.state();
    let evaluation = world.evaluation("o/n", &sha('a'), None).await;
    let summary = shown(&state, evaluation, &sha('a'), None, 500).await;
    let job = shown(&state, evaluation, &sha('a'), Some("one"), 501).await;
    let cancel = |id: StatusId, remote| {
        check_run(
            "requested_action",
            Some("cancel"),
            &format!("nixci-{}", id.0),
            remote,
            &sha('a'),
        )
    };
    assert_eq!(world.told("check_run", "1", &cancel(job, 501)).await.0, "ignored");
    assert_eq!(world.state_of(evaluation).await, EvaluationState::Receiving);
    assert_eq!(world.told("check_run", "2", &cancel(summary, 500)).await.0, "handled");
    assert_eq!(world.state_of(evaluation).await, EvaluationState::Cancelled);

    index(&state)
        .execute_batch(
            "INSERT INTO refused_repository (forge, repository, reason, since, settings)
             VALUES ('github', 'O/n', '403', 1, ''), ('github', 'o2/n', '403', 1, ''), ('gitea', 'o/n', '403', 1, '')",
        )
        .unwrap();
    let installation = |action: &str, app: u64| json!({"action": action, "installation": {"id": 1, "app_id": app, "account": {"login": "o"}}});
    let refused = |of: &str| {
        count(
            &state,
            &format!("refused_repository WHERE forge || ':' || repository = '{of}'"),
        )
    };
    for (nth, body) in [installation("created", APP + 1), installation("deleted", APP)]
        .iter()
        .enumerate()
    {
        assert_eq!(world.told("installation", &format!("i{nth}"), body).await.0, "ignored");
    }
    assert_eq!(refused("github:O/n"), 1);
    let body = installation("new_permissions_accepted", APP);
    assert_eq!(world.told("installation", "i3", &body).await.0, "handled");
    poll_until("the refusal to be forgotten", || {
        (refused("github:O/n") == 0).then_some(())
    });
    assert_eq!(
        (refused("github:o2/n"), refused("gitea:o/n")),
        (1, 1),
        "those are others'"
    );
    world.daemon.stop().await;
}
