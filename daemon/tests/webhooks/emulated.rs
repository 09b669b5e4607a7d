//! All the way round with an emulated GitHub: it shows our check runs, signs what it tells of them, and has a new one when
//! its button was pressed.

use nixci_protocol::nixci::AddClosure;
use nixci_protocol::nixci::control::{Begun, BuildDetail, Evaluated, EvaluationSummary, NewJob, Request, Submission};
use nixci_store::testing::peers::{Peer, free_port, node_program};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, poll_until};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::common::{ask, body_for, connect, submission, watch};
use crate::world::{APP, SECRET, World, count, settled, write_secrets};

const USER: &str = "a-token-of-a-user";

/// The emulator, with our App installed in `acme` and its webhook at this address.
fn emulator(home: &std::path::Path, hook: &str) -> Peer {
    write_secrets(home);
    let key = std::fs::read_to_string(home.join("key.pem")).unwrap();
    let seed = json!({
        "tokens": {USER: {"login": "octo", "scopes": ["repo"]}},
        "github": {
            "users": [{"login": "octo"}],
            "orgs": [{"login": "acme", "members": [{"login": "octo", "role": "admin"}]}],
            "repos": [{"owner": "acme", "name": "widgets", "auto_init": true}],
            "apps": [{
                "app_id": APP, "slug": "nixci", "name": "nixci", "private_key": key,
                "permissions": {"checks": "write", "contents": "read"}, "events": ["check_run", "check_suite"],
                "webhook_url": hook, "webhook_secret": SECRET,
                "installations": [{"installation_id": 77, "account": "acme"}],
            }],
        },
    });
    let config = home.join("emulate.json");
    std::fs::write(&config, seed.to_string()).unwrap();
    let port = free_port();
    let mut command = node_program("emulate");
    command
        .args(["start", "-s", "github", "-p", &port.to_string(), "--config"])
        .arg(&config)
        .current_dir(home);
    Peer::start(command, port, home)
}

async fn github(peer: &Peer, method: Method, path: &str) -> Value {
    nixci_daemon::tls::install_provider();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let url = format!("{}/repos/acme/widgets/{path}", peer.url());
    let request = http.request(method, url.trim_end_matches('/'));
    let answer = request.bearer_auth(USER).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap_or_default()
}

/// Waits for a run of our job that is complete, and is none of these.
fn completed(peer: &Peer, commit: &str, known: &[u64]) -> Value {
    let path = format!("commits/{commit}/check-runs?filter=all");
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        poll_until("a check run of the job", || {
            let list = runtime.block_on(github(peer, Method::GET, &path));
            let runs = list["check_runs"].as_array().unwrap();
            let is_it = |run: &&Value| {
                run["name"] == "nixci/one"
                    && run["status"] == "completed"
                    && !known.contains(&run["id"].as_u64().unwrap())
            };
            runs.iter().find(is_it).cloned()
        })
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_button_at_an_emulated_github_builds_again_and_leaves_a_new_check_run() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let port = free_port();
    let peer = emulator(home.path(), &format!("http://127.0.0.1:{port}/webhooks/github"));
    let branch = github(&peer, Method::GET, "branches/main").await;
    let commit = branch["commit"]["sha"].as_str().unwrap().to_owned();
    let key = home.path().join("key.pem");
    let world = World::with(&store.uri(), |config| {
        config.listen.http = Some(([127, 0, 0, 1], port).into());
        // The key that the emulator knows.
        std::fs::copy(&key, config.state_dir.with_file_name("key.pem")).unwrap();
        let forge = config.forges.iter_mut().find(|forge| forge.name == "github").unwrap();
        forge.api = peer.url();
    })
    .await;

    let drvs = evaluator.instantiate("emulated", &[TestDrv::failing("one")]);
    let mut client = connect(&world.daemon.socket).await;
    let body = body_for(&evaluator, drvs.values()).await;
    client.call_framed(&AddClosure {}, &body[..], &mut ()).await.unwrap();
    let begin = Request::SubmitBegin(Submission {
        project: "acme/widgets".to_owned(),
        commit: Some(commit.clone()),
        ..submission("emulated")
    });
    let Begun { evaluation, .. } = ask(&mut client, &begin).await;
    let jobs = Request::SubmitJobs {
        evaluation,
        jobs: vec![NewJob {
            attr: "one".parse().unwrap(),
            result: Evaluated::Drv(drvs["one"].clone()),
        }],
    };
    let _: Value = ask(&mut client, &jobs).await;
    let end = Request::SubmitEnd {
        evaluation,
        error: None,
    };
    let _: EvaluationSummary = ask(&mut client, &end).await;
    watch(&mut client, evaluation).await;

    let first = completed(&peer, &commit, &[]);
    assert_eq!(first["conclusion"], "failure");
    let number = first["id"].as_u64().unwrap();

    // What the emulator tells is signed as it should be, but does not say of which App the run is, so it changes nothing.
    github(&peer, Method::POST, &format!("check-runs/{number}/rerequest")).await;
    let state = world.state();
    tokio::task::block_in_place(|| {
        poll_until("what the emulator tells", || {
            (count(&state, "delivery WHERE result LIKE '%of another App%'") == 1).then_some(())
        });
    });
    let mut run = github(&peer, Method::GET, &format!("check-runs/{number}")).await;
    run["app"] = json!({"id": APP});
    let repository = github(&peer, Method::GET, "").await;
    let body = json!({"action": "rerequested", "check_run": run, "repository": repository}).to_string();
    let taken = world.hooks.github("check_run", "pressed", body.as_bytes()).send().await;
    assert_eq!(taken.unwrap().status(), StatusCode::ACCEPTED);
    settled(&state);

    let second = completed(&peer, &commit, &[number]);
    assert_eq!(second["conclusion"], "failure");
    assert_ne!(second["id"], first["id"], "the button is only at a new one");
    let drv_path = drvs["one"].clone();
    let detail: BuildDetail = ask(&mut connect(&world.daemon.socket).await, &Request::Build { drv_path }).await;
    assert_eq!(detail.attempts.len(), 2);
    world.daemon.stop().await;
}
