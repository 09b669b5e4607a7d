//! The whole router on a real index, behind a real socket.

use nixci_protocol::nixci::control::{
    AttemptId, BuildDetail, EvaluationSummary, JobStatus, ProjectSummary, StoreStatus,
};
use nixci_protocol::nixci::outcome::FailureClass;
use nixci_protocol::nixci::report::{StatusContent, StatusReport, StatusRole, StatusState};
use nixci_protocol::nixci::verdict::Verdict;
use nixci_store::index::attempts::{self, AttemptEnd, AttemptResult};
use nixci_store::index::statuses::{self, StatusKey, Wanted};
use reqwest::StatusCode;
use reqwest::header::{HeaderMap, LOCATION};
use rstest::rstest;

use super::router;
use crate::read::tests::{HEAD, HOSTILE, World, attr, drv, full};

/// Bytes that a page may have.
const PAGE: usize = 100 * 1024;

struct Server {
    world: World,
    address: String,
    client: reqwest::Client,
}

impl Server {
    async fn start(world: World) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let router = router(world.reader.clone(), None);
        tokio::spawn(async move { axum::serve(listener, router).await });
        crate::tls::install_provider();
        let client = reqwest::Client::builder()
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .unwrap();
        Self { world, address, client }
    }

    async fn response(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.address)).send().await.unwrap()
    }

    async fn get(&self, path: &str) -> (StatusCode, HeaderMap, String) {
        let response = self.response(path).await;
        let (status, headers) = (response.status(), response.headers().clone());
        assert!(headers.get(LOCATION).is_none());
        (status, headers, response.text().await.unwrap())
    }

    /// A page that is there, with what every page must keep.
    async fn page(&self, path: &str) -> String {
        let (status, headers, html) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {html}");
        assert_eq!(headers["content-type"], "text/html; charset=utf-8");
        assert!(html.len() < PAGE, "{path} has {} bytes", html.len());
        keeps_to_the_policy(path, &html);
        html
    }

    async fn json<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let (status, headers, text) = self.get(path).await;
        assert_eq!(status, StatusCode::OK, "{path}: {text}");
        assert_eq!(headers["content-type"], "application/json");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error} in {text}"))
    }

    /// The first events of a stream, up to one of this name.
    async fn events_until(&self, path: &str, name: &str) -> String {
        let mut response = self.response(path).await;
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let mut text = String::new();
        while let Some(chunk) = response.chunk().await.unwrap() {
            text.push_str(&String::from_utf8_lossy(&chunk));
            let wanted = format!("event: {name}\n");
            if text.split_once(&wanted).is_some_and(|(_, rest)| rest.contains("\n\n")) {
                return text;
            }
        }
        panic!("the stream ended without {name}: {text}");
    }
}

/// No inline script or style, no handler, nothing from elsewhere; hostile names are text.
fn keeps_to_the_policy(path: &str, html: &str) {
    assert!(!html.contains("<script>"), "{path}");
    assert_eq!(html.matches("<script").count(), 1, "{path}");
    for forbidden in [
        " style=",
        "<style",
        " onclick",
        " onerror",
        " onload",
        "javascript:",
        "<b>payload",
        "src=\"http",
        "\u{1b}",
    ] {
        assert!(!html.contains(forbidden), "{path} has {forbidden}");
    }
}

/// The page without what differs from run to run.
fn stable(html: &str) -> String {
    let mut out = String::new();
    let mut rest = html;
    while let Some(at) = rest.find("<time title=\"") {
        out.push_str(&rest[..at]);
        out.push_str("<time>");
        rest = &rest[at..];
        let end = rest.find("</time>").unwrap();
        rest = &rest[end..];
    }
    out.push_str(rest);
    let blank = |line: &&str| !line.trim().is_empty();
    out.replace(crate::VERSION, "VERSION")
        .replace(env!("CARGO_PKG_VERSION"), "VERSION")
        .lines()
        .filter(blank)
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn the_page_of_an_evaluation_names_root_causes_first() {
    let server = Server::start(World::new()).await;
    let (base, head) = server.world.rockets().await;
    let html = server.page(&format!("/e/{}", head.0)).await;
    insta::assert_snapshot!(stable(&html));
    let place = |text: &str| html.find(text).unwrap_or_else(|| panic!("{text} is missing"));
    assert!(place("Breaks 5 of 8") < place("Root causes"));
    assert!(place("Root causes") < place("Not answered"));
    assert!(place("Not answered") < place("<h2>Jobs</h2>"));
    assert!(html.contains(&format!("against <a href=\"/e/{}\">0123456</a>", base.0)));

    let by_commit = server.page(&format!("/p/acme/rockets/c/{HEAD}")).await;
    assert!(by_commit.contains("Breaks 5 of 8"));
    let by_prefix = server.page("/p/acme/rockets/c/89abcde").await;
    assert!(by_prefix.contains("Breaks 5 of 8"));
}

#[tokio::test]
async fn other_pages() {
    let server = Server::start(World::new()).await;
    server.world.rockets().await;
    let home = server.page("/").await;
    insta::assert_snapshot!("home", stable(&home));
    let project = server.page("/p/acme/rockets").await;
    insta::assert_snapshot!("project", stable(&project));
    let build = server.page(&format!("/b/{}", drv("libpropulsion-2.4"))).await;
    insta::assert_snapshot!("build", stable(&build));
    assert!(build.contains("first error, line 44"), "{build}");
    let blocked = server.page(&format!("/b/{}", drv("rocket-2"))).await;
    assert!(blocked.contains("Blocked by"));
    let stores = server.page("/stores").await;
    assert!(stores.contains("ssh-ng://builder.example"));
}

#[tokio::test]
async fn pages_are_also_json_and_markdown() {
    let server = Server::start(World::new()).await;
    let (base, head) = server.world.rockets().await;
    let verdict: Verdict = server.json(&format!("/e/{}.json", head.0)).await;
    let same: Verdict = server.json(&format!("/api/v1/evaluations/{}/verdict", head.0)).await;
    assert_eq!(verdict, same);
    let backwards: Verdict = server
        .json(&format!("/api/v1/evaluations/{}/verdict?base={HEAD}", base.0))
        .await;
    assert_eq!(backwards.base.unwrap().evaluation, head);
    let (status, headers, markdown) = server.get(&format!("/p/acme/rockets/c/{HEAD}.md")).await;
    assert_eq!(
        (status, headers["content-type"].to_str().unwrap()),
        (StatusCode::OK, "text/markdown; charset=utf-8")
    );
    insta::assert_snapshot!(markdown);
    let build: BuildDetail = server.json(&format!("/b/{}.json", drv("engine-2"))).await;
    assert_eq!(build.name, "engine-2");
    let list: Vec<EvaluationSummary> = server.json("/p/acme/rockets.json").await;
    assert_eq!(list.len(), 2);
}

#[tokio::test]
async fn the_api_mirrors_the_control_requests() {
    let server = Server::start(World::new()).await;
    let (_, head) = server.world.rockets().await;
    let list: Vec<EvaluationSummary> = server.json("/api/v1/evaluations?project=acme/rockets&limit=1").await;
    assert_eq!(list[0].evaluation, head);
    let one: EvaluationSummary = server.json(&format!("/api/v1/evaluations/{}", head.0)).await;
    assert_eq!(one, list[0]);
    let jobs: Vec<JobStatus> = server.json(&format!("/api/v1/evaluations/{}/jobs", head.0)).await;
    assert_eq!(jobs.len(), 8);
    let build: BuildDetail = server
        .json(&format!("/api/v1/builds/{}", drv("libpropulsion-2.4")))
        .await;
    assert_eq!(build.drv_path, full(&drv("libpropulsion-2.4")));
    let attempt = build.attempts[0].attempt.0;
    let told: serde_json::Value = server.json(&format!("/api/v1/attempts/{attempt}")).await;
    assert_eq!(told["drvPath"], build.drv_path);
    let (_, headers, log) = server.get(&format!("/api/v1/attempts/{attempt}/log")).await;
    assert_eq!(headers["content-type"], "text/plain; charset=utf-8");
    assert!(
        log.starts_with("unpacking source archive\nchecking for feature 0... \u{1b}[32myes"),
        "as it was printed"
    );
    assert!(log.ends_with("make: *** [Makefile:12: nozzle.o] Error 1\n"));
    let projects: Vec<ProjectSummary> = server.json("/api/v1/projects").await;
    assert_eq!(projects[0].page.as_deref(), Some("http://ci.example/p/acme/rockets"));
    let stores: Vec<StoreStatus> = server.json("/api/v1/stores").await;
    assert_eq!((stores[0].name.as_str(), stores[0].slots), ("builder", 2));
}

#[rstest]
#[case("/nowhere", 404)]
#[case("/e/99", 404)]
#[case("/e/0", 400)]
#[case("/e/-1", 400)]
#[case("/e/1e3", 400)]
#[case("/e/99999999999999999999", 400)]
#[case("/e/99/events", 404)]
#[case("/p/nobody", 404)]
#[case("/p/nobody/c/0123456", 404)]
#[case("/p/nobody/c/xyz", 400)]
#[case("/b/x", 400)]
#[case("/b/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 400)]
#[case("/b/00000000000000000000000000000000-x.drv", 404)]
#[case("/attempts/7/events", 404)]
#[case("/assets/nothing", 404)]
#[case("/api/v1/nowhere", 404)]
#[case("/api/v1/evaluations?limit=many", 400)]
#[case("/api/v1/evaluations/x", 400)]
#[case("/api/v1/evaluations/99/jobs", 404)]
#[case("/api/v1/evaluations/99/verdict?base=1", 404)]
#[case("/api/v1/builds/x.drv", 400)]
#[case("/api/v1/attempts/7/log", 404)]
#[case("/api/v1/attempts/seven", 400)]
#[tokio::test]
async fn what_is_not_there_and_what_is_no_address(#[case] path: &str, #[case] status: u16) {
    let server = Server::start(World::new()).await;
    let (found, headers, text) = server.get(path).await;
    assert_eq!(found.as_u16(), status, "{text}");
    assert_eq!(headers["x-content-type-options"], "nosniff");
    if path.starts_with("/api/") {
        let error: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(error["error"].as_str().unwrap().len() > 8, "{text}");
    } else if !path.starts_with("/assets") {
        assert!(text.contains("<h1 class=\"plain\">"), "{text}");
        keeps_to_the_policy(path, &text);
    }
}

#[tokio::test]
async fn a_question_that_is_not_a_bucket_is_refused_and_methods_that_change_do_not_exist() {
    let server = Server::start(World::new()).await;
    let (_, head) = server.world.rockets().await;
    let (status, _, text) = server.get(&format!("/e/{}?show=%3Cscript%3E", head.0)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("&#60;script&#62;"), "{text}");
    let posted = server
        .client
        .post(format!("{}/e/{}", server.address, head.0))
        .body("x")
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
    let large = vec![b'x'; 1024 * 1024];
    let posted = server
        .client
        .post(format!("{}/api/v1/projects", server.address))
        .body(large)
        .send()
        .await
        .unwrap();
    assert_eq!(posted.status(), StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn every_answer_has_the_security_headers() {
    let server = Server::start(World::new()).await;
    for path in [
        "/",
        "/nowhere",
        "/api/v1/projects",
        "/healthz",
        "/metrics",
        super::assets::STYLE,
    ] {
        let (_, headers, _) = server.get(path).await;
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'self';"), "{path}");
        assert_eq!(headers["referrer-policy"], "same-origin", "{path}");
    }
}

#[tokio::test]
async fn hostile_names_and_lines_are_text_everywhere() {
    let world = World::new();
    world.add(&[("x-1", &[])]).await;
    let evil = "</code></pre><script>alert(1)</script>\u{1b}]0;owned\u{7}\u{1b}[31m<b>payload</b>";
    let message = format!("{HOSTILE} {evil}");
    world
        .attempt(
            "x-1",
            AttemptResult::Failed(FailureClass::Store),
            &message,
            &[evil, HOSTILE],
        )
        .await;
    let found = [(attr(&format!("a{HOSTILE}")), Ok("x-1")), (attr("b"), Err(evil))];
    let id = world
        .evaluation(
            "evil/<script>\"'",
            Some(HOSTILE),
            Some(HOSTILE),
            &found,
            nixci_protocol::nixci::control::EvaluationState::Done,
        )
        .await;
    let server = Server::start(world).await;
    for path in [
        "/".to_owned(),
        format!("/e/{}", id.0),
        format!("/b/{}", drv("x-1")),
        "/p/evil/%3Cscript%3E%22'".to_owned(),
    ] {
        server.page(&path).await;
    }
    let html = server.page(&format!("/e/{}?q=%22%3E%3Cscript%3E", id.0)).await;
    assert!(html.contains("value=\"&#34;&#62;&#60;script&#62;\""), "{html}");
    let events = server.events_until(&format!("/e/{}/events", id.0), "done").await;
    assert!(
        !events.contains("<script") && !events.contains("<b>payload"),
        "{events}"
    );
}

#[tokio::test]
async fn an_open_page_of_a_running_evaluation_is_told_what_changes() {
    let server = Server::start(World::new()).await;
    let (id, attempt) = server.world.running().await;
    let html = server.page(&format!("/e/{}", id.0)).await;
    assert!(html.contains("Still working: 1 of 5 done, none failing."), "{html}");
    assert!(html.contains(&format!("data-events=\"/e/{}/events\"", id.0)));
    assert!(html.contains("http-equiv=\"refresh\""), "without scripts it reloads");
    let first = server.events_until(&format!("/e/{}/events", id.0), "rows").await;
    assert!(
        first.starts_with("event: part\ndata: {\"id\":\"now\",\"html\":\""),
        "{first}"
    );

    let path = format!("/e/{}/events", id.0);
    let watching = server.events_until(&path, "done");
    let world = &server.world;
    let ending = async {
        use crate::scheduler::{End, StoreId};
        use nixci_protocol::nixci::control::EvaluationState;
        use nixci_protocol::nixci::outcome::Success;
        use nixci_store::index::evaluations;
        for name in ["quick-1", "late-1", "above-1"] {
            world.built(&[name]).await;
        }
        let end = AttemptEnd {
            result: AttemptResult::Succeeded(Success::Built),
            message: String::new(),
            log_lines: 0,
            expires: None,
        };
        let now = world.now;
        world
            .index
            .write(move |tx| attempts::finish(tx, attempt, &end, now))
            .await
            .unwrap();
        world
            .index
            .write(move |tx| evaluations::set_state(tx, id, EvaluationState::Done, now))
            .await
            .unwrap();
        for name in ["slow-1", "quick-1", "late-1", "above-1"] {
            let drv = world.id(name).await;
            world
                .scheduler
                .ended(drv, StoreId(0), End::Succeeded(Success::Built))
                .await
                .unwrap();
        }
    };
    let (events, ()) = tokio::join!(watching, ending);
    assert!(events.contains("Safe: 5 ok."), "{events}");
}

#[tokio::test]
async fn a_running_log_is_followed_as_events_and_as_text() {
    let server = Server::start(World::new()).await;
    let (_, attempt) = server.world.running().await;
    let mut log = server.world.logs.start(attempt);
    log.phase("buildPhase").await;
    log.line(b"one").await;
    log.line("\u{1b}[31mtwo <b>\u{1b}[0m".as_bytes()).await;
    let page = server.page(&format!("/b/{}", drv("slow-1"))).await;
    assert!(
        page.contains(&format!("data-log=\"/attempts/{}/events?from=3\"", attempt.0)),
        "{page}"
    );
    assert!(page.contains("<summary>buildPhase</summary>"));

    let path = format!("/attempts/{}/events?from=2", attempt.0);
    let text = format!("/api/v1/attempts/{}/log?follow", attempt.0);
    let writing = async {
        log.line(b"three").await;
        log.finish().await;
    };
    let (events, (_, _, text), ()) = tokio::join!(server.events_until(&path, "done"), server.get(&text), writing);
    assert!(
        events.contains(r#"{"number":2,"html":"<span class=\"f1\">two &lt;b&gt;</span>"}"#),
        "{events}"
    );
    assert!(events.contains(r#"{"number":3,"html":"three"}"#), "{events}");
    assert!(!events.contains("\"number\":1,"), "{events}");
    assert_eq!(text, "one\n\u{1b}[31mtwo <b>\u{1b}[0m\nthree\n");
}

#[tokio::test]
async fn long_lists_and_logs_are_paged() {
    let world = World::new();
    let names: Vec<String> = (0..250)
        .map(|n| format!("package-{n:03}-{}", "x".repeat(120)))
        .collect();
    let graph: Vec<(&str, &[&str])> = names.iter().map(|name| (name.as_str(), &[][..])).collect();
    world.add(&graph).await;
    let long = "y".repeat(200);
    let found: Vec<_> = names
        .iter()
        .map(|name| (attr(&format!("{long}.{name}")), Ok(name.as_str())))
        .collect();
    let first = names[0].as_str();
    let lines: Vec<String> = (0..2_000).map(|n| format!("{n} {}", "<&>".repeat(100))).collect();
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let attempt = world
        .attempt(first, AttemptResult::Failed(FailureClass::Build), "no", &lines)
        .await;
    let id = world
        .evaluation(
            "p/long",
            None,
            None,
            &found,
            nixci_protocol::nixci::control::EvaluationState::Done,
        )
        .await;
    let server = Server::start(world).await;
    let page = server.page(&format!("/e/{}", id.0)).await;
    assert!(page.contains("1 to 100 of 250"), "{page}");
    let last = server.page(&format!("/e/{}?page=3", id.0)).await;
    assert!(last.contains("201 to 250 of 250"));
    let beyond = server.page(&format!("/e/{}?page=9", id.0)).await;
    assert_eq!(last.matches("<tr id=").count(), beyond.matches("<tr id=").count());
    let found = server.page(&format!("/e/{}?q=package-007", id.0)).await;
    assert_eq!(found.matches("<tr id=").count(), 1);
    let build = server.page(&format!("/b/{}", drv(first))).await;
    assert!(build.contains("lines before"), "{build}");
    let start = server
        .page(&format!("/b/{}?attempt={}&from=1", drv(first), attempt.0))
        .await;
    assert!(start.contains("lines after") && start.contains("id=\"L1\""), "{start}");
}

#[tokio::test]
async fn metrics_tell_stores_and_requests() {
    let server = Server::start(World::new()).await;
    server.page("/").await;
    super::attempt_ended("builder", AttemptResult::Failed(FailureClass::HashMismatch));
    super::attempt_ended("builder", AttemptResult::Failed(FailureClass::Store));
    let (status, _, text) = server.get("/metrics").await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "nixci_http_requests_total{route=\"/\",method=\"GET\",status=\"200\"}",
        "nixci_store_slots{store=\"builder\"} 2",
        concat!("nixci_build_info{version=\"", env!("CARGO_PKG_VERSION"), "\",build=\""),
        "nixci_open_evaluations 0",
        "nixci_spool_objects 0",
        "nixci_attempts_total{store=\"builder\",result=\"failed\",class=\"hash-mismatch\"}",
        "nixci_builds_total{result=\"failed\",class=\"hash-mismatch\"} 1",
    ] {
        assert!(text.contains(line), "{line} is missing in {text}");
    }
    let (status, _, text) = server.get("/healthz").await;
    assert_eq!((status, text.starts_with("nixci ")), (StatusCode::OK, true));
}

#[tokio::test]
async fn an_attempt_or_build_of_another_is_not_shown() {
    let server = Server::start(World::new()).await;
    server.world.rockets().await;
    let (status, _, _) = server.get(&format!("/b/{}?attempt=9999", drv("engine-2"))).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(server.world.reader.attempt(AttemptId(9999)).await.is_err());
}

#[tokio::test]
async fn a_page_says_what_forges_have_of_it() {
    let world = World::new();
    let (_, head) = world.rockets().await;
    let wanted = |context: &str, state| Wanted {
        key: StatusKey {
            forge: "github".into(),
            repository: "acme/rockets".into(),
            commit: HEAD.into(),
            context: context.into(),
        },
        evaluation: head,
        role: StatusRole::Job,
        attr: None,
        content: StatusContent {
            state,
            description: format!("about {HOSTILE}"),
            summary: String::new(),
            text: String::new(),
            url: None,
            annotations: Vec::new(),
            started: None,
            ended: None,
        },
    };
    let rows = [
        wanted("nixci", StatusState::Failure),
        wanted(HOSTILE, StatusState::Success),
    ];
    world
        .index
        .write(move |tx| rows.iter().try_for_each(|row| statuses::want(tx, row, 1).map(drop)))
        .await
        .unwrap();
    let server = Server::start(world).await;
    let html = server.page(&format!("/e/{}", head.0)).await;
    assert!(html.contains("</span>nixci</td>") && html.contains("not yet"), "{html}");
    let reports: Vec<StatusReport> = server.json(&format!("/api/v1/evaluations/{}/statuses", head.0)).await;
    assert_eq!(reports.len(), 2);
    assert_eq!((reports[0].state, reports[0].is_sent), (StatusState::Failure, false));
}
