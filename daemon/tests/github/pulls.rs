//! Pull requests and runs of workflows.

use nixci_daemon::forge::{PullRequest, WorkflowRun};
use serde_json::{Value, json};

use crate::keys;
use crate::server::Reply;
use crate::stand_in::StandIn;
use crate::world::{REPOSITORY, World, client};

impl World {
    /// Does something as a person.
    async fn make(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = crate::server::http()
            .request(
                method.parse().unwrap(),
                format!("{}/repos/acme/widgets{path}", self.peer.url()),
            )
            .bearer_auth("test-user-token")
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{path}: {}", answer.text().await.unwrap());
        answer.json().await.unwrap()
    }
}

#[tokio::test]
async fn a_pull_request_is_as_the_emulator_has_it() {
    let world = World::start().await;
    world
        .make(
            "POST",
            "/git/refs",
            json!({"ref": "refs/heads/topic", "sha": world.commit}),
        )
        .await;
    let file = json!({"message": "m", "content": "eA==", "branch": "topic"});
    let made = world.make("PUT", "/contents/new.txt", file).await;
    let head = made["commit"]["sha"].as_str().unwrap();
    let pull = world
        .make("POST", "/pulls", json!({"title": "t", "head": "topic", "base": "main"}))
        .await;
    let number = pull["number"].as_u64().unwrap();
    let client = world.client(&world.peer.url());
    let expected = PullRequest {
        number,
        head: head.to_owned(),
        head_ref: Some("topic".to_owned()),
        base: Some(world.commit.clone()),
        base_ref: Some("main".to_owned()),
        is_open: true,
        is_fork: false,
        head_owner: Some("acme".to_owned()),
    };
    assert_eq!(
        client.pull_request(REPOSITORY, number).await.unwrap(),
        Some(expected.clone())
    );
    world
        .make("PATCH", &format!("/pulls/{number}"), json!({"state": "closed"}))
        .await;
    let closed = PullRequest {
        is_open: false,
        ..expected
    };
    assert_eq!(client.pull_request(REPOSITORY, number).await.unwrap(), Some(closed));
    assert_eq!(client.pull_request(REPOSITORY, 999).await.unwrap(), None);
    assert_eq!(client.workflow_run(REPOSITORY, 999).await.unwrap(), None);
}

#[tokio::test]
async fn forks_and_runs_of_workflows_are_read() {
    let (keys, home) = (keys::make(), tempfile::tempdir().unwrap());
    let stand_in = StandIn::start(&keys.public, 0).await;
    let client = client(&stand_in.server.url, home.path(), &keys.pkcs1);
    for (repo, branch) in [
        (json!({"id": 2, "full_name": "else/widgets"}), Some("else:topic")),
        (json!(null), None),
        (json!({"id": 1, "full_name": REPOSITORY}), Some("topic")),
    ] {
        let body = json!({
            "number": 3, "state": "open",
            "head": {"sha": "aa", "ref": "topic", "repo": repo},
            "base": {"sha": "bb", "ref": "main", "repo": {"id": 1}},
        });
        stand_in.will_reply(Reply::json(200, &body));
        let pull = client.pull_request(REPOSITORY, 3).await.unwrap().unwrap();
        assert_eq!(pull.is_fork, branch != Some("topic"), "a fork that was deleted is one");
        assert_eq!(pull.branch().as_deref(), branch);
    }
    let run = json!({
        "head_sha": "cc", "event": "pull_request", "head_branch": "topic", "pull_requests": [{"number": 3}], "id": 9,
        "repository": {"id": 1, "full_name": REPOSITORY}, "head_repository": {"id": 2, "full_name": "else/widgets"},
    });
    stand_in.will_reply(Reply::json(200, &run));
    assert_eq!(
        client.workflow_run(REPOSITORY, 9).await.unwrap(),
        Some(WorkflowRun {
            head: "cc".to_owned(),
            event: "pull_request".to_owned(),
            head_branch: Some("topic".to_owned()),
            is_fork: true,
            head_owner: Some("else".to_owned()),
            pull_requests: vec![3],
        })
    );
    stand_in.will_reply(Reply::json(200, &json!({"head_sha": "cc"})));
    let error = client.workflow_run(REPOSITORY, 9).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "what `github` answered is not a run of a workflow (200)"
    );
}
