//! Tokens that are made, used and revoked while a daemon runs.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use nixci_protocol::client::{self, Connection};
use nixci_protocol::nixci::control::{
    Begun, EvaluationSummary, Info, ProjectSummary, Request, Selector, Submission, Target,
};
use nixci_protocol::op;
use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv};

use crate::common;
use crate::upgrade::{bearer, connect, turned};

const DAEMON: &str = env!("CARGO_BIN_EXE_nixci-daemon");

fn token(service: &Service, arguments: &[&str]) -> Output {
    Command::new(DAEMON)
        .arg("token")
        .args(arguments)
        .arg("--config")
        .arg(service.config())
        .output()
        .unwrap()
}

fn create(service: &Service, arguments: &[&str]) -> String {
    let made = token(service, &[&["create"], arguments].concat());
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

fn service(store: &TestDaemon) -> Service {
    let stores = format!("[[store]]\nname = \"s\"\nuri = {:?}\nslots = 1\n", store.uri());
    Service::with_config(Path::new(DAEMON), &stores)
}

fn of(project: &str, key: &str) -> Request {
    Request::SubmitBegin(Submission {
        project: project.to_owned(),
        ..common::submission(key)
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_from_when_it_is_made_until_it_is_revoked() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let service = service(&store);
    let made = create(&service, &["--name", "runner", "--right", "submit", "--expires", "90d"]);
    let again = token(&service, &["create", "--name", "runner", "--right", "read"]);
    let said = String::from_utf8_lossy(&again.stderr).into_owned();
    assert!(!again.status.success() && said.contains("`runner`"), "{said}");
    let wrong = token(&service, &["create", "--name", "x", "--right", "delete"]);
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("`delete` is no right"));
    drop(connect(service.http(), &made).await.unwrap());
    let listed = String::from_utf8(token(&service, &["list", "--json"]).stdout).unwrap();
    let rows: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!(rows[0]["name"], "runner");
    assert!(rows[0]["used"].is_i64() && rows[0]["expires"].is_i64(), "{listed}");
    assert!(!listed.contains(&made));
    assert!(token(&service, &["revoke", "runner"]).status.success());
    let said = turned(service.http(), &bearer(&made)).await;
    assert_eq!(said.status, 401, "{said:?}");
    assert!(!token(&service, &["revoke", "runner"]).status.success());
    let log = service.log();
    assert!(!log.contains(&made), "{log}");
}

/// Asks until the connection is ended, which is within moments, and says why that is.
async fn ended(connection: &mut Connection) -> String {
    let asking = async {
        loop {
            match common::try_ask::<Info>(connection, &Request::Info).await {
                Ok(_) => tokio::task::yield_now().await,
                Err(error) => return error.to_string(),
            }
        }
    };
    let why = tokio::time::timeout(Duration::from_secs(20), asking).await;
    let why = why.unwrap();
    let after = common::try_ask::<Info>(connection, &Request::Info).await;
    assert!(
        !matches!(after, Err(client::Error::Remote(_))),
        "it is closed: {after:?}"
    );
    after.unwrap_err();
    why
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_counts_no_more_ends_its_connections() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let service = service(&store);
    let http = service.http();
    let right = ["--right", "submit", "--project", "o/*"];
    let make = |name, more: &[&str]| create(&service, &[&["--name", name], &right[..], more].concat());
    let mut kept = connect(http, &make("kept", &[])).await.unwrap();
    let mut revoked = connect(http, &make("revoked", &[])).await.unwrap();
    let mut expires = connect(http, &make("expires", &["--expires", "1d"])).await.unwrap();
    let mut changed = connect(http, &make("changed", &[])).await.unwrap();
    let begun: Begun = common::ask(&mut revoked, &of("o/r", "k")).await;

    assert!(token(&service, &["revoke", "revoked"]).status.success());
    let index = rusqlite::Connection::open(service.config().with_file_name("state/index.db")).unwrap();
    index.busy_timeout(Duration::from_secs(20)).unwrap();
    let narrow = r#"UPDATE token SET projects = '["p/*"]' WHERE name = 'changed'"#;
    let past = "UPDATE token SET expires = 1000 WHERE name = 'expires'";
    for change in [narrow, past] {
        assert_eq!(index.execute(change, []).unwrap(), 1);
    }
    for (connection, words) in [
        (&mut revoked, "its token was revoked"),
        (&mut expires, "this token has expired"),
        (&mut changed, "what its token is good for has changed"),
    ] {
        let why = ended(connection).await;
        assert!(why.contains("this connection is ended") && why.contains(words), "{why}");
        assert!(!why.contains('\n'), "one line: {why}");
    }
    // Others go on, also with what was begun.
    let end = Request::SubmitEnd {
        evaluation: begun.evaluation,
        error: None,
    };
    let _: EvaluationSummary = common::ask(&mut kept, &end).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_does_what_it_is_for_where_it_is_for() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let service = service(&store);
    let http = service.http();
    let submitter = create(
        &service,
        &[
            "--name",
            "s",
            "--right",
            "submit",
            "--project",
            "o/*",
            "--project",
            "p/one",
        ],
    );
    let reader = create(&service, &["--name", "r", "--right", "read", "--project", "o/r"]);
    let admin = create(&service, &["--name", "a", "--right", "admin", "--right", "read"]);
    let mut local = common::connect(&service.socket()).await;
    let theirs: Begun = common::ask(&mut local, &of("secret/project", "theirs")).await;

    let mut submitter = connect(http, &submitter).await.unwrap();
    let refused = common::try_ask::<Begun>(&mut submitter, &of("secret/project", "x"))
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("`secret/project`"), "{refused}");
    let begun: Begun = common::ask(&mut submitter, &of("o/r", "k")).await;
    let _: Begun = common::ask(&mut submitter, &of("p/one", "p")).await;
    let evaluation = |which| Request::Status { which };
    let unseen = [
        evaluation(Selector::Evaluation(theirs.evaluation)),
        evaluation(Selector::Latest {
            project: Some("secret/project".to_owned()),
        }),
        Request::SubmitEnd {
            evaluation: theirs.evaluation,
            error: None,
        },
        Request::Cancel {
            what: Target::Evaluation(Selector::Evaluation(theirs.evaluation)),
        },
    ];
    for request in &unseen {
        let error = common::try_ask::<serde_json::Value>(&mut submitter, request)
            .await
            .unwrap_err();
        assert!(
            error.to_string().contains("there is no evaluation"),
            "{request:?}: {error}"
        );
    }
    let unclear = evaluation(Selector::Latest { project: None });
    let error = common::try_ask::<EvaluationSummary>(&mut submitter, &unclear)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("several projects"), "{error}");
    let projects: Vec<ProjectSummary> = common::ask(&mut submitter, &Request::Projects).await;
    let names: Vec<_> = projects.iter().map(|project| project.project.as_str()).collect();
    assert_eq!(names, ["o/r", "p/one"]);
    let restart = Request::Restart {
        what: Target::Evaluation(Selector::Evaluation(begun.evaluation)),
    };
    let error = common::try_ask::<serde_json::Value>(&mut submitter, &restart)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("`restart`"), "{error}");
    // Stock operations: what is added proves itself; what is built is in an evaluation.
    let drvs = store.instantiate("scope", &[TestDrv::good("a")]);
    let drv = common::body_for(&store, drvs.values()).await;
    submitter
        .call_framed(&nixci_protocol::nixci::AddClosure {}, &drv[..], &mut ())
        .await
        .unwrap();
    let everything = submitter.call(&op::QueryAllValidPaths {}, &mut ()).await.unwrap_err();
    assert!(
        everything.to_string().contains("`read` for all projects"),
        "{everything}"
    );

    let mut reader = connect(http, &reader).await.unwrap();
    let latest: EvaluationSummary = common::ask(&mut reader, &unclear).await;
    assert_eq!(latest.evaluation, begun.evaluation);
    let error = common::try_ask::<Begun>(&mut reader, &of("o/r", "y"))
        .await
        .unwrap_err();
    assert!(error.to_string().contains("`submit`"), "{error}");
    let added = reader
        .call_framed(&nixci_protocol::nixci::AddClosure {}, &drv[..], &mut ())
        .await
        .map(drop);
    assert!(added.unwrap_err().to_string().contains("`submit`"));

    let mut admin = connect(http, &admin).await.unwrap();
    let _: serde_json::Value = common::ask(&mut admin, &Request::CollectGarbage { dry_run: true }).await;
    let _: serde_json::Value = common::ask(&mut admin, &Request::Stores).await;
}
