//! Commits that are not the job's own: taken when the forge says so.

use std::net::SocketAddr;

use axum::Router;
use axum::extract::Path;
use axum::http::StatusCode;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use nixci_daemon::config::Config;
use nixci_daemon::start;
use nixci_protocol::client::Connection;
use nixci_protocol::nixci::control::{Begun, EvaluationSummary, Request, Selector, Submission};
use nixci_store::testing::{NixVersion, TestDaemon};
use serde_json::{Value, json};

use crate::common;
use crate::issuer::{COMMIT, Issuer};
use crate::upgrade::connect;

const HEAD: &str = "1111111111111111111111111111111111111111";
const MOVED: &str = "2222222222222222222222222222222222222222";

/// What GitHub says of one pull request and one run, in the form of its API description.
async fn forge() -> SocketAddr {
    let pull = |Path(number): Path<u64>| async move {
        let side = |name: &str, sha: &str, id: u64| json!({ "ref": name, "sha": sha, "repo": { "id": id, "full_name": format!("owner{id}/r") } });
        match number {
            7 => axum::Json(json!({
                "number": 7,
                "state": "open",
                "head": side("topic", HEAD, 9),
                "base": side("main", COMMIT, 1),
            }))
            .into_response(),
            _ => missing(),
        }
    };
    let run = |Path(number): Path<u64>| async move {
        match number {
            5 => axum::Json(json!({
                "id": 5,
                "head_sha": HEAD,
                "event": "pull_request",
                "head_branch": "topic",
                "pull_requests": [],
                "repository": { "id": 1, "full_name": "o/r" },
                "head_repository": { "id": 9, "full_name": "owner9/r" },
            }))
            .into_response(),
            _ => missing(),
        }
    };
    let router = Router::new()
        .route("/repos/o/r/pulls/{number}", get(pull))
        .route("/repos/o/r/actions/runs/{number}", get(run));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

fn missing() -> Response {
    (StatusCode::NOT_FOUND, axum::Json(json!({ "message": "Not Found" }))).into_response()
}

fn told_of(config: &mut Config, address: SocketAddr, issuer: &Issuer) {
    let token = config.state_dir.with_file_name("forge-token");
    std::fs::write(&token, "ghp_a_token_of_the_forge").unwrap();
    {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    }
    let text = format!(
        "[[forge]]\nkind = \"github\"\nurl = \"https://github.com\"\napi = \"http://{address}\"\ntoken_file = \"{}\"\n",
        token.display()
    );
    let parsed = Config::parse(&text, std::path::Path::new("nixci.toml")).unwrap();
    config.forges = parsed.forges;
    let mut oidc = issuer.config();
    oidc.forge = Some("github".to_owned());
    config.oidc = vec![oidc];
}

fn about(key: &str, commit: &str, pull_request: Option<u64>, run: Option<&str>) -> Request {
    let mut submission = Submission {
        project: "o/r".to_owned(),
        commit: Some(commit.to_owned()),
        pull_request,
        ..common::submission(key)
    };
    if let Some(run) = run {
        submission.labels.insert("run-id".to_owned(), run.to_owned());
    }
    Request::SubmitBegin(submission)
}

async fn begin(job: &mut Connection, request: &Request) -> Result<Begun, String> {
    common::try_ask(job, request).await.map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_counts_that_the_forge_confirms() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(home.path());
    let mut config = common::config(home.path(), &store, 1);
    told_of(&mut config, forge().await, &issuer);
    let daemon = start(config).await.unwrap();
    let http = daemon.http_addr.unwrap();
    let job = async |claims: Value| connect(http, &issuer.make(claims).await).await.unwrap();

    let of_pull = json!({ "event_name": "pull_request", "ref": "refs/pull/7/merge", "head_ref": "topic" });
    let mut pull = job(of_pull.clone()).await;
    begin(&mut pull, &about("head", HEAD, Some(7), None)).await.unwrap();
    let moved = begin(&mut pull, &about("moved", MOVED, Some(7), None))
        .await
        .unwrap_err();
    assert!(moved.contains(HEAD) && moved.contains(MOVED), "{moved}");
    let other = begin(&mut pull, &about("other", HEAD, Some(8), None))
        .await
        .unwrap_err();
    assert!(other.contains("pull request 7"), "{other}");
    // The merge is the job's own commit.
    begin(&mut pull, &about("merge", COMMIT, Some(7), None)).await.unwrap();
    // Jobs of pull requests submit, whatever their rule says.
    let mut missing = job(json!({ "event_name": "pull_request", "ref": "refs/pull/9/merge" })).await;
    let none = begin(&mut missing, &about("none", HEAD, Some(9), None))
        .await
        .unwrap_err();
    assert!(none.contains("has no pull request 9"), "{none}");

    // What a run without rights has evaluated is handed on by one that never sees its code.
    let mut handed = job(json!({ "event_name": "workflow_run", "run_id": "80" })).await;
    begin(&mut handed, &about("artifact", HEAD, Some(7), Some("5")))
        .await
        .unwrap();
    let wrong = begin(&mut handed, &about("wrong", MOVED, None, Some("5")))
        .await
        .unwrap_err();
    assert!(wrong.contains(HEAD), "{wrong}");
    let gone = begin(&mut handed, &about("gone", HEAD, None, Some("6")))
        .await
        .unwrap_err();
    assert!(gone.contains("no run 6"), "{gone}");
    let unsaid = begin(&mut handed, &about("unsaid", HEAD, None, None))
        .await
        .unwrap_err();
    assert!(unsaid.contains("`run-id`"), "{unsaid}");
    // A push has no such way out.
    let mut push = job(json!({ "run_id": "81" })).await;
    let forged = begin(&mut push, &about("forged", HEAD, None, Some("5")))
        .await
        .unwrap_err();
    assert!(forged.contains(COMMIT), "{forged}");
    // Nobody takes over what another run has begun.
    let taken = begin(&mut push, &about("merge", COMMIT, None, None)).await.unwrap_err();
    assert!(taken.contains("another run"), "{taken}");
    daemon.stop().await;
}

/// Where no forge can be asked, only the job's own commit counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_forge_that_does_not_answer_confirms_nothing() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(home.path());
    let mut config = common::config(home.path(), &store, 1);
    let nobody = SocketAddr::from(([127, 0, 0, 1], nixci_store::testing::peers::free_port()));
    told_of(&mut config, nobody, &issuer);
    let daemon = start(config).await.unwrap();
    let claims = json!({ "event_name": "pull_request", "ref": "refs/pull/7/merge" });
    let mut pull = connect(daemon.http_addr.unwrap(), &issuer.make(claims).await)
        .await
        .unwrap();
    let unknown = begin(&mut pull, &about("k", HEAD, Some(7), None)).await.unwrap_err();
    assert!(unknown.contains("could not be asked"), "{unknown}");
    assert!(!unknown.contains("ghp_"), "{unknown}");
    begin(&mut pull, &about("own", COMMIT, Some(7), None)).await.unwrap();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn branch_and_base_are_what_the_forge_or_the_claims_say() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(home.path());
    let mut config = common::config(home.path(), &store, 1);
    told_of(&mut config, forge().await, &issuer);
    let daemon = start(config).await.unwrap();
    let http = daemon.http_addr.unwrap();
    // All of them say that they are about `main`, against a base that forgives everything.
    let recorded = async |claims: Value, request: Request| {
        let Request::SubmitBegin(mut submission) = request else {
            panic!("it begins one");
        };
        submission.git_ref.get_or_insert("main".to_owned());
        submission.base = Some(MOVED.to_owned());
        let mut job = connect(http, &issuer.make(claims).await).await.unwrap();
        let begun = begin(&mut job, &Request::SubmitBegin(submission)).await.unwrap();
        let which = Selector::Evaluation(begun.evaluation);
        let summary: EvaluationSummary = common::ask(&mut job, &Request::Status { which }).await;
        (summary.git_ref, summary.base)
    };
    let (is, lie) = (Some(COMMIT.to_owned()), Some(MOVED.to_owned()));
    let branch = |name: &str| Some(name.to_owned());

    let pull = json!({ "event_name": "pull_request", "ref": "refs/pull/7/merge", "head_ref": "topic" });
    let head = recorded(pull.clone(), about("head", HEAD, Some(7), None)).await;
    assert_eq!(head, (branch("owner9:topic"), is.clone()));
    // Its own commit is a merge that is shown nowhere.
    let merge = recorded(pull, about("merge", COMMIT, Some(7), None)).await;
    assert_eq!(merge, (branch("topic"), lie.clone()));
    let handed = json!({ "event_name": "workflow_run", "run_id": "80" });
    let both = recorded(handed.clone(), about("both", HEAD, Some(7), Some("5"))).await;
    assert_eq!(both, (branch("owner9:topic"), is));
    let run = recorded(handed, about("run", HEAD, None, Some("5"))).await;
    assert_eq!(run, (branch("owner9:topic"), None));
    let push = json!({ "ref": "refs/heads/main", "run_id": "81" });
    let push = recorded(push, about("push", COMMIT, None, None)).await;
    assert_eq!(push, (branch("main"), lie));
    daemon.stop().await;
}
