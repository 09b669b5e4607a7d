//! Check runs, at the emulator, each request judged by GitHub's own description.

use nixci_daemon::forge::github::Button;
use nixci_protocol::nixci::report::{StatusRole, StatusState};
use rstest::rstest;
use serde_json::json;

use crate::schema::Description;
use crate::server::Server;
use crate::world::{World, annotations};

/// The emulator, with somebody before it who writes down what is asked.
async fn watched() -> (World, Server) {
    let world = World::start().await;
    let server = Server::before(world.peer.url(), |_| false).await;
    (world, server)
}

/// Everything that was asked is as GitHub describes it.
fn judge(server: &Server) {
    let description = Description::read();
    for asked in server.asked() {
        let faults = description.faults(&asked);
        assert!(faults.is_empty(), "{} {}: {faults:?}", asked.method, asked.target);
    }
}

#[tokio::test]
async fn a_run_is_created_changed_and_completed() {
    let (world, server) = watched().await;
    let client = world.client(&server.url);
    let mut status = world.status(StatusState::Queued);
    for state in [StatusState::Queued, StatusState::Running, StatusState::Success] {
        status.content = world.status(state).content;
        let sent = client.send(&status).await.unwrap();
        assert!(sent.quota.remaining.is_some_and(|left| (4_900..5_000).contains(&left)));
        assert!(sent.quota.reset_in.is_some_and(|time| time.as_secs() <= 3_600));
        (status.remote_id, status.sent_state) = (sent.remote_id, Some(state));
    }
    let runs = world.runs().await;
    assert_eq!(runs.len(), 1);
    let run = &runs[0];
    assert_eq!(run["id"].to_string(), status.remote_id.unwrap());
    for (key, value) in [
        ("name", "nixci"),
        ("status", "completed"),
        ("conclusion", "success"),
        ("external_id", "nixci-status-1"),
        ("details_url", "https://ci.example.org/evaluations/7"),
        ("started_at", "2023-11-14T22:13:20Z"),
        ("completed_at", "2023-11-14T22:14:20Z"),
    ] {
        assert_eq!(run[key], value, "{key}");
    }
    assert_eq!(run["output"]["title"], "it is success");
    assert_eq!(run["output"]["summary"], "# All\n\nof it");
    assert_eq!(run["output"]["text"], "```\nlog\n```\n");
    assert_eq!(server.asked_for("POST", "/check-runs").len(), 1);
    assert_eq!(server.asked().iter().filter(|asked| asked.method == "PATCH").count(), 2);
    judge(&server);
}

#[rstest]
#[case(StatusState::Success, "success")]
#[case(StatusState::Failure, "failure")]
#[case(StatusState::Error, "cancelled")]
#[case(StatusState::Cancelled, "cancelled")]
#[case(StatusState::ActionRequired, "action_required")]
#[case(StatusState::Neutral, "neutral")]
#[tokio::test]
async fn what_is_known_already_is_one_completed_run(#[case] state: StatusState, #[case] conclusion: &str) {
    let (world, server) = watched().await;
    world.client(&server.url).send(&world.status(state)).await.unwrap();
    let runs = world.runs().await;
    assert_eq!(runs.len(), 1);
    assert_eq!(
        (&runs[0]["status"], &runs[0]["conclusion"]),
        (&json!("completed"), &json!(conclusion))
    );
    assert_eq!(server.asked_for("POST", "/check-runs").len(), 1);
    assert!(server.asked().iter().all(|asked| asked.method != "PATCH"));
    judge(&server);
}

#[tokio::test]
async fn what_runs_again_is_a_new_run_and_a_removed_one_is_created_again() {
    let (world, server) = watched().await;
    let client = world.client(&server.url);
    let first = client.send(&world.status(StatusState::Failure)).await.unwrap();
    let mut again = world.status(StatusState::Running);
    (again.remote_id, again.sent_state) = (first.remote_id.clone(), Some(StatusState::Failure));
    let second = client.send(&again).await.unwrap();
    assert_ne!(
        second.remote_id, first.remote_id,
        "\"Re-run\" is shown on new runs only"
    );
    let mut green = world.status(StatusState::Success);
    (green.remote_id, green.sent_state) = (second.remote_id.clone(), Some(StatusState::Running));
    client.send(&green).await.unwrap();
    let latest = world
        .get(&format!("/repos/acme/widgets/commits/{}/check-runs", world.commit))
        .await;
    assert_eq!(latest["total_count"], 1, "the newest of a name counts");
    assert_eq!(latest["check_runs"][0]["conclusion"], "success", "green after red");

    let mut gone = world.status(StatusState::Success);
    (gone.remote_id, gone.sent_state) = (Some("999".to_owned()), Some(StatusState::Running));
    let made = client.send(&gone).await.unwrap();
    assert!(made.remote_id.is_some_and(|id| id != "999"));
    judge(&server);
}

#[tokio::test]
async fn annotations_go_by_fifties_with_the_final_content_only() {
    let (world, server) = watched().await;
    let client = world.client(&server.url);
    let mut status = world.status(StatusState::Running);
    status.role = StatusRole::Evaluation;
    status.content.annotations = annotations(120);
    let sent = client.send(&status).await.unwrap();
    assert_eq!(
        server.asked_for("POST", "/check-runs")[0].json()["output"].get("annotations"),
        None
    );

    status.content = world.status(StatusState::Failure).content;
    status.content.annotations = annotations(120);
    (status.remote_id, status.sent_state) = (sent.remote_id, Some(StatusState::Running));
    client.send(&status).await.unwrap();
    let changes: Vec<_> = server
        .asked()
        .into_iter()
        .filter(|asked| asked.method == "PATCH")
        .collect();
    let lines: Vec<Vec<u64>> = changes
        .iter()
        .map(|asked| {
            let output = &asked.json()["output"];
            assert_eq!(output["summary"], "# All\n\nof it", "nothing is replaced by nothing");
            let annotations = output["annotations"].as_array().unwrap().clone();
            annotations
                .iter()
                .map(|annotation| annotation["start_line"].as_u64().unwrap())
                .collect()
        })
        .collect();
    assert_eq!(
        lines,
        [
            (1..=50).collect::<Vec<_>>(),
            (51..=100).collect(),
            (101..=120).collect()
        ]
    );
    assert_eq!(changes[0].json()["conclusion"], "failure", "the verdict is first");

    // What GitHub would add to those that are there goes to a new run.
    (status.sent_state, status.content.annotations) = (Some(StatusState::Failure), annotations(1_000));
    client.send(&status).await.unwrap();
    let created = &server.asked_for("POST", "/check-runs")[1];
    let text = created.json()["output"]["text"].as_str().unwrap().to_owned();
    assert!(
        text.starts_with("800 more remarks are not shown on their lines.\n\n"),
        "{text}"
    );
    assert_eq!(
        server.asked().iter().filter(|asked| asked.method == "PATCH").count(),
        3 + 3
    );
    judge(&server);
}

#[tokio::test]
async fn texts_beyond_every_limit_are_cut_to_what_github_takes() {
    let (world, server) = watched().await;
    let client = world.client(&server.url);
    let mut status = world.status(StatusState::Failure);
    status.role = StatusRole::Job;
    status.context = format!("<script>alert(1)</script>\n`{}`\u{202e}", "ä*_[x](y)".repeat(40));
    status.content.description = format!("</td>\r\n{}", "ß".repeat(300));
    status.content.summary = format!("```\n{}", "log line with `ticks`\n".repeat(4_000));
    status.content.text = "€".repeat(70_000);
    status.content.annotations = annotations(1);
    status.content.annotations[0].path = "./a\nb.nix".to_owned();
    status.content.annotations[0].line = 0;
    status.content.annotations[0].title = "t".repeat(1_000);
    status.content.annotations[0].message = "é".repeat(100_000);
    status.content.url = Some("javascript:alert(1)".to_owned());
    assert!(status.content.summary.len() > 70_000 && status.context.chars().count() > 300);
    client.send(&status).await.unwrap();
    let asked = server.asked_for("POST", "/check-runs").remove(0);
    let body = asked.json();
    let text = |at: &str| body.pointer(at).unwrap().as_str().unwrap();
    for (at, chars) in [
        ("/name", 255),
        ("/output/title", 255),
        ("/output/annotations/0/title", 255),
    ] {
        assert_eq!(text(at).chars().count(), chars, "{at}");
        assert!(text(at).chars().all(|c| !c.is_control() && c != '\u{202e}'), "{at}");
    }
    let summary = text("/output/summary");
    assert!((60_000..=65_535).contains(&summary.len()), "{}", summary.len());
    let (kept, note) = summary.rsplit_once("```\n").unwrap();
    assert!(status.content.summary.starts_with(kept) && kept.ends_with('\n'));
    assert_eq!(note, "\n\n… cut here, as GitHub shows no more");
    assert!((60_000..=65_535).contains(&text("/output/text").len()));
    assert!(text("/output/annotations/0/message").len() <= 64_000);
    assert_eq!(text("/output/annotations/0/path"), "a b.nix");
    assert_eq!(body["output"]["annotations"][0]["start_line"], 1);
    assert_eq!(body.get("details_url"), None, "no browser shall run it");
    judge(&server);

    // What was cut is still known to be the same.
    let found = client.look_up(&status).await.unwrap().unwrap();
    assert!(found.is_same);
}

#[tokio::test]
async fn buttons_are_of_the_summary_and_its_state() {
    let (world, server) = watched().await;
    let client = world.client(&server.url);
    for (role, state, expected) in [
        (StatusRole::Summary, StatusState::Running, vec!["cancel"]),
        (StatusRole::Summary, StatusState::Failure, vec!["rerun"]),
        (StatusRole::Summary, StatusState::Success, vec![]),
        (StatusRole::Job, StatusState::Failure, vec![]),
    ] {
        let mut status = world.status(state);
        status.role = role;
        client.send(&status).await.unwrap();
        let body = server.asked_for("POST", "/check-runs").pop().unwrap().json();
        let buttons = body["actions"].as_array().unwrap().clone();
        let identifiers: Vec<_> = buttons
            .iter()
            .map(|button| button["identifier"].as_str().unwrap())
            .collect();
        assert_eq!(identifiers, expected, "{role:?} {state:?}");
        assert!(
            identifiers
                .iter()
                .all(|identifier| Button::from_identifier(identifier).is_some())
        );
    }
    judge(&server);
}

#[tokio::test]
async fn an_enterprise_server_is_asked_below_its_own_path() {
    let world = World::start().await;
    let upstream = Server::before(world.peer.url(), |_| false).await;
    let inner = upstream.url.clone();
    let client = crate::server::http();
    let server = Server::start(move |asked| {
        let path = asked.target.strip_prefix("/api/v3").expect("below the path").to_owned();
        let mut request = client.request(asked.method.parse().unwrap(), format!("{inner}{path}"));
        for name in [
            "authorization",
            "accept",
            "content-type",
            "user-agent",
            "x-github-api-version",
        ] {
            if let Some(value) = asked.header(name) {
                request = request.header(name, value);
            }
        }
        let request = request.body(asked.body);
        async move {
            let answer = request.send().await.unwrap();
            crate::server::Reply::json(answer.status().as_u16(), &answer.json().await.unwrap())
        }
    })
    .await;
    let client = world.client(&format!("{}/api/v3", server.url));
    client.send(&world.status(StatusState::Success)).await.unwrap();
    assert_eq!(world.runs().await.len(), 1);
    judge(&upstream);
}
