//! No secret is in an error, in what is printed for debugging, or in a log line of any level.

use std::fmt::Write as _;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};

use nixci_daemon::config::{ForgeAuth, ForgeKind, SecretFile};
use nixci_daemon::forge::Client;
use nixci_protocol::nixci::report::{StatusRole, StatusState};
use rstest::rstest;
use serde_json::json;
use tracing_subscriber::fmt::MakeWriter;

use crate::forgejo_stub::Forgejo;
use crate::gitlab_stub::GitLab;
use crate::server::{Answer, Does, Fault, Server};
use crate::statuses::{TOKEN, config, secret, summary};

const SECRET: &str = "s3cret-of-webhooks";
/// In the address of a webhook, where many services want one.
const PATH: &str = "s3cret-path";

/// All that was logged.
#[derive(Debug, Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

/// Sends, looks and checks with all that goes wrong, and gives all that is said of it.
async fn talk<D: Does>(kind: ForgeKind, api: &str, server: &Server<D>) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut forge = config(kind, &format!("{}{api}", server.url()), folder.path());
    forge.webhook_secret = Some(secret(folder.path(), "secret", SECRET));
    let client = Client::open(&forge).unwrap();
    let mut said = format!("{client:?} {client:#?}");
    let mut status = summary(StatusState::Success, "fine");
    status.pull_request = Some(7);
    status.comment = true;
    if kind == ForgeKind::Webhook {
        status.role = StatusRole::Verdict;
    }
    for fault in [None, Some(Fault::Cut), Some(Fault::Gateway)]
        .into_iter()
        .chain([401, 403, 404, 409, 422, 429, 500].map(|code| Some(Fault::Instead(Answer::of(code, json!({}))))))
    {
        if let Some(fault) = fault {
            server.fault("POST", "/", fault);
        }
        let sent = client.send(&status).await;
        let error = sent.as_ref().err().map(ToString::to_string);
        write!(said, "{sent:?} {error:?} {:?}", client.look_up(&status).await).unwrap();
    }
    write!(
        said,
        "{:?} {:?}",
        client.check().await,
        client.pull_request("owner/name", 7).await
    )
    .unwrap();
    // Nobody is there.
    forge.api = format!("http://127.0.0.1:1/{PATH}");
    let nobody = Client::open(&forge).unwrap().send(&status).await.unwrap_err();
    write!(said, "{nobody} {nobody:?}").unwrap();
    said
}

#[test]
fn no_secret_is_logged_or_told() {
    let log = Log::default();
    // For all threads, and for what uses the crate `log`.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(log.clone())
        .with_ansi(false)
        .init();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let said = runtime.block_on(async {
        let mut said = talk(ForgeKind::Forgejo, "/api/v1", &Forgejo::start().await).await;
        said += &talk(ForgeKind::GitLab, "/api/v4", &GitLab::start().await).await;
        let deaf = Server::start(Deaf).await;
        said + &talk(ForgeKind::Webhook, &format!("/{PATH}"), &deaf).await
    });
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("TRACE hyper_util"), "clients log at all levels");
    assert!(
        logged.contains("DEBUG reqwest"),
        "what uses the crate `log` is seen too"
    );
    for secret in [TOKEN, SECRET, PATH] {
        assert!(!logged.contains(secret), "in the log");
        assert!(!said.contains(secret), "in what is told");
    }
}

/// Takes all.
#[derive(Debug)]
struct Deaf;

impl Does for Deaf {
    fn answer(&mut self, _: &crate::server::Asked) -> Answer {
        Answer::of(200, json!({}))
    }
}

#[rstest]
#[case::missing(None, "failed to read it")]
#[case::open(Some((TOKEN, 0o644)), "everybody can read it (mode 0644)")]
#[case::empty(Some(("\n", 0o600)), "it is empty")]
#[case::two_lines(Some(("t0ken-that-nobody-may-see\nand more", 0o600)), "write the token alone, on one line")]
fn a_token_file_that_cannot_be_used_is_told_with_what_to_do(
    #[values(ForgeKind::Forgejo, ForgeKind::Gitea, ForgeKind::GitLab)] kind: ForgeKind,
    #[case] file: Option<(&str, u32)>,
    #[case] expected: &str,
) {
    let folder = tempfile::tempdir().unwrap();
    let mut forge = config(kind, "http://127.0.0.1:1", folder.path());
    let path = folder.path().join("its-token");
    if let Some((text, mode)) = file {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }
    forge.auth = Some(ForgeAuth::Token(SecretFile {
        path: path.clone(),
        line: None,
    }));
    let error = Client::open(&forge).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("forge `there`") && text.contains(&path.display().to_string()),
        "{text}"
    );
    assert!(text.contains(expected), "{text}");
    assert!(
        !text.contains('\n') && !format!("{text}{error:?}").contains("t0ken"),
        "{error:?}"
    );
}

#[test]
fn a_webhook_whose_secret_everybody_can_read_is_not_opened() {
    let folder = tempfile::tempdir().unwrap();
    let mut forge = config(ForgeKind::Webhook, "http://127.0.0.1:1", folder.path());
    let file = secret(folder.path(), "secret", SECRET);
    std::fs::set_permissions(&file.path, std::fs::Permissions::from_mode(0o604)).unwrap();
    forge.webhook_secret = Some(file);
    let text = Client::open(&forge).unwrap_err().to_string();
    assert!(
        text.contains("everybody can read it") && !text.contains(SECRET),
        "{text}"
    );
}
