//! Who we are: keys, tokens of the App, tokens of its installations.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::atomic::Ordering;

use futures_util::future::join_all;
use nixci_daemon::forge::{Client, Scope, SendError};
use nixci_protocol::nixci::report::StatusState;
use rstest::rstest;

use crate::keys;
use crate::stand_in::StandIn;
use crate::world::{World, app, client, forge, secret, status};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

#[tokio::test]
async fn a_token_of_an_installation_is_asked_for_once_and_shared() {
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&keys.public, 0).await;
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs1);
    let status = status(COMMIT, StatusState::Running);
    for sent in join_all((0..20).map(|_| client.send(&status))).await {
        assert_eq!(sent.unwrap().remote_id.as_deref(), Some("1"));
    }
    assert_eq!(stand_in.server.asked_for("GET", "/installation").len(), 1);
    assert_eq!(stand_in.made(), 1);
    assert_eq!(stand_in.server.asked_for("POST", "/check-runs").len(), 20);
}

#[tokio::test]
async fn a_token_is_renewed_minutes_before_it_ends() {
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&keys.public, 0).await;
    stand_in.state.lives.store(4 * 60, Ordering::Relaxed);
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs8);
    let status = status(COMMIT, StatusState::Running);
    client.send(&status).await.unwrap();
    stand_in.state.lives.store(3_600, Ordering::Relaxed);
    client.send(&status).await.unwrap();
    assert_eq!(stand_in.made(), 2, "four minutes are too few");
    client.send(&status).await.unwrap();
    assert_eq!(stand_in.made(), 2, "an hour is not");
}

#[rstest]
#[case(3_600)]
#[case(-3_600)]
#[case(86_400 * 400)]
#[case(-100)]
#[tokio::test]
async fn a_clock_that_is_off_is_noticed_and_its_tokens_last(#[case] ahead: i64) {
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&keys.public, ahead).await;
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs1);
    let status = status(COMMIT, StatusState::Running);
    for _ in 0..3 {
        client.send(&status).await.unwrap();
    }
    assert_eq!(stand_in.made(), 1);
    assert_eq!(
        stand_in.server.asked_for("GET", "/installation").len(),
        2,
        "once by our clock, once by its"
    );
}

#[tokio::test]
async fn a_token_that_was_revoked_is_made_anew_once() {
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&keys.public, 0).await;
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs1);
    let status = status(COMMIT, StatusState::Running);
    client.send(&status).await.unwrap();
    // Only the newest counts.
    stand_in.state.made.fetch_add(1, Ordering::Relaxed);
    client.send(&status).await.unwrap();
    assert_eq!(stand_in.made(), 3);

    stand_in.state.takes_tokens.store(false, Ordering::Relaxed);
    let before = stand_in.server.asked().len();
    let error = client.send(&status).await.unwrap_err();
    assert!(matches!(error, SendError::Failed { .. }), "{error}");
    assert_eq!(stand_in.made(), 4, "not again and again");
    assert_eq!(stand_in.server.asked().len() - before, 3, "two tries and one new token");
}

#[tokio::test]
async fn an_app_that_was_installed_anew_is_found_and_one_that_was_removed_is_told() {
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&keys.public, 0).await;
    // No token lasts, so that each request asks for one.
    stand_in.state.lives.store(0, Ordering::Relaxed);
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs1);
    let status = status(COMMIT, StatusState::Running);
    client.send(&status).await.unwrap();
    stand_in.state.installation.store(78, Ordering::Relaxed);
    client.send(&status).await.unwrap();
    stand_in.state.installation.store(0, Ordering::Relaxed);
    let error = client.send(&status).await.unwrap_err();
    assert!(
        matches!(
            error,
            SendError::Refused {
                scope: Scope::Repository,
                ..
            }
        ),
        "{error}"
    );
    assert_eq!(
        error.to_string(),
        "the App 1234 is not installed on `acme/widgets` of `github`: install it there, or mend the project's `repository`"
    );
}

#[tokio::test]
async fn a_key_that_is_not_the_apps_is_told() {
    let (keys, other, home) = (keys::make(), keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&other.public, 0).await;
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs1);
    let errors = [
        client.send(&status(COMMIT, StatusState::Running)).await.unwrap_err(),
        client.check().await.unwrap_err(),
    ];
    for error in errors {
        assert!(
            matches!(
                error,
                SendError::Refused {
                    scope: Scope::Forge,
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(
            error.to_string(),
            "`github` does not know the App 1234 by this private key: A JSON web token could not be decoded (401); check \
             `app_id` and `private_key_file`"
        );
    }
}

#[tokio::test]
async fn check_tells_who_we_are_and_what_we_lack() {
    let world = World::start().await;
    let line = world.client(&world.peer.url()).check().await.unwrap();
    assert_eq!(
        line,
        "App `nixci` (1234), checks: write, pull_requests: read, actions: read; installed 1 times; events: check_run, \
         pull_request"
    );
    let world = World::with_permissions(serde_json::json!({"checks": "read"})).await;
    let error = world.client(&world.peer.url()).check().await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`github`: the App `nixci` lacks `checks: write`; grant it in the App's settings, and accept it where the App is \
         installed"
    );
}

/// Each bad key is told in one line that names the file and what to do, and nothing of the key.
#[test]
fn keys_that_cannot_be_used_are_told() {
    let keys = keys::make();
    let home = tempfile::tempdir().unwrap();
    let damaged = keys.pkcs1.lines().take(8).collect::<Vec<_>>().join("\n") + "\n-----END RSA PRIVATE KEY-----\n";
    let public = keys.public.clone();
    for (text, mode, expected) in [
        (None, 0o600, "failed to read it: No such file or directory"),
        (Some(String::new()), 0o600, "it is empty"),
        (Some(keys.pkcs1.clone()), 0o644, "everybody can read it (mode 0644)"),
        (Some("not a key at all".to_owned()), 0o600, "it is no key in PEM"),
        (
            Some(keys.ec_sec1.clone()),
            0o600,
            "it is not an RSA key, which is all that Apps have",
        ),
        (
            Some(keys.ec_pkcs8.clone()),
            0o600,
            "it is not an RSA key, which is all that Apps have",
        ),
        (Some(keys.locked.clone()), 0o600, "it is locked with a passphrase"),
        (Some(public), 0o600, "it is a public key"),
        (Some(damaged), 0o600, "or it is damaged"),
    ] {
        let path = home.path().join("bad.pem");
        let _ = std::fs::remove_file(&path);
        if let Some(text) = &text {
            secret(home.path(), "bad.pem", text);
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        }
        let error = Client::open(&forge("http://127.0.0.1:1", app(path.clone()))).unwrap_err();
        let shown = format!("{error}");
        assert!(shown.contains(expected), "{shown}");
        assert!(shown.contains(&path.display().to_string()), "{shown}");
        assert_eq!(shown.lines().count(), 1, "{shown}");
        for line in text
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| !line.contains("-----"))
        {
            assert!(!format!("{shown}{error:?}").contains(line), "the key is shown");
        }
    }
    for text in [&keys.pkcs1, &keys.pkcs8, &keys.pkcs1.replace('\n', "\r\n")] {
        Client::open(&forge("http://127.0.0.1:1", app(secret(home.path(), "key.pem", text)))).unwrap();
    }
}
