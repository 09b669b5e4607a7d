//! Commit statuses at GitLab. Checked against its documents, as no server of others' making is to be had.

use std::time::Duration;

use nixci_daemon::config::ForgeKind;
use nixci_daemon::forge::{Client, Scope, SendError};
use nixci_protocol::nixci::report::StatusState;
use rstest::rstest;
use serde_json::{Value, json};

use crate::gitlab_stub::GitLab;
use crate::server::{Answer, Fault, Server};
use crate::statuses::{COMMIT, client, job, refusal, summary};

async fn start() -> (Server<GitLab>, Client) {
    let server = GitLab::start().await;
    let client = client(ForgeKind::GitLab, &format!("{}/api/v4", server.url()));
    (server, client)
}

#[rstest]
#[case(StatusState::Queued, "pending")]
#[case(StatusState::Running, "running")]
#[case(StatusState::Success, "success")]
#[case(StatusState::Failure, "failed")]
#[case(StatusState::Error, "failed")]
#[case(StatusState::Cancelled, "canceled")]
#[case(StatusState::ActionRequired, "pending")]
#[case(StatusState::Neutral, "success")]
#[tokio::test]
async fn every_state_has_a_word_there(#[case] state: StatusState, #[case] word: &str) {
    let (server, client) = start().await;
    client.send(&summary(state, "3 of 5 built")).await.unwrap();
    server.with(|forge| assert_eq!(forge.shown(), [("nixci", word, "3 of 5 built")]));
}

#[tokio::test]
async fn a_repeated_state_is_a_success_and_what_runs_need_not_go_back() {
    let (server, client) = start().await;
    for state in [
        StatusState::Queued,
        StatusState::Queued,
        StatusState::Running,
        StatusState::Running,
    ] {
        client.send(&summary(state, "building")).await.unwrap();
    }
    client.send(&summary(StatusState::Queued, "waits again")).await.unwrap();
    client.send(&summary(StatusState::Success, "all fine")).await.unwrap();
    server.with(|forge| {
        assert_eq!(forge.shown(), [("nixci", "success", "all fine")]);
        assert_eq!(forge.jobs.len(), 1);
    });
}

#[tokio::test]
async fn a_restart_hides_what_had_ended() {
    let (server, client) = start().await;
    let mut status = summary(StatusState::Failure, "2 failed");
    status.remote_id = client.send(&status).await.unwrap().remote_id;
    for (state, description) in [
        (StatusState::Queued, "again"),
        (StatusState::Running, "building"),
        (StatusState::Success, "all fine"),
    ] {
        status.content.state = state;
        description.clone_into(&mut status.content.description);
        client.send(&status).await.unwrap();
    }
    server.with(|forge| {
        assert_eq!(forge.shown(), [("nixci", "success", "all fine")]);
        assert_eq!(forge.jobs.len(), 2);
        assert_eq!(forge.pipelines.len(), 1);
    });
}

#[tokio::test]
async fn all_contexts_go_into_the_pipeline_of_the_first() {
    let (server, client) = start().await;
    let mut status = summary(StatusState::Running, "building");
    status.remote_id = client.send(&status).await.unwrap().remote_id;
    assert_eq!(status.remote_id.as_deref(), Some("1000"));
    // Another pipeline of the same commit, as a push to a project with a CI file makes one.
    server.with(|forge| forge.pipelines.push((1001, "main".to_owned())));
    client.send(&job("nixci/a", StatusState::Success)).await.unwrap();
    status.content.state = StatusState::Success;
    client.send(&status).await.unwrap();
    // After a restart of the daemon the number is known from the index.
    let other = crate::statuses::client(ForgeKind::GitLab, &format!("{}/api/v4", server.url()));
    status.content.state = StatusState::Failure;
    other.send(&status).await.unwrap();
    server.with(|forge| assert!(forge.jobs.iter().all(|job| job.pipeline == 1000), "{:?}", forge.jobs));

    // It is deleted: the newest is taken.
    server.with(|forge| {
        forge.pipelines.remove(0);
        forge.jobs.clear();
    });
    let sent = client.send(&status).await.unwrap();
    assert_eq!(sent.remote_id.as_deref(), Some("1001"));
}

#[tokio::test]
async fn of_many_first_ones_at_once_only_one_goes_without_a_pipeline() {
    let (server, client) = start().await;
    let sends = (0..8).map(|number| {
        let client = &client;
        async move {
            client
                .send(&job(&format!("nixci/{number}"), StatusState::Success))
                .await
        }
    });
    for sent in futures_util::future::join_all(sends).await {
        assert_eq!(sent.unwrap().remote_id.as_deref(), Some("1000"));
    }
    let without = server
        .asked()
        .iter()
        .filter(|asked| asked.json()["pipeline_id"].is_null())
        .count();
    assert_eq!(without, 1);
}

#[rstest]
#[case(Fault::Cut)]
#[case(Fault::Gateway)]
#[tokio::test]
async fn after_a_lost_answer_the_job_is_found_with_its_pipeline_and_not_made_again(#[case] fault: Fault) {
    let (server, client) = start().await;
    let mut status = job(&format!("nixci/<b>{}", "é".repeat(200)), StatusState::Success);
    status.content.description = "z".repeat(300);
    assert_eq!(client.look_up(&status).await.unwrap(), None);
    server.fault("POST", "/statuses/", fault);
    let error = client.send(&status).await.unwrap_err();
    assert!(matches!(error, SendError::Lost { .. }), "{error:?}");
    let found = client.look_up(&status).await.unwrap().unwrap();
    assert!(found.is_same);
    assert_eq!(found.remote_id.as_deref(), Some("1000"));
    assert_eq!(found.state, Some(StatusState::Success));
    assert_eq!(server.with(|forge| forge.jobs.len()), 1);

    status.content.state = StatusState::Failure;
    let found = client.look_up(&status).await.unwrap().unwrap();
    assert!(!found.is_same);
    assert_eq!(found.remote_id.as_deref(), Some("1000"));
}

#[tokio::test]
async fn what_is_too_long_is_cut_or_left_out() {
    let (server, client) = start().await;
    let mut status = job(&"n".repeat(300), StatusState::Failure);
    status.content.description = "d".repeat(300);
    status.content.url = Some(format!("https://ci.example.org/{}", "u".repeat(300)));
    client.send(&status).await.unwrap();
    assert!(
        client
            .look_up(&status)
            .await
            .unwrap()
            .is_some_and(|found| found.is_same)
    );
    server.with(|forge| {
        assert_eq!(forge.jobs[0].name.chars().count(), 255);
        assert_eq!(forge.jobs[0].target_url, None);
    });
}

#[tokio::test]
async fn a_full_pipeline_refuses_new_jobs_but_not_those_that_it_has() {
    let (server, client) = start().await;
    server.with(|forge| forge.limit = 2);
    let mut first = summary(StatusState::Running, "building");
    first.remote_id = client.send(&first).await.unwrap().remote_id;
    client.send(&job("nixci/a", StatusState::Success)).await.unwrap();
    let (scope, why) = refusal(client.send(&job("nixci/b", StatusState::Success)).await.unwrap_err());
    assert_eq!(scope, Scope::Status);
    assert!(why.contains("exceeded the limit") && why.contains("`detail`"), "{why}");
    first.content.state = StatusState::Success;
    client.send(&first).await.unwrap();
    server.with(|forge| assert_eq!(forge.pipelines.len(), 1));
}

#[tokio::test]
async fn refusals_say_what_to_do() {
    let (server, client) = start().await;
    let mut status = summary(StatusState::Success, "fine");
    server.with(|forge| forge.access = 20);
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Repository);
    assert!(why.contains("Developer") && why.contains("protected"), "{why}");
    server.with(|forge| forge.access = 30);

    server.with(|forge| forge.scopes = vec!["read_api"]);
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Forge);
    assert!(why.contains("scope `api`"), "{why}");
    assert_eq!(refusal(client.check().await.unwrap_err()).0, Scope::Forge);
    server.with(|forge| forge.scopes = vec!["api"]);

    server.with(|forge| forge.own_names = vec!["nixci"]);
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Status);
    assert!(why.contains("same name"), "{why}");
    server.with(|forge| forge.own_names.clear());

    status.repository = "owner/old".to_owned();
    for error in [
        client.send(&status).await.unwrap_err(),
        client.look_up(&status).await.unwrap_err(),
    ] {
        let (scope, why) = refusal(error);
        assert_eq!(scope, Scope::Repository);
        assert!(why.contains("moved"), "{why}");
    }
    status.repository = "owner/none".to_owned();
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Repository);
    assert!(why.contains("`owner/none`"), "{why}");

    status = summary(StatusState::Success, "fine");
    status.commit = "f".repeat(40);
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Status);
    assert!(why.contains(&status.commit) && why.contains("push it there"), "{why}");
    assert!(server.with(|forge| forge.jobs.is_empty()));
}

#[tokio::test]
async fn a_commit_on_no_branch_needs_a_merge_request() {
    let (server, client) = start().await;
    server.with(|forge| forge.has_branch = false);
    let mut status = summary(StatusState::Success, "fine");
    status.git_ref = None;
    let (scope, why) = refusal(client.send(&status).await.unwrap_err());
    assert_eq!(scope, Scope::Status);
    assert!(why.contains("on no branch"), "{why}");
    status.pull_request = Some(7);
    client.send(&status).await.unwrap();
    server.with(|forge| assert_eq!(forge.pipelines[0].1, "refs/merge-requests/7/head"));
    status.git_ref = Some("refs/heads/topic".to_owned());
    client.send(&status).await.unwrap();
    server.with(|forge| assert_eq!(forge.pipelines[1].1, "topic"));
}

#[tokio::test]
async fn what_may_work_later_is_told_from_what_may_have_happened() {
    let (server, client) = start().await;
    let status = summary(StatusState::Success, "fine");
    let busy = Answer::of(
        409,
        json!({ "message": "Another update to this commit status is in progress" }),
    );
    server.fault("POST", "/statuses/", Fault::Instead(busy));
    let error = client.send(&status).await.unwrap_err();
    assert!(matches!(error, SendError::Failed { .. }), "{error:?}");

    let changed = Answer::of(
        400,
        json!({ "message": "Cannot transition status via :success from :failed" }),
    );
    server.fault("POST", "/statuses/", Fault::Instead(changed));
    let error = client.send(&status).await.unwrap_err();
    assert!(matches!(error, SendError::Lost { .. }), "{error:?}");

    let wait = Answer::of(429, Value::Null)
        .with("ratelimit-remaining", "0")
        .with("ratelimit-reset", "23");
    server.fault("POST", "/statuses/", Fault::Instead(wait));
    match client.send(&status).await.unwrap_err() {
        SendError::Limited { wait, .. } => assert_eq!(wait, Some(Duration::from_secs(23))),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn merge_requests_are_read() {
    let (_server, client) = start().await;
    let found = client.pull_request("owner/name", 7).await.unwrap().unwrap();
    assert_eq!((found.number, found.head.as_str()), (7, COMMIT));
    assert_eq!(found.head_ref.as_deref(), Some("topic"));
    assert_eq!(
        (found.base.as_deref(), found.base_ref.as_deref()),
        (Some("a".repeat(40).as_str()), Some("main"))
    );
    assert!(found.is_open && found.is_fork);
    assert_eq!(client.pull_request("owner/name", 8).await.unwrap(), None);
}

#[tokio::test]
async fn a_check_tells_who_we_are_and_what_is_missing() {
    let (server, client) = start().await;
    assert_eq!(
        client.check().await.unwrap(),
        "GitLab as `ci-bot` with a token for `api` until 2027-01-31"
    );
    let may = client.check_repository("owner/name").await.unwrap();
    assert_eq!(may.as_deref(), Some("`owner/name` may be written"));
    server.with(|forge| forge.access = 20);
    let (scope, why) = refusal(client.check_repository("owner/name").await.unwrap_err());
    assert_eq!(scope, Scope::Repository);
    assert!(why.contains("Developer"), "{why}");
    let old = Answer::of(404, json!({ "error": "404 Not Found" }));
    server.fault("GET", "/personal_access_tokens", Fault::Instead(old));
    assert!(client.check().await.unwrap().contains("does not tell"));
}
