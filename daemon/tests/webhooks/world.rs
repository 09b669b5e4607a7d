//! A daemon that knows forges of every kind, and who sends it webhooks.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::{BASE64, HEXLOWER};
use hmac::{Hmac, Mac as _};
use nixci_daemon::{Config, Running, start};
use nixci_protocol::nixci::control::{
    Begun, EvaluationId, EvaluationState, EvaluationSummary, Request, Selector, Submission,
};
use nixci_store::testing::peers::node_modules;
use nixci_store::testing::poll_until;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{RequestBuilder, StatusCode};
use rusqlite::Connection;
use serde_json::Value;
use sha2::Sha256;

use crate::common::{ask, connect, submission};

/// The secret of the recorded deliveries, and of all others here.
pub(crate) const SECRET: &str = "s3cr3t";
/// The key of GitLab's signing token.
pub(crate) const SIGNING_KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
/// The number of our App.
pub(crate) const APP: u64 = 7;

/// The forges and projects: no forge answers, as nothing here asks one.
fn sections(dir: &Path) -> String {
    let file = |name: &str| dir.join(name).display().to_string();
    let (secret, signing, key) = (file("secret"), file("signing"), file("key.pem"));
    format!(
        r#"
[[forge]]
name = "github"
kind = "github"
url = "http://127.0.0.1:9"
app_id = {APP}
private_key_file = "{key}"
webhook_secret_file = "{secret}"

[[forge]]
name = "gitea"
kind = "gitea"
url = "http://127.0.0.1:9"
webhook_secret_file = "{secret}"

[[forge]]
name = "forgejo"
kind = "forgejo"
url = "http://127.0.0.1:9"
webhook_secret_file = "{secret}"

[[forge]]
name = "gitlab"
kind = "gitlab"
url = "http://127.0.0.1:9"
webhook_secret_file = "{secret}"

[[forge]]
name = "gitlab-signed"
kind = "gitlab"
url = "http://127.0.0.1:9"
webhook_secret_file = "{signing}"

[[forge]]
name = "bare"
kind = "gitea"
url = "http://127.0.0.1:9"

[[project]]
name = "o/by-number"
forge = "github"
repository_id = 42

[[project]]
name = "gitlab/*"
forge = "gitlab"

[[project]]
name = "gitea/*"
forge = "gitea"

[[project]]
name = "*"
forge = "github"
"#
    )
}

/// Writes the secrets and says in which forges and projects there are.
pub(crate) fn write_secrets(dir: &Path) -> String {
    let node = node_modules().join(".bin/node");
    let script = "process.stdout.write(require('crypto').generateKeyPairSync('rsa', {modulusLength: 2048})\
                  .privateKey.export({type: 'pkcs1', format: 'pem'}))";
    let pem = Command::new(node).arg("-e").arg(script).output().unwrap();
    assert!(pem.status.success(), "{}", String::from_utf8_lossy(&pem.stderr));
    for (name, content) in [
        ("secret", SECRET.as_bytes().to_vec()),
        ("signing", format!("whsec_{}", BASE64.encode(SIGNING_KEY)).into_bytes()),
        ("key.pem", pem.stdout),
    ] {
        let path = dir.join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }
    sections(dir)
}

pub(crate) struct World {
    pub(crate) home: tempfile::TempDir,
    pub(crate) daemon: Running,
    pub(crate) hooks: Sender,
}

/// Who sends deliveries. Clones share connections.
#[derive(Clone)]
pub(crate) struct Sender {
    url: String,
    http: reqwest::Client,
}

impl Sender {
    pub(crate) fn new(url: String) -> Self {
        nixci_daemon::tls::install_provider();
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Self { url, http }
    }

    /// A delivery to `/webhooks/{forge}` as it is: with these headers and no signature.
    pub(crate) fn plain(&self, forge: &str, headers: &[(&str, &str)], body: impl Into<Vec<u8>>) -> RequestBuilder {
        let mut map = HeaderMap::new();
        map.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        for (name, value) in headers {
            let name: reqwest::header::HeaderName = name.parse().unwrap();
            map.insert(name, value.parse().unwrap());
        }
        self.http
            .post(format!("{}/webhooks/{forge}", self.url))
            .headers(map)
            .body(body.into())
    }

    /// A delivery as GitHub sends and signs it.
    pub(crate) fn github(&self, event: &str, number: &str, body: &[u8]) -> RequestBuilder {
        let signature = format!("sha256={}", hex(body));
        let headers = [
            ("x-github-event", event),
            ("x-github-delivery", number),
            ("x-hub-signature-256", signature.as_str()),
        ];
        self.plain("github", &headers, body)
    }

    /// A delivery as GitLab sends it, with the secret as a token.
    pub(crate) fn gitlab(&self, event: &str, number: &str, body: &[u8]) -> RequestBuilder {
        let headers = [
            ("x-gitlab-event", event),
            ("idempotency-key", number),
            ("x-gitlab-event-uuid", "13792a34-cac6-4fda-95a8-c58e00a3954e"),
            ("x-gitlab-token", SECRET),
        ];
        self.plain("gitlab", &headers, body)
    }
}

pub(crate) async fn answer(request: RequestBuilder) -> (StatusCode, String) {
    let response = request.send().await.unwrap();
    (response.status(), response.text().await.unwrap())
}

/// HMAC-SHA256 of a body, by the secret.
pub(crate) fn hex(body: &[u8]) -> String {
    HEXLOWER.encode(&mac(SECRET.as_bytes(), body))
}

pub(crate) fn mac(key: &[u8], message: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(message);
    mac.finalize().into_bytes().to_vec()
}

/// The index of a daemon, seen from outside.
pub(crate) fn index(state: &Path) -> Connection {
    let conn = Connection::open(state.join("index.db")).unwrap();
    conn.busy_timeout(std::time::Duration::from_secs(20)).unwrap();
    conn
}

/// Waits until nothing waits to be handled.
pub(crate) fn settled(state: &Path) {
    let conn = index(state);
    poll_until("the queue of deliveries to be empty", || {
        let open = "SELECT count(*) FROM delivery WHERE done IS NULL";
        let left: i64 = conn.query_row(open, [], |row| row.get(0)).unwrap();
        (left == 0).then_some(())
    });
}

/// What became of a delivery, by the number that its forge gave it.
pub(crate) fn outcome(state: &Path, number: &str) -> (String, String) {
    let find = "SELECT outcome, result FROM delivery WHERE number = ?1";
    index(state)
        .query_row(find, [number], |row| Ok((row.get(0)?, row.get(1)?)))
        .unwrap_or_else(|error| panic!("delivery {number}: {error}"))
}

pub(crate) fn count(state: &Path, of: &str) -> i64 {
    let sql = format!("SELECT count(*) FROM {of}");
    index(state).query_row(&sql, [], |row| row.get(0)).unwrap()
}

impl World {
    /// A daemon whose store is not there: nothing is built.
    pub(crate) async fn start() -> Self {
        Self::with("unix:///nonexistent/socket", |_| {}).await
    }

    pub(crate) async fn with(store: &str, change: impl FnOnce(&mut Config)) -> Self {
        let home = tempfile::tempdir().unwrap();
        let sections = write_secrets(home.path());
        let parsed = Config::parse(&sections, &home.path().join("nixci.toml")).unwrap();
        let mut config = Config::in_folder(home.path(), store, 2);
        config.forges = parsed.forges;
        config.projects = parsed.projects;
        change(&mut config);
        let daemon = start(config).await.unwrap();
        let hooks = Sender::new(format!("http://{}", daemon.http_addr.unwrap()));
        Self { home, daemon, hooks }
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.home.path().join("state")
    }

    pub(crate) async fn metrics(&self) -> String {
        let url = format!("{}/metrics", self.hooks.url);
        self.hooks.http.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// Sends a delivery, waits until it is handled, and says what came of it.
    pub(crate) async fn told(&self, event: &str, number: &str, body: &Value) -> (String, String) {
        let taken = answer(self.hooks.github(event, number, body.to_string().as_bytes())).await;
        assert_eq!(taken.0, StatusCode::ACCEPTED, "{}", taken.1);
        settled(&self.state());
        outcome(&self.state(), number)
    }

    /// Begins an evaluation of a pull request, which waits for its jobs.
    pub(crate) async fn evaluation(&self, project: &str, commit: &str, pull_request: Option<u64>) -> EvaluationId {
        let begin = Request::SubmitBegin(Submission {
            project: project.to_owned(),
            commit: Some(commit.to_owned()),
            pull_request,
            ..submission(&format!("{project} {commit} {pull_request:?}"))
        });
        let Begun { evaluation, .. } = ask(&mut connect(&self.daemon.socket).await, &begin).await;
        evaluation
    }

    pub(crate) async fn state_of(&self, evaluation: EvaluationId) -> EvaluationState {
        let which = Selector::Evaluation(evaluation);
        let summary: EvaluationSummary = ask(&mut connect(&self.daemon.socket).await, &Request::Status { which }).await;
        summary.state
    }
}
