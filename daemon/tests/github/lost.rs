//! Answers that never came: what was made is found again, and nothing is made twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nixci_daemon::forge::{Client, SendError};
use nixci_protocol::nixci::report::StatusState;

use crate::server::{Asked, Reply, Server};
use crate::world::World;

/// The emulator, with somebody before it who loses answers to what changes something while it is told to.
async fn lossy() -> (World, Server, Client, Arc<AtomicBool>) {
    let world = World::start().await;
    let loses = Arc::new(AtomicBool::new(true));
    let flag = Arc::clone(&loses);
    let server = Server::before(world.peer.url(), move |asked: &Asked| {
        flag.load(Ordering::Relaxed) && asked.path().contains("/check-runs") && asked.method != "GET"
    })
    .await;
    let client = world.client(&server.url);
    (world, server, client, loses)
}

#[tokio::test]
async fn a_create_whose_answer_was_lost_is_adopted() {
    let (world, _server, client, loses) = lossy().await;
    let mut status = world.status(StatusState::Running);
    let error = client.send(&status).await.unwrap_err();
    assert!(matches!(error, SendError::Lost { .. }), "{error}");
    let found = client.look_up(&status).await.unwrap().expect("it was made");
    let runs = world.runs().await;
    assert_eq!(found.remote_id, Some(runs[0]["id"].to_string()));
    assert!(found.is_same);
    assert_eq!(found.state, Some(StatusState::Running));

    // Meanwhile it says something else: what was made is changed.
    status.content = world.status(StatusState::Success).content;
    let found = client.look_up(&status).await.unwrap().expect("it was made");
    assert!(!found.is_same);
    found.adopt(&mut status);
    loses.store(false, Ordering::Relaxed);
    client.send(&status).await.unwrap();
    let runs = world.runs().await;
    assert_eq!(runs.len(), 1, "nothing is made twice");
    assert_eq!(runs[0]["conclusion"], "success");
}

#[tokio::test]
async fn a_change_whose_answer_was_lost_is_seen() {
    let (world, _server, client, loses) = lossy().await;
    loses.store(false, Ordering::Relaxed);
    let mut status = world.status(StatusState::Running);
    let sent = client.send(&status).await.unwrap();
    (status.remote_id, status.sent_state) = (sent.remote_id, Some(StatusState::Running));
    status.content = world.status(StatusState::Failure).content;
    assert!(!client.look_up(&status).await.unwrap().unwrap().is_same, "not yet");
    loses.store(true, Ordering::Relaxed);
    client.send(&status).await.unwrap_err();
    let found = client.look_up(&status).await.unwrap().unwrap();
    assert!(found.is_same);
    assert_eq!(
        (found.remote_id, found.state),
        (status.remote_id, Some(StatusState::Failure))
    );
}

#[tokio::test]
async fn a_new_run_whose_answer_was_lost_is_told_from_the_old_one() {
    let (world, _server, client, loses) = lossy().await;
    loses.store(false, Ordering::Relaxed);
    let first = client.send(&world.status(StatusState::Failure)).await.unwrap();
    let mut status = world.status(StatusState::Running);
    (status.remote_id, status.sent_state) = (first.remote_id.clone(), Some(StatusState::Failure));
    let found = client.look_up(&status).await.unwrap().unwrap();
    assert!(
        !found.is_same && found.remote_id == first.remote_id,
        "only the old one is there"
    );
    loses.store(true, Ordering::Relaxed);
    client.send(&status).await.unwrap_err();
    let found = client.look_up(&status).await.unwrap().unwrap();
    assert!(found.is_same && found.remote_id != first.remote_id);

    status.content.summary.push_str("\n\nmore");
    let found = client.look_up(&status).await.unwrap().unwrap();
    found.adopt(&mut status);
    loses.store(false, Ordering::Relaxed);
    client.send(&status).await.unwrap();
    assert_eq!(
        world.runs().await.len(),
        2,
        "no third one, that nobody would ever complete"
    );
}

/// A list may be older than what was made: the run is asked for by its number before it is believed to be gone.
#[tokio::test]
async fn a_run_that_a_list_does_not_show_yet_is_not_made_again() {
    let world = World::start().await;
    let upstream = Server::before(world.peer.url(), |_| false).await;
    let behind = upstream.url.clone();
    let http = crate::server::http();
    let server = Server::start(move |asked: Asked| {
        let request = http
            .request(asked.method.parse().unwrap(), format!("{behind}{}", asked.target))
            .bearer_auth(asked.bearer())
            .body(asked.body.clone());
        async move {
            if asked.path().contains("/commits/") {
                return Reply::json(200, &serde_json::json!({"total_count": 0, "check_runs": []}));
            }
            let answer = request.send().await.unwrap();
            Reply::json(answer.status().as_u16(), &answer.json().await.unwrap())
        }
    })
    .await;
    let client = world.client(&server.url);
    let mut status = world.status(StatusState::Running);
    status.remote_id = client.send(&status).await.unwrap().remote_id;
    let found = client
        .look_up(&status)
        .await
        .unwrap()
        .expect("it is there by its number");
    assert!(found.is_same && found.remote_id == status.remote_id);
    status.remote_id = Some("999".to_owned());
    assert_eq!(client.look_up(&status).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_not_ours_or_not_there_is_not_found() {
    let (world, _server, client, loses) = lossy().await;
    loses.store(false, Ordering::Relaxed);
    let mut other = world.status(StatusState::Success);
    other.external_id = "somebody-else".to_owned();
    client.send(&other).await.unwrap();
    assert_eq!(client.look_up(&world.status(StatusState::Success)).await.unwrap(), None);
    let mut unknown = world.status(StatusState::Success);
    unknown.commit = "f".repeat(40);
    assert_eq!(client.look_up(&unknown).await.unwrap(), None);
}

#[tokio::test]
async fn a_question_whose_answer_was_lost_leaves_nothing_open() {
    let world = World::start().await;
    let server = Server::before(world.peer.url(), |asked: &Asked| !asked.path().ends_with("/check-runs")).await;
    let client = world.client(&server.url);
    let error = client.send(&world.status(StatusState::Success)).await.unwrap_err();
    assert!(matches!(error, SendError::Failed { .. }), "{error}");
    assert_eq!(world.runs().await.len(), 0);
}
