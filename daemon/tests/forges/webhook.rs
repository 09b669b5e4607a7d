//! Plain webhooks: a receiver that checks signatures by means of `openssl`, and drops what it has seen.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nixci_daemon::config::ForgeKind;
use nixci_daemon::forge::{Client, Outgoing, Scope, SendError};
use nixci_protocol::nixci::report::{StatusRole, StatusState};
use rstest::rstest;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::server::{Answer, Asked, Does, Fault, Server};
use crate::statuses::{config, secret, summary};

const SECRET: &str = "a secret of webhooks";

/// Somebody who takes verdicts.
#[derive(Debug)]
struct Receiver {
    folder: PathBuf,
    /// Bodies by the numbers of their deliveries; a number that comes again is dropped.
    taken: BTreeMap<String, Value>,
    dropped: usize,
}

impl Receiver {
    /// What `openssl` says the signature is.
    fn hmac(&self, parts: &[&[u8]]) -> String {
        let file = self.folder.join("signed");
        std::fs::write(&file, parts.concat()).unwrap();
        let mut openssl = Command::new("openssl");
        openssl
            .args(["dgst", "-sha256", "-hmac", SECRET, "-r"])
            .arg(&file)
            .stderr(Stdio::inherit());
        let output = openssl.output().unwrap();
        assert!(output.status.success());
        let text = String::from_utf8(output.stdout).unwrap();
        format!("sha256={}", text.split_whitespace().next().unwrap())
    }
}

impl Does for Receiver {
    fn answer(&mut self, asked: &Asked) -> Answer {
        if asked.method == "HEAD" {
            return Answer::of(405, Value::Null);
        }
        assert_eq!(asked.line(), "POST /hooks/ci");
        assert_eq!(asked.header("content-type"), "application/json");
        assert_eq!(asked.header("x-nixci-event"), "verdict");
        let (delivery, timestamp) = (asked.header("x-nixci-delivery"), asked.header("x-nixci-timestamp"));
        assert_eq!(asked.header("x-nixci-signature-256"), self.hmac(&[&asked.body]));
        let dated = [delivery.as_bytes(), b".", timestamp.as_bytes(), b".", &asked.body];
        assert_eq!(asked.header("x-nixci-signature-v2"), self.hmac(&dated));
        let now = jiff::Timestamp::now().as_second();
        assert!((now - timestamp.parse::<i64>().unwrap()).abs() < 300, "not now");
        if self.taken.insert(delivery.to_owned(), asked.json()).is_some() {
            self.dropped += 1;
        }
        Answer::of(204, Value::Null)
    }
}

/// A receiver, and a client that knows its secret.
async fn start() -> (TempDir, Server<Receiver>, Client) {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(Receiver {
        folder: folder.path().to_owned(),
        taken: BTreeMap::new(),
        dropped: 0,
    })
    .await;
    let mut forge = config(ForgeKind::Webhook, &format!("{}/hooks/ci", server.url()), folder.path());
    forge.auth = None;
    forge.webhook_secret = Some(secret(folder.path(), "secret", SECRET));
    let client = Client::open(&forge).unwrap();
    (folder, server, client)
}

fn verdict(state: &str) -> Outgoing {
    let mut status = summary(StatusState::Success, "all fine");
    status.role = StatusRole::Verdict;
    status.content.text = json!({ "state": state, "note": "é \" </script>" }).to_string();
    status
}

#[tokio::test]
async fn a_verdict_is_signed_and_a_repeat_has_the_same_number() {
    let (_folder, server, client) = start().await;
    let first = verdict("success");
    // The answer to the first is lost: nobody can be asked, so it is sent again.
    server.fault("POST", "/hooks", Fault::Gateway);
    let error = client.send(&first).await.unwrap_err();
    assert!(matches!(error, SendError::Lost { .. }), "{error:?}");
    assert_eq!(client.look_up(&first).await.unwrap(), None);
    client.send(&first).await.unwrap();
    client.send(&verdict("failure")).await.unwrap();
    server.with(|receiver| {
        assert_eq!(receiver.dropped, 1);
        let states: Vec<_> = receiver.taken.values().map(|body| body["state"].clone()).collect();
        assert_eq!(states.len(), 2);
        assert!(states.contains(&json!("success")) && states.contains(&json!("failure")));
        assert!(receiver.taken.keys().all(|number| number.starts_with("5/nixci-")));
    });
}

#[rstest]
#[case(400, Some(Scope::Status))]
#[case(401, Some(Scope::Status))]
#[case(404, Some(Scope::Status))]
#[case(422, Some(Scope::Status))]
#[case(410, Some(Scope::Forge))]
#[case(302, Some(Scope::Forge))]
#[case(429, None)]
#[case(503, None)]
#[tokio::test]
async fn what_is_refused_is_told_from_what_may_work_later(#[case] status: u16, #[case] scope: Option<Scope>) {
    let (_folder, server, client) = start().await;
    let answer = Answer::of(status, json!({ "message": "no" })).with("location", "/elsewhere");
    server.fault("POST", "/hooks", Fault::Instead(answer));
    let error = client.send(&verdict("success")).await.unwrap_err();
    let told = match &error {
        SendError::Refused { scope, .. } => Some(*scope),
        SendError::Limited { .. } | SendError::Failed { .. } | SendError::Lost { .. } => None,
    };
    assert_eq!(told, scope, "{error:?}");
    assert_eq!(server.asked().len(), 1, "a redirect is not followed");
}

#[tokio::test]
async fn nothing_but_verdicts_is_told() {
    let (_folder, server, client) = start().await;
    let error = client
        .send(&summary(StatusState::Success, "all fine"))
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            SendError::Refused {
                scope: Scope::Status,
                ..
            }
        ),
        "{error:?}"
    );
    assert!(server.asked().is_empty());
    assert_eq!(client.check().await.unwrap(), "it answers (405); verdicts are signed");
}
