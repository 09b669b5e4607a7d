//! An emulated GitHub with one App, and statuses to tell it.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use nixci_daemon::config::{Forge, ForgeAuth, ForgeKind, Form, Pace, SecretFile};
use nixci_daemon::forge::{Client, Outgoing};
use nixci_protocol::nixci::control::EvaluationId;
use nixci_protocol::nixci::report::{Annotation, StatusContent, StatusRole, StatusState};
use nixci_store::testing::peers::{Peer, free_port, node_program};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::keys::{self, Keys};

pub(crate) const APP: u64 = 1_234;
pub(crate) const REPOSITORY: &str = "acme/widgets";

/// The emulator, with the App `nixci` installed in the organisation `acme`.
pub(crate) struct World {
    pub(crate) peer: Peer,
    pub(crate) keys: Keys,
    pub(crate) home: TempDir,
    pub(crate) commit: String,
}

/// A file that only its owner reads.
pub(crate) fn secret(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    path
}

pub(crate) fn forge(api: &str, auth: ForgeAuth) -> Forge {
    let form = match auth {
        ForgeAuth::App { .. } => Form::Checks,
        ForgeAuth::Token(_) => Form::Statuses,
    };
    Forge {
        name: "github".to_owned(),
        kind: ForgeKind::GitHub,
        url: "https://github.com".to_owned(),
        api: api.to_owned(),
        auth: Some(auth),
        webhook_secret: None,
        form,
        pace: Pace::of(ForgeKind::GitHub),
    }
}

pub(crate) fn app(key: PathBuf) -> ForgeAuth {
    ForgeAuth::App {
        id: APP,
        key: SecretFile { path: key, line: None },
    }
}

/// A client of the App whose key is this PEM.
pub(crate) fn client(api: &str, home: &Path, pem: &str) -> Client {
    Client::open(&forge(api, app(secret(home, "key.pem", pem)))).unwrap()
}

impl World {
    pub(crate) async fn start() -> Self {
        Self::with_permissions(
            json!({"checks": "write", "pull_requests": "read", "actions": "read", "contents": "read"}),
        )
        .await
    }

    pub(crate) async fn with_permissions(permissions: Value) -> Self {
        let keys = keys::make();
        let home = tempfile::tempdir().unwrap();
        let port = free_port();
        let seed = json!({
            "tokens": {"test-user-token": {"login": "octo", "scopes": ["repo"]}},
            "github": {
                "users": [{"login": "octo"}],
                "orgs": [{"login": "acme", "members": [{"login": "octo", "role": "admin"}]}, {"login": "other"}],
                "repos": [
                    {"owner": "acme", "name": "widgets", "auto_init": true},
                    {"owner": "other", "name": "closed", "auto_init": true},
                ],
                "apps": [{
                    "app_id": APP, "slug": "nixci", "name": "nixci", "private_key": keys.pkcs1,
                    "permissions": permissions, "events": ["check_run", "pull_request"],
                    "installations": [{"installation_id": 77, "account": "acme"}],
                }],
            },
        });
        let config = home.path().join("emulate.json");
        std::fs::write(&config, seed.to_string()).unwrap();
        let mut command = node_program("emulate");
        command
            .args(["start", "-s", "github", "-p", &port.to_string(), "--config"])
            .arg(&config)
            .current_dir(home.path());
        let folder = home.path().to_owned();
        let peer = tokio::task::spawn_blocking(move || Peer::start(command, port, &folder))
            .await
            .unwrap();
        let mut world = Self {
            peer,
            keys,
            home,
            commit: String::new(),
        };
        let branch = world.get("/repos/acme/widgets/branches/main").await;
        branch["commit"]["sha"].as_str().unwrap().clone_into(&mut world.commit);
        world
    }

    /// The App's client, at the emulator or at what stands before it.
    pub(crate) fn client(&self, api: &str) -> Client {
        client(api, self.home.path(), &self.keys.pkcs1)
    }

    /// What the emulator shows to anybody.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = crate::server::http()
            .get(format!("{}{path}", self.peer.url()))
            .bearer_auth("test-user-token")
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.status());
        answer.json().await.unwrap()
    }

    /// Every run of the commit.
    pub(crate) async fn runs(&self) -> Vec<Value> {
        let list = self
            .get(&format!(
                "/repos/acme/widgets/commits/{}/check-runs?filter=all",
                self.commit
            ))
            .await;
        list["check_runs"].as_array().unwrap().clone()
    }

    pub(crate) fn status(&self, state: StatusState) -> Outgoing {
        status(&self.commit, state)
    }
}

/// The summary of an evaluation.
pub(crate) fn status(commit: &str, state: StatusState) -> Outgoing {
    Outgoing {
        repository: REPOSITORY.to_owned(),
        commit: commit.to_owned(),
        context: "nixci".to_owned(),
        role: StatusRole::Summary,
        evaluation: EvaluationId(7),
        attr: None,
        content: StatusContent {
            state,
            description: format!("it is {}", state.word()),
            summary: "# All\n\nof it".to_owned(),
            text: "```\nlog\n```\n".to_owned(),
            url: Some("https://ci.example.org/evaluations/7".to_owned()),
            annotations: Vec::new(),
            started: Some(1_700_000_000_000),
            ended: state.is_final().then_some(1_700_000_060_000),
        },
        external_id: "nixci-status-1".to_owned(),
        remote_id: None,
        sent_state: None,
        git_ref: None,
        pull_request: None,
        comment: false,
    }
}

pub(crate) fn annotations(count: u32) -> Vec<Annotation> {
    (1..=count)
        .map(|line| Annotation {
            path: "nix/checks.nix".to_owned(),
            line,
            title: format!("attribute {line}"),
            message: format!("error: undefined variable `x{line}`"),
        })
        .collect()
}
