//! Commit statuses, at a server that mocks GitHub by its own description and refuses what is not as described.

use nixci_daemon::config::{ForgeAuth, Form, SecretFile};
use nixci_daemon::forge::{Client, Scope, SendError};
use nixci_protocol::nixci::report::StatusState;
use nixci_store::testing::peers::{Peer, free_port, node_program};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::keys;
use crate::schema::Description;
use crate::server::{Reply, Server};
use crate::stand_in::StandIn;
use crate::world::{app, forge, secret, status};

const COMMIT: &str = "6dcb09b5b57875f334f61aebed695e2e4193db5e";

struct Mock {
    _peer: Peer,
    server: Server,
    client: Client,
    _home: TempDir,
}

impl Mock {
    async fn start() -> Self {
        let home = tempfile::tempdir().unwrap();
        let port = free_port();
        let mut command = node_program("prism");
        command
            .args(["mock", "--errors", "-h", "127.0.0.1", "-p", &port.to_string()])
            .arg(nixci_store::testing::data_dir().join("forges/github-openapi-trimmed.json"))
            .current_dir(home.path());
        let folder = home.path().to_owned();
        let peer = tokio::task::spawn_blocking(move || Peer::start(command, port, &folder))
            .await
            .unwrap();
        let server = Server::before(peer.url(), |_| false).await;
        let client = by_token(&server.url, &home);
        Self {
            _peer: peer,
            server,
            client,
            _home: home,
        }
    }
}

fn by_token(api: &str, home: &TempDir) -> Client {
    let path = secret(home.path(), "token", "ghp_test_token\n");
    Client::open(&forge(api, ForgeAuth::Token(SecretFile { path, line: None }))).unwrap()
}

#[tokio::test]
async fn every_state_is_one_of_the_four_words() {
    let mock = Mock::start().await;
    for (state, word) in [
        (StatusState::Queued, "pending"),
        (StatusState::Running, "pending"),
        (StatusState::Success, "success"),
        (StatusState::Failure, "failure"),
        (StatusState::Error, "error"),
        (StatusState::Cancelled, "error"),
        (StatusState::ActionRequired, "pending"),
        (StatusState::Neutral, "success"),
    ] {
        let mut status = status(COMMIT, state);
        status.content.description = "ü".repeat(200);
        let sent = mock.client.send(&status).await.unwrap();
        assert_eq!(sent.remote_id, None);
        let asked = mock.server.asked_for("POST", COMMIT).pop().unwrap();
        assert_eq!(asked.bearer(), "ghp_test_token");
        assert_eq!(
            asked.json(),
            json!({
                "state": word, "context": "nixci", "target_url": "https://ci.example.org/evaluations/7",
                "description": format!("{}…", "ü".repeat(139)),
            })
        );
    }
    let description = Description::read();
    for asked in mock.server.asked() {
        assert_eq!(description.faults(&asked), Vec::<String>::new());
    }
}

/// The list that the description gives as its example holds one status of this context.
#[tokio::test]
async fn a_status_whose_answer_was_lost_is_found() {
    let mock = Mock::start().await;
    let mut status = status(COMMIT, StatusState::Success);
    status.context = "Continuous-integration/Jenkins".to_owned();
    status.content.description = "Build has completed successfully".to_owned();
    status.content.url = Some("https://ci.example.com/1000/output".to_owned());
    let found = mock.client.look_up(&status).await.unwrap().unwrap();
    assert!(found.is_same);
    assert_eq!((found.remote_id, found.state), (None, Some(StatusState::Success)));

    status.content.state = StatusState::Failure;
    assert!(!mock.client.look_up(&status).await.unwrap().unwrap().is_same);
    status.context = "nixci".to_owned();
    assert_eq!(mock.client.look_up(&status).await.unwrap(), None);
    let description = Description::read();
    for asked in mock.server.asked() {
        assert_eq!(description.faults(&asked), Vec::<String>::new());
    }
}

#[rstest]
#[case::too_many(422, json!({"message": "Validation Failed", "errors": [{"resource": "Status", "code": "custom",
    "message": "This SHA and context has reached the maximum number of statuses."}]}), Scope::Status,
    "`github` did not take a commit status for `acme/widgets`: Validation Failed: This SHA and context has reached the \
     maximum number of statuses. (422)")]
#[case::no_right(403, json!({"message": "Resource not accessible by personal access token"}), Scope::Repository,
    "`github`: the token lacks `statuses: write` on `acme/widgets`; make one that has it, of a user who may write there")]
#[case::unknown(401, json!({"message": "Bad credentials"}), Scope::Forge,
    "`github` does not take the token: Bad credentials (401); make a new one and put it into the `token_file`")]
#[case::not_there(404, json!({"message": "Not Found"}), Scope::Repository,
    "`github` has no `acme/widgets` that we may see: give the user of the token access, or mend the project's `repository`")]
#[tokio::test]
async fn refusals_of_a_token_say_what_to_do(
    #[case] code: u16,
    #[case] body: Value,
    #[case] scope: Scope,
    #[case] expected: &str,
) {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(move |_| {
        let reply = Reply::json(code, &body);
        async move { reply }
    })
    .await;
    let error = by_token(&server.url, &home)
        .send(&status(COMMIT, StatusState::Success))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        SendError::Refused {
            scope,
            why: expected.to_owned()
        }
    );
    assert_eq!(server.asked().len(), 1);
}

#[rstest]
#[case::classic(Some("gist, repo:status"), Ok("token of `octocat`, scopes: gist, repo:status"))]
#[case::fine_grained(None, Ok("token of `octocat`, scopes: not told"))]
#[case::too_few(
    Some("gist, read:org"),
    Err(
        "`github`: the token of `octocat` has the scopes gist, read:org; it needs \
    `repo:status`, or `repo` for private repositories"
    )
)]
#[tokio::test]
async fn check_tells_the_user_and_scopes_of_a_token(
    #[case] scopes: Option<&'static str>,
    #[case] expected: Result<&str, &str>,
) {
    let home = tempfile::tempdir().unwrap();
    let server = Server::start(move |_| async move {
        let reply = Reply::json(200, &json!({"login": "octocat"}));
        scopes.map_or(reply.clone(), |scopes| reply.with("X-OAuth-Scopes", scopes))
    })
    .await;
    let said = by_token(&server.url, &home)
        .check()
        .await
        .map_err(|error| error.to_string());
    assert_eq!(said.as_deref().map_err(String::as_str), expected);
}

#[tokio::test]
async fn an_app_can_write_statuses_too() {
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&keys.public, 0).await;
    let mut config = forge(&stand_in.server.url, app(secret(home.path(), "key.pem", &keys.pkcs1)));
    config.form = Form::Statuses;
    let client = Client::open(&config).unwrap();
    client.send(&status(COMMIT, StatusState::Success)).await.unwrap();
    let asked = stand_in.server.asked_for("POST", COMMIT).pop().unwrap();
    assert_eq!(asked.bearer(), "ghs_secret1");
}
