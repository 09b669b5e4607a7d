//! The one comment on a pull request at Forgejo and Gitea.

use nixci_daemon::config::ForgeKind;
use nixci_daemon::forge::{Client, Outgoing, SendError};
use nixci_protocol::nixci::control::EvaluationId;
use nixci_protocol::nixci::report::{StatusRole, StatusState};
use serde_json::json;

use crate::forgejo_stub::Forgejo;
use crate::server::{Answer, Fault, Server};
use crate::statuses::{client, summary};

async fn start() -> (Server<Forgejo>, Client) {
    let server = Forgejo::start().await;
    let client = client(ForgeKind::Forgejo, &format!("{}/api/v1", server.url()));
    (server, client)
}

fn with_comment(state: StatusState, description: &str) -> Outgoing {
    Outgoing {
        pull_request: Some(7),
        comment: true,
        ..summary(state, description)
    }
}

/// The bodies of all comments.
fn bodies(server: &Server<Forgejo>) -> Vec<String> {
    server.with(|forge| forge.comments.iter().map(|(.., body)| body.clone()).collect())
}

#[tokio::test]
async fn it_is_made_once_and_edited_afterwards() {
    let (server, client) = start().await;
    let first = client
        .send(&with_comment(StatusState::Running, "building"))
        .await
        .unwrap();
    let mut status = with_comment(StatusState::Failure, "2 failed");
    status.remote_id = first.remote_id;
    let second = client.send(&status).await.unwrap();
    let bodies = bodies(&server);
    assert_eq!(bodies.len(), 1);
    assert!(
        bodies[0].contains("# 2 failed") && bodies[0].contains("| job | result |"),
        "{}",
        bodies[0]
    );
    assert_eq!(server.with(|forge| forge.rows.len()), 2);

    // What it says already is not written again.
    status.remote_id = second.remote_id;
    client.send(&status).await.unwrap();
    assert_eq!((server.count("POST"), server.count("PATCH")), (3, 1));
}

#[tokio::test]
async fn it_is_found_again_after_its_number_was_lost_and_by_another_daemon() {
    let (server, client) = start().await;
    client
        .send(&with_comment(StatusState::Running, "building"))
        .await
        .unwrap();
    let other = crate::statuses::client(ForgeKind::Gitea, &format!("{}/api/v1", server.url()));
    other
        .send(&with_comment(StatusState::Success, "all fine"))
        .await
        .unwrap();
    let bodies = bodies(&server);
    assert_eq!(bodies.len(), 1);
    assert!(bodies[0].contains("all fine"), "{}", bodies[0]);
}

#[tokio::test]
async fn one_that_was_deleted_is_made_again_and_what_others_wrote_is_left_alone() {
    let (server, client) = start().await;
    let sent = client
        .send(&with_comment(StatusState::Running, "building"))
        .await
        .unwrap();
    let ours = bodies(&server).remove(0);
    server.with(|forge| {
        forge.comments.clear();
        // With our marker, by somebody who has copied it.
        forge.comment("mallory", &ours);
    });
    let mut status = with_comment(StatusState::Success, "all fine");
    status.remote_id = sent.remote_id;
    client.send(&status).await.unwrap();
    let bodies = bodies(&server);
    assert_eq!(bodies.len(), 2);
    assert_eq!(bodies[0], ours);
    assert!(bodies[1].contains("all fine"));
}

#[tokio::test]
async fn a_daemon_that_starts_again_asks_who_it_is_before_it_edits() {
    let (server, client) = start().await;
    let mut status = with_comment(StatusState::Success, "all fine");
    server.fault("POST", "/comments", Fault::Gateway);
    client.send(&status).await.unwrap_err();
    server.with(|forge| {
        let ours = forge.comments[0].2.clone();
        // Older than ours, by somebody who has copied it from elsewhere.
        forge.comments.insert(0, (1, "mallory".to_owned(), ours));
    });
    let again = crate::statuses::client(ForgeKind::Forgejo, &format!("{}/api/v1", server.url()));
    again.look_up(&status).await.unwrap().unwrap().adopt(&mut status);
    status.content.text = "more".to_owned();
    again.send(&status).await.unwrap();
    assert_eq!(server.count("GET /api/v1/user"), 1);
    let bodies = bodies(&server);
    assert_eq!(bodies.len(), 2);
    assert!(!bodies[0].contains("more") && bodies[1].contains("more"), "{bodies:?}");
    assert_eq!(server.with(|forge| forge.rows.len()), 1);
}

#[tokio::test]
async fn an_older_evaluation_does_not_speak_over_a_newer_one() {
    let (server, client) = start().await;
    let mut newer = with_comment(StatusState::Success, "the newer");
    newer.evaluation = EvaluationId(6);
    client.send(&newer).await.unwrap();
    client
        .send(&with_comment(StatusState::Failure, "the older"))
        .await
        .unwrap();
    let bodies = bodies(&server);
    assert_eq!(bodies.len(), 1);
    assert!(bodies[0].contains("the newer"), "{}", bodies[0]);
    assert_eq!(server.with(|forge| forge.newest("nixci").1.to_owned()), "the older");
}

#[tokio::test]
async fn a_refused_comment_does_not_hold_up_the_status() {
    let (server, client) = start().await;
    server.with(|forge| forge.is_locked = true);
    client
        .send(&with_comment(StatusState::Success, "all fine"))
        .await
        .unwrap();
    assert_eq!(server.with(|forge| forge.newest("nixci").1.to_owned()), "all fine");
    server.with(|forge| forge.scopes = vec!["write:repository"]);
    client
        .send(&with_comment(StatusState::Failure, "2 failed"))
        .await
        .unwrap();
    assert!(bodies(&server).is_empty());
}

#[tokio::test]
async fn after_a_lost_answer_to_the_comment_neither_it_nor_the_status_is_doubled() {
    let (server, client) = start().await;
    for fault in [
        Fault::Cut,
        Fault::Instead(Answer::of(500, json!({ "message": "database is locked" }))),
    ] {
        server.fault("POST", "/comments", fault);
        let mut status = with_comment(StatusState::Success, "all fine");
        let error = client.send(&status).await.unwrap_err();
        assert!(matches!(error, SendError::Lost { .. }), "{error:?}");
        let found = client.look_up(&status).await.unwrap().unwrap();
        assert!(!found.is_same, "the comment may be missing");
        found.adopt(&mut status);
        client.send(&status).await.unwrap();
        assert_eq!(bodies(&server).len(), 1);
        assert_eq!(server.with(|forge| forge.rows.len()), 1);
        server.with(|forge| {
            forge.comments.clear();
            forge.rows.clear();
        });
    }
}

#[tokio::test]
async fn summaries_that_look_at_once_make_one() {
    let (server, client) = start().await;
    let sends = (5..13).map(|number| {
        let mut status = with_comment(StatusState::Success, &format!("evaluation {number}"));
        status.evaluation = EvaluationId(number);
        let client = &client;
        async move { client.send(&status).await.unwrap() }
    });
    futures_util::future::join_all(sends).await;
    let bodies = bodies(&server);
    assert_eq!(bodies.len(), 1);
    assert!(bodies[0].contains("evaluation 12"), "{}", bodies[0]);
}

#[tokio::test]
async fn jobs_and_commits_without_a_pull_request_have_none() {
    let (server, client) = start().await;
    let mut status = with_comment(StatusState::Success, "fine");
    status.role = StatusRole::Job;
    client.send(&status).await.unwrap();
    status = with_comment(StatusState::Success, "fine");
    status.pull_request = None;
    client.send(&status).await.unwrap();
    status = with_comment(StatusState::Success, "fine");
    status.comment = false;
    client.send(&status).await.unwrap();
    assert_eq!(server.count("GET"), 0);
    assert!(bodies(&server).is_empty());
}

#[tokio::test]
async fn a_context_and_a_description_with_markup_stay_text() {
    let (server, client) = start().await;
    let mut status = with_comment(StatusState::Failure, "@everyone <img src=x> `x`");
    status.content.summary = String::new();
    status.context = "nixci `<b>` --> <!--".to_owned();
    client.send(&status).await.unwrap();
    client.send(&status).await.unwrap();
    let bodies = bodies(&server);
    assert_eq!(bodies.len(), 1, "the marker is found whatever the context holds");
    assert!(bodies[0].contains("`` @everyone <img src=x> `x` ``"), "{}", bodies[0]);
}
