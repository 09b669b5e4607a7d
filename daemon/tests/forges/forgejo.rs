//! Commit statuses at Forgejo and Gitea.

use std::time::Duration;

use nixci_daemon::config::ForgeKind;
use nixci_daemon::forge::{Client, Quota, Scope, SendError};
use nixci_protocol::nixci::report::StatusState;
use rstest::rstest;
use serde_json::{Value, json};

use crate::forgejo_stub::Forgejo;
use crate::server::{Answer, Fault, Server};
use crate::statuses::{COMMIT, client, config, job, refusal, summary};

async fn start() -> (Server<Forgejo>, Client) {
    let server = Forgejo::start().await;
    let client = client(ForgeKind::Forgejo, &format!("{}/api/v1", server.url()));
    (server, client)
}

#[rstest]
#[case(StatusState::Queued, "pending")]
#[case(StatusState::Running, "pending")]
#[case(StatusState::Success, "success")]
#[case(StatusState::Failure, "failure")]
#[case(StatusState::Error, "error")]
#[case(StatusState::Cancelled, "error")]
#[case(StatusState::ActionRequired, "pending")]
#[case(StatusState::Neutral, "success")]
#[tokio::test]
async fn every_state_has_a_word_there(#[case] state: StatusState, #[case] word: &str) {
    let (server, client) = start().await;
    client.send(&summary(state, "3 of 5 built")).await.unwrap();
    server.with(|forge| {
        assert_eq!(forge.newest("nixci"), (word, "3 of 5 built"));
        assert_eq!(forge.rows[0]["target_url"], "https://ci.example.org/evaluations/5");
    });
}

#[tokio::test]
async fn a_long_name_with_markup_arrives_as_it_is_and_a_long_description_is_cut() {
    let (server, client) = start().await;
    let name = format!("nixci/<b>{}&amp;\"%2F", "é".repeat(300));
    let mut status = job(&name, StatusState::Failure);
    status.content.description = format!("{} | <script>", "y".repeat(300));
    client.send(&status).await.unwrap();
    let found = client.look_up(&status).await.unwrap().unwrap();
    assert!(found.is_same, "also what was cut is known again");
    server.with(|forge| {
        let (_, description) = forge.newest(&name);
        assert_eq!(description.chars().count(), 255);
        assert!(description.ends_with('…'));
    });
}

#[rstest]
#[case(Fault::Cut)]
#[case(Fault::Gateway)]
#[tokio::test]
async fn after_a_lost_answer_the_status_is_found_and_not_added_again(#[case] fault: Fault) {
    let (server, client) = start().await;
    let mut status = summary(StatusState::Running, "building");
    client.send(&status).await.unwrap();
    status.content.state = StatusState::Success;
    assert_eq!(
        client.look_up(&status).await.unwrap().map(|found| found.is_same),
        Some(false)
    );

    server.fault("POST", "/statuses/", fault);
    let error = client.send(&status).await.unwrap_err();
    assert!(matches!(error, SendError::Lost { .. }), "{error:?}");
    let found = client.look_up(&status).await.unwrap().unwrap();
    assert!(found.is_same);
    assert_eq!(found.state, Some(StatusState::Success));
    assert_eq!(server.with(|forge| forge.rows.len()), 2);
}

#[tokio::test]
async fn a_status_is_found_behind_newer_ones_of_other_contexts() {
    let (server, client) = start().await;
    let status = job("nixci/first", StatusState::Success);
    client.send(&status).await.unwrap();
    for number in 0..120 {
        client
            .send(&job(&format!("nixci/{number}"), StatusState::Success))
            .await
            .unwrap();
    }
    assert!(client.look_up(&status).await.unwrap().unwrap().is_same);
    assert_eq!(server.count("GET"), 3, "50 on a page");
    assert_eq!(
        client.look_up(&job("nixci/none", StatusState::Success)).await.unwrap(),
        None
    );
}

#[tokio::test]
async fn an_unknown_commit_is_told_from_a_broken_server_and_from_an_unknown_repository() {
    let (server, client) = start().await;
    let mut status = summary(StatusState::Success, "fine");
    status.commit = "f".repeat(40);
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Status);
    assert!(why.contains(&status.commit) && why.contains("push it there"), "{why}");
    assert_eq!(client.look_up(&status).await.unwrap(), None);

    status = summary(StatusState::Success, "fine");
    let broken = Answer::of(500, json!({ "message": "database is locked" }));
    server.fault("POST", "/statuses/", Fault::Instead(broken));
    let error = client.send(&status).await.unwrap_err();
    assert!(
        matches!(&error, SendError::Lost { why } if why.contains("database is locked")),
        "{error:?}"
    );

    status.repository = "owner/none".to_owned();
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Repository);
    assert!(why.contains("`owner/none`"), "{why}");
}

#[tokio::test]
async fn a_repository_that_was_moved_is_refused_with_its_new_name_and_without_following() {
    let (server, client) = start().await;
    let mut status = summary(StatusState::Success, "fine");
    status.repository = "owner/old".to_owned();
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Repository);
    assert!(why.contains("now `owner/name`"), "{why}");
    assert_eq!(server.asked().len(), 1);
}

#[rstest]
#[case::empty("")]
#[case::no_owner("name")]
#[case::parent("../user")]
#[case::deep("a/b/c")]
#[tokio::test]
async fn what_names_no_repository_is_not_asked_for(#[case] repository: &str) {
    let (server, client) = start().await;
    let mut status = summary(StatusState::Success, "fine");
    status.repository = repository.to_owned();
    assert_eq!(refusal(client.send(&status).await.unwrap_err()).0, Scope::Repository);
    status = summary(StatusState::Success, "fine");
    status.commit = "../../user".to_owned();
    assert_eq!(refusal(client.send(&status).await.unwrap_err()).0, Scope::Status);
    assert!(server.asked().is_empty());
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let (server, client) = start().await;
    let status = summary(StatusState::Success, "fine");
    server.with(|forge| forge.scopes = vec!["read:repository"]);
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Repository);
    assert!(why.contains("scope `write:repository`"), "{why}");

    let folder = tempfile::tempdir().unwrap();
    let mut forge = config(ForgeKind::Gitea, &format!("{}/api/v1", server.url()), folder.path());
    forge.auth = None;
    let (scope, why) = refusal(Client::open(&forge).unwrap().send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Forge);
    assert!(why.contains("token_file"), "{why}");

    server.fault(
        "POST",
        "/statuses/",
        Fault::Instead(Answer::of(401, json!({ "message": "token was revoked" }))),
    );
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Forge);
    assert!(
        why.contains("token was revoked") && why.contains("make a new token"),
        "{why}"
    );

    let wait = Answer::of(429, Value::Null).with("retry-after", "17");
    server.fault("POST", "/statuses/", Fault::Instead(wait));
    let wait = match client.send(&status).await.unwrap_err() {
        SendError::Limited { wait, .. } => wait,
        other => panic!("{other:?}"),
    };
    assert_eq!(wait, Some(Duration::from_secs(17)));
    assert_eq!(server.with(|forge| forge.rows.len()), 0);
}

#[tokio::test]
async fn what_it_tells_of_its_limits_is_passed_on() {
    let (server, client) = start().await;
    let row = json!({ "id": 1, "status": "success", "context": "nixci" });
    let answer = Answer::of(201, row)
        .with("ratelimit-remaining", "3")
        .with("ratelimit-reset", "40");
    server.fault("POST", "/statuses/", Fault::Instead(answer));
    let sent = client.send(&summary(StatusState::Success, "fine")).await.unwrap();
    let quota = Quota {
        remaining: Some(3),
        reset_in: Some(Duration::from_secs(40)),
    };
    assert_eq!(sent.quota, quota);
}

#[tokio::test]
async fn pull_requests_are_read() {
    let (_server, client) = start().await;
    let found = client.pull_request("owner/name", 7).await.unwrap().unwrap();
    assert_eq!((found.number, found.head.as_str()), (7, COMMIT));
    assert_eq!(found.head_ref.as_deref(), Some("topic"));
    assert_eq!(found.base_ref.as_deref(), Some("main"));
    assert!(found.is_open && found.is_fork);
    assert_eq!(client.pull_request("owner/name", 8).await.unwrap(), None);
}

#[tokio::test]
async fn a_check_tells_who_we_are_and_what_is_missing() {
    let (server, client) = start().await;
    assert_eq!(client.check().await.unwrap(), "Forgejo 17.0.0+gitea-1.22.0 as `ci-bot`");
    assert_eq!(
        client.check_repository("owner/name").await.unwrap().as_deref(),
        Some("`owner/name` may be written")
    );
    server.with(|forge| {
        forge.version = "1.24.6";
        forge.scopes = vec!["write:repository"];
        forge.may_push = false;
    });
    assert_eq!(
        client.check().await.unwrap(),
        "Gitea 1.24.6 with a token that is known there"
    );
    let (scope, why) = refusal(client.check_repository("owner/name").await.unwrap_err());
    assert_eq!(scope, Scope::Repository);
    assert!(why.contains("write access"), "{why}");
    let missing = Answer::of(401, json!({ "message": "no such token" }));
    server.fault("GET", "/user", Fault::Instead(missing));
    assert_eq!(refusal(client.check().await.unwrap_err()).0, Scope::Forge);
}
