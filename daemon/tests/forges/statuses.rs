//! Statuses to be sent, and the clients that send them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use nixci_daemon::config::{Forge, ForgeAuth, ForgeKind, Form, Pace, SecretFile};
use nixci_daemon::forge::{Client, Outgoing, Scope, SendError};
use nixci_protocol::nixci::control::EvaluationId;
use nixci_protocol::nixci::report::{StatusContent, StatusRole, StatusState};

/// The commit that is there.
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";
/// The repository that is there.
pub(crate) const REPOSITORY: &str = "owner/name";
/// What the token file holds.
pub(crate) const TOKEN: &str = "t0ken-that-nobody-may-see";

/// A summary on [`COMMIT`].
pub(crate) fn summary(state: StatusState, description: &str) -> Outgoing {
    Outgoing {
        repository: REPOSITORY.to_owned(),
        commit: COMMIT.to_owned(),
        context: "nixci".to_owned(),
        role: StatusRole::Summary,
        evaluation: EvaluationId(5),
        attr: None,
        content: StatusContent {
            state,
            description: description.to_owned(),
            summary: format!("# {description}"),
            text: "| job | result |\n|---|---|\n".to_owned(),
            url: Some("https://ci.example.org/evaluations/5".to_owned()),
            annotations: Vec::new(),
            started: None,
            ended: None,
        },
        external_id: "5/nixci".to_owned(),
        remote_id: None,
        sent_state: None,
        git_ref: Some("main".to_owned()),
        pull_request: None,
        comment: false,
    }
}

/// A job on [`COMMIT`].
pub(crate) fn job(context: &str, state: StatusState) -> Outgoing {
    Outgoing {
        context: context.to_owned(),
        role: StatusRole::Job,
        ..summary(state, "a job")
    }
}

/// A file that only we may read.
pub(crate) fn secret(folder: &Path, name: &str, text: &str) -> SecretFile {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    SecretFile { path, line: None }
}

/// How a forge of this kind is configured, with [`TOKEN`].
pub(crate) fn config(kind: ForgeKind, api: &str, folder: &Path) -> Forge {
    Forge {
        name: "there".to_owned(),
        kind,
        url: api.to_owned(),
        api: api.to_owned(),
        auth: Some(ForgeAuth::Token(secret(folder, "token", &format!("{TOKEN}\n")))),
        webhook_secret: None,
        form: Form::Statuses,
        pace: Pace::of(kind),
    }
}

/// A client with [`TOKEN`].
pub(crate) fn client(kind: ForgeKind, api: &str) -> Client {
    let folder = tempfile::tempdir().unwrap();
    Client::open(&config(kind, api, folder.path())).unwrap()
}

/// What a refusal is about, and why.
pub(crate) fn refusal(error: SendError) -> (Scope, String) {
    match error {
        SendError::Refused { scope, why } => (scope, why),
        other => panic!("{other:?}"),
    }
}
