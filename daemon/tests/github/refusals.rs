//! What GitHub's refusals mean, and how they are told.

use std::time::Duration;

use nixci_daemon::forge::{Client, Scope, SendError};
use nixci_protocol::nixci::report::StatusState;
use rstest::rstest;
use serde_json::{Value, json};

use crate::keys::{self, Keys};
use crate::server::Reply;
use crate::stand_in::StandIn;
use crate::world::{World, client, status};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

async fn ready() -> (StandIn, Client, Keys) {
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&keys.public, 0).await;
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs1);
    (stand_in, client, keys)
}

fn said(message: &str) -> Value {
    json!({"message": message})
}

/// The answers are those of GitHub's guides on rate limits and troubleshooting.
#[rstest]
#[case::primary(403, &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "in 90")], said("API rate limit exceeded for installation ID 77."), 90)]
#[case::secondary(403, &[("retry-after", "45")], said("You have exceeded a secondary rate limit."), 45)]
#[case::secondary_without_a_time(403, &[("x-ratelimit-remaining", "4000")], said("You have exceeded a secondary rate limit and have been temporarily blocked from content creation."), 60)]
#[case::too_many(429, &[], said("Too many requests: secondary rate limit"), 60)]
#[case::dated(429, &[("retry-after", "date in 30")], said("slow down"), 30)]
#[tokio::test]
async fn limits_say_how_long_to_wait(
    #[case] code: u16,
    #[case] headers: &[(&str, &str)],
    #[case] body: Value,
    #[case] seconds: u64,
) {
    // Its clock is an hour ahead of ours: what it says counts by its own.
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&keys.public, 3_600).await;
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs1);
    let now = jiff::Timestamp::now().as_second() + 3_600;
    let mut reply = Reply::json(code, &body);
    for (name, value) in headers {
        let value = match (value.strip_prefix("in "), value.strip_prefix("date in ")) {
            (Some(seconds), _) => (now + seconds.parse::<i64>().unwrap()).to_string(),
            (_, Some(seconds)) => jiff::Timestamp::from_second(now + seconds.parse::<i64>().unwrap())
                .unwrap()
                .strftime("%a, %d %b %Y %H:%M:%S GMT")
                .to_string(),
            _ => (*value).to_owned(),
        };
        reply = reply.with(name, &value);
    }
    stand_in.will_reply(reply);
    let error = client.send(&status(COMMIT, StatusState::Success)).await.unwrap_err();
    let SendError::Limited { wait: Some(wait), why } = error else {
        panic!("{error:?}");
    };
    let expected = Duration::from_secs(seconds);
    assert!(wait <= expected && wait + Duration::from_secs(5) > expected, "{wait:?}");
    assert!(why.starts_with("`github` takes no more for a while: "), "{why}");
}

#[rstest]
#[case::permission(403, &[("x-accepted-github-permissions", "checks=write")], said("Resource not accessible by integration"), Scope::Repository,
    "`github`: the App lacks `checks: write` on `acme/widgets`; grant it in the App's settings, and accept it where the App is installed")]
#[case::permission_by_words(403, &[], said("Resource not accessible by integration"), Scope::Repository,
    "`github`: the App lacks `checks: write` on `acme/widgets`; grant it in the App's settings, and accept it where the App is installed")]
#[case::suspended(403, &[], said("This installation has been suspended"), Scope::Repository,
    "`github` did not take a check run for `acme/widgets`: This installation has been suspended (403)")]
#[case::not_there(404, &[], said("Not Found"), Scope::Repository,
    "`github` has no `acme/widgets` that we may see: install the App there, or mend the project's `repository`")]
#[case::moved(301, &[("location", "http://127.0.0.1:1/elsewhere")], said("Moved Permanently"), Scope::Repository,
    "`acme/widgets` has another name at `github` now; set the project's `repository` to it")]
#[case::commit(422, &[], said("No commit found for SHA: 0123"), Scope::Status,
    "`github` did not take a check run for `acme/widgets`: No commit found for SHA: 0123 (422)")]
#[case::field(422, &[], json!({"message": "Validation Failed", "errors": [{"resource": "CheckRun", "message": "Only 65535 characters are allowed"}]}), Scope::Status,
    "`github` did not take a check run for `acme/widgets`: Validation Failed: Only 65535 characters are allowed (422)")]
#[tokio::test]
async fn refusals_say_what_to_do(
    #[case] code: u16,
    #[case] headers: &[(&str, &str)],
    #[case] body: Value,
    #[case] scope: Scope,
    #[case] expected: &str,
) {
    let (stand_in, client, _) = ready().await;
    let reply = headers
        .iter()
        .fold(Reply::json(code, &body), |reply, (name, value)| reply.with(name, value));
    stand_in.will_reply(reply);
    let error = client.send(&status(COMMIT, StatusState::Success)).await.unwrap_err();
    assert_eq!(
        error,
        SendError::Refused {
            scope,
            why: expected.to_owned()
        }
    );
    let requests = stand_in.server.asked().len();
    assert_eq!(requests, 3, "a refusal is not tried again, and a redirect not followed");
}

#[tokio::test]
async fn a_repository_that_was_renamed_is_told_with_its_new_name() {
    let (stand_in, client, _) = ready().await;
    let location = "https://api.github.com/repositories/5/check-runs";
    stand_in.will_reply(Reply::json(301, &said("Moved Permanently")).with("location", location));
    stand_in.will_reply(Reply::json(200, &json!({"id": 5, "full_name": "acme/gadgets"})));
    let error = client.send(&status(COMMIT, StatusState::Success)).await.unwrap_err();
    assert_eq!(
        error,
        SendError::Refused {
            scope: Scope::Repository,
            why: "`acme/widgets` is `acme/gadgets` at `github` now; set the project's `repository` to it".to_owned()
        }
    );
    assert_eq!(stand_in.server.asked_for("GET", "/repositories/5").len(), 1);
}

#[rstest]
#[case::gateway(Reply::json(502, &said("Server Error")))]
#[case::broken(Reply::json(500, &json!("oops")))]
#[case::gone(Reply::Lost)]
#[case::unreadable(Reply::json(201, &json!({"number": "one"})))]
#[tokio::test]
async fn what_may_have_happened_is_open(#[case] reply: Reply) {
    let (stand_in, client, _) = ready().await;
    stand_in.will_reply(reply);
    let error = client.send(&status(COMMIT, StatusState::Success)).await.unwrap_err();
    assert!(matches!(error, SendError::Lost { .. }), "{error:?}");
}

#[tokio::test]
async fn a_github_that_is_down_has_done_nothing() {
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let port = nixci_store::testing::peers::free_port();
    let client = client(&format!("http://127.0.0.1:{port}"), home.path(), &keys.pkcs1);
    let error = client.send(&status(COMMIT, StatusState::Success)).await.unwrap_err();
    assert!(matches!(error, SendError::Failed { .. }), "{error:?}");
}

#[rstest]
#[case("acme", "is no repository of `github`")]
#[case("acme/../../app", "is no repository of `github`")]
#[tokio::test]
async fn what_cannot_be_is_not_asked(#[case] repository: &str, #[case] expected: &str) {
    let (stand_in, client, _) = ready().await;
    let mut bad = status(COMMIT, StatusState::Success);
    bad.repository = repository.to_owned();
    let error = client.send(&bad).await.unwrap_err();
    assert!(error.to_string().contains(expected), "{error}");
    let mut bad = status("HEAD/../../x", StatusState::Success);
    for error in [
        client.send(&bad).await.unwrap_err(),
        client.look_up(&bad).await.unwrap_err(),
    ] {
        assert!(
            matches!(
                error,
                SendError::Refused {
                    scope: Scope::Status,
                    ..
                }
            ),
            "{error}"
        );
    }
    bad.commit = String::new();
    client.send(&bad).await.unwrap_err();
    assert_eq!(stand_in.server.asked().len(), 0);
}

/// The emulator's own refusals: an App without the permission, and a repository where it is not installed.
#[tokio::test]
async fn the_emulator_refuses_an_app_without_rights() {
    let world = World::with_permissions(json!({"checks": "read"})).await;
    let client = world.client(&world.peer.url());
    let error = client.send(&world.status(StatusState::Success)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`github`: the App lacks `checks: write` on `acme/widgets`; grant it in the App's settings, and accept it where \
         the App is installed"
    );
    let mut elsewhere = world.status(StatusState::Success);
    elsewhere.repository = "other/closed".to_owned();
    let error = client.send(&elsewhere).await.unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the App 1234 is not installed on `other/closed`"),
        "{error}"
    );
}
