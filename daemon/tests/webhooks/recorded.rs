//! What real forges have sent, or document that they send.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use nixci_protocol::nixci::control::EvaluationState;
use nixci_store::testing::data_dir;
use nixci_store::testing::peers::node_modules;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::world::{SIGNING_KEY, World, answer, count, index, mac, outcome, settled};

/// The recorded deliveries of a real Gitea, in their order: name, headers, body.
fn recorded() -> Vec<(String, BTreeMap<String, String>, Vec<u8>)> {
    let dir = data_dir().join("forges/gitea-deliveries");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&dir).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if let Some(name) = name.strip_suffix(".headers.json") {
            let headers = std::fs::read(dir.join(format!("{name}.headers.json"))).unwrap();
            let body = std::fs::read(dir.join(format!("{name}.json"))).unwrap();
            found.push((name.to_owned(), serde_json::from_slice(&headers).unwrap(), body));
        }
    }
    found.sort();
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn all_deliveries_of_a_real_gitea_are_taken_and_handled() {
    let world = World::start().await;
    let all = recorded();
    assert_eq!(all.len(), 14);
    for forge in ["gitea", "forgejo"] {
        for (name, headers, body) in &all {
            let headers: Vec<(&str, &str)> = headers
                .iter()
                .filter(|(name, _)| !["host", "content-length", "accept-encoding"].contains(&name.as_str()))
                .map(|(name, value)| (name.as_str(), value.as_str()))
                .collect();
            let (status, text) = answer(world.hooks.plain(forge, &headers, body.clone())).await;
            assert_eq!(status, StatusCode::ACCEPTED, "{name}: {text}");
            let again = answer(world.hooks.plain(forge, &headers, body.clone())).await;
            assert_eq!(again.0, StatusCode::OK, "{name} is known now: {}", again.1);
        }
        settled(&world.state());
        let mut ended = BTreeMap::new();
        let conn = index(&world.state());
        let mut find = conn
            .prepare("SELECT event, outcome, count(*) FROM delivery WHERE forge = ?1 GROUP BY event, outcome")
            .unwrap();
        let rows = find.query_map([forge], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)));
        for row in rows.unwrap() {
            let (event, outcome, count): (String, String, i64) = row.unwrap();
            ended.insert((event, outcome), count);
        }
        let expected = [
            (("create", "ignored"), 2),
            (("delete", "ignored"), 1),
            (("issue_comment", "ignored"), 1),
            (("pull_request", "handled"), 4),
            (("push", "handled"), 6),
        ];
        let expected = expected.map(|((event, outcome), count)| ((event.to_owned(), outcome.to_owned()), count));
        assert_eq!(ended, BTreeMap::from(expected));
        let pull: (String, String, String, bool, bool) = conn
            .query_row(
                "SELECT head, head_ref, base_ref, is_open, is_fork FROM pull_request
                 WHERE forge = ?1 AND repository = 'adm/r' AND number = 1",
                [forge],
                |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?)),
            )
            .unwrap();
        let head = "19828d593965e9e27ca21e67f0413442727d5952".to_owned();
        assert_eq!(pull, (head, "f1".to_owned(), "main".to_owned(), false, false));
        let tag: (Option<String>, Option<String>) = conn
            .query_row(
                "SELECT old_commit, new_commit FROM push WHERE forge = ?1 AND git_ref = 'refs/tags/v1'",
                [forge],
                |row| Ok((row.get(0)?, row.get(1)?)),
            )
            .unwrap();
        assert!(
            tag.0.is_none() && tag.1.is_some(),
            "a tag that is new was nowhere: {tag:?}"
        );
    }
    assert_eq!(
        count(&world.state(), "delivery WHERE content IS NOT NULL"),
        0,
        "nothing is kept of what is done"
    );
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_example_of_githubs_events_is_understood() {
    let world = World::start().await;
    let file = node_modules().join("@octokit/webhooks-examples/api.github.com/index.json");
    let events: Vec<Value> = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
    let mut sent = 0;
    let mut bodies = std::collections::BTreeSet::new();
    for event in &events {
        let name = event["name"].as_str().unwrap();
        for example in event["examples"].as_array().unwrap() {
            sent += 1;
            let body = example.to_string();
            let (status, text) = answer(world.hooks.github(name, &format!("{name}-{sent}"), body.as_bytes())).await;
            let expected = if name == "push" || bodies.insert(body) {
                StatusCode::ACCEPTED
            } else {
                StatusCode::OK
            };
            assert_eq!(status, expected, "{name}-{sent}: {text}");
        }
    }
    assert_eq!((events.len(), sent), (58, 329));
    settled(&world.state());
    assert_eq!(count(&world.state(), "delivery WHERE outcome = 'failed'"), 0);
    assert_eq!(count(&world.state(), "push"), 7);
    assert!(count(&world.state(), "pull_request") > 0);
    let metrics = world.metrics().await;
    assert!(metrics.contains("nixci_webhooks_waiting 0"), "{metrics}");
    assert!(
        metrics.contains(r#"nixci_webhooks_done_total{forge="github",outcome="ignored"}"#),
        "{metrics}"
    );
    world.daemon.stop().await;
}

/// A push as GitLab documents it.
fn gitlab_push(kind: &str, git_ref: &str) -> Value {
    json!({
        "object_kind": kind, "event_name": kind,
        "before": "0".repeat(40), "after": "d".repeat(40), "ref": git_ref, "ref_protected": true,
        "checkout_sha": "d".repeat(40), "user_id": 4, "project_id": 15,
        "project": {"id": 15, "name": "App", "path_with_namespace": "gitlab/group/app", "default_branch": "main"},
        "repository": {"name": "App", "homepage": "http://gitlab.example/gitlab/group/app"},
        "commits": [], "total_commits_count": 0,
    })
}

/// A merge request as GitLab documents it.
fn gitlab_merge_request(action: &str, state: &str, head: &str, oldrev: Option<&str>, updated_at: &str) -> Value {
    json!({
        "object_kind": "merge_request", "event_type": "merge_request",
        "user": {"id": 1, "username": "root"},
        "project": {"id": 15, "name": "App", "path_with_namespace": "gitlab/group/app", "default_branch": "main"},
        "repository": {"name": "App", "homepage": "http://gitlab.example/gitlab/group/app"},
        "object_attributes": {
            "id": 99, "iid": 3, "target_branch": "main", "source_branch": "topic", "source_project_id": 16,
            "author_id": 51, "target_project_id": 15, "title": "Topic", "created_at": "2026-09-03T17:23:34Z",
            "updated_at": updated_at, "state": state, "action": action, "draft": false, "oldrev": oldrev,
            "last_commit": {"id": head, "message": "fixed", "timestamp": "2026-09-03T17:23:34+02:00"},
            "merge_status": "unchecked", "source": null, "target": null,
        },
        "changes": {}, "labels": [],
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn gitlab_tells_of_merge_requests_pushes_and_much_else() {
    let world = World::start().await;
    let (one, two) = ("1".repeat(40), "2".repeat(40));
    let evaluation = world.evaluation("gitlab/group/app", &one, Some(3)).await;
    let elsewhere = world.evaluation("o/n", &one, Some(3)).await;
    let bodies = [
        ("Push Hook", gitlab_push("push", "refs/heads/main"), "handled"),
        ("Tag Push Hook", gitlab_push("tag_push", "refs/tags/v1"), "handled"),
        ("System Hook", gitlab_push("push", "refs/heads/other"), "handled"),
        (
            "Note Hook",
            json!({"object_kind": "note", "object_attributes": {"id": 1}}),
            "ignored",
        ),
        ("System Hook", json!({"event_name": "project_create"}), "ignored"),
        (
            "Merge Request Hook",
            gitlab_merge_request("open", "opened", &one, None, "2026-09-03 17:23:34 UTC"),
            "handled",
        ),
        (
            "Merge Request Hook",
            gitlab_merge_request("update", "opened", &two, Some(&one), "2026-09-03T17:24:00Z"),
            "handled",
        ),
        (
            "Merge Request Hook",
            gitlab_merge_request("approved", "opened", &one, None, "2026-09-03T17:23:50Z"),
            "ignored",
        ),
    ];
    for (nth, (event, body, expected)) in bodies.into_iter().enumerate() {
        let number = format!("gitlab-{nth}");
        let (status, text) = answer(world.hooks.gitlab(event, &number, body.to_string().as_bytes())).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{number}: {text}");
        settled(&world.state());
        let (outcome, text) = outcome(&world.state(), &number);
        assert_eq!(outcome, expected, "{number}: {text}");
    }
    let head: (String, bool, bool) = index(&world.state())
        .query_row(
            "SELECT head, is_open, is_fork FROM pull_request WHERE repository = 'gitlab/group/app' AND number = 3",
            [],
            |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)),
        )
        .unwrap();
    assert_eq!(head, (two, true, true));
    assert_eq!(world.state_of(evaluation).await, EvaluationState::Cancelled);
    assert_eq!(world.state_of(elsewhere).await, EvaluationState::Receiving);
    assert_eq!(count(&world.state(), "push WHERE forge = 'gitlab'"), 3);
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn gitlab_signs_by_its_newer_tokens() {
    let world = World::start().await;
    let body = gitlab_push("push", "refs/heads/main").to_string();
    let now = jiff::Timestamp::now().as_second();
    let send = async |number: &str, time: i64, token: Option<&str>| {
        let time = time.to_string();
        let message = format!("{number}.{time}.{body}");
        let signature = format!("v1,{}", BASE64.encode(&mac(SIGNING_KEY, message.as_bytes())));
        let mut headers = vec![
            ("x-gitlab-event", "Push Hook"),
            ("webhook-id", number),
            ("webhook-timestamp", &time),
        ];
        match token {
            Some(token) => headers.push(("x-gitlab-token", token)),
            None => headers.push(("webhook-signature", &signature)),
        }
        answer(world.hooks.plain("gitlab-signed", &headers, body.clone())).await
    };
    assert_eq!(send("n1", now, None).await.0, StatusCode::ACCEPTED);
    assert_eq!(send("n1", now, None).await.0, StatusCode::OK);
    let (status, text) = send("n2", now - 3_600, None).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(text.contains("webhook-timestamp"), "{text}");
    assert_eq!(send("n3", now, Some("s3cr3t")).await.0, StatusCode::UNAUTHORIZED);
    settled(&world.state());
    assert_eq!(count(&world.state(), "push"), 1);
    world.daemon.stop().await;
}
