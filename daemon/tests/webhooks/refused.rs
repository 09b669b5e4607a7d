//! What is not from a forge, or cannot be one of its deliveries: refused, with nothing kept and nothing done.

use nixci_daemon::config::HttpRead;
use reqwest::StatusCode;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::world::{SECRET, Sender, World, answer, count, hex, outcome, settled};

const BODY: &[u8] = br#"{"zen": "Keep it logically awesome.", "hook_id": 1}"#;

/// Every figure of a metric whose line begins so, added up.
fn sum(metrics: &str, name: &str) -> u64 {
    let lines = metrics.lines().filter(|line| line.starts_with(name));
    lines
        .map(|line| line.rsplit(' ').next().unwrap().parse::<u64>().unwrap())
        .sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_right_signature_nothing_is_kept_or_parsed() {
    let world = World::with("unix:///nonexistent/socket", |config| {
        config.listen.http_read = HttpRead::Token;
    })
    .await;
    let right = hex(BODY);
    let sha1 = "sha1=ebfb1d05e37081264cec69c4b121014bc96bba2a".to_owned();
    let prefixed = |hex: &str| format!("sha256={hex}");
    let github = [
        ("x-hub-signature", sha1.clone()),
        ("x-hub-signature-256", sha1),
        ("x-hub-signature-256", right.clone()),
        ("x-hub-signature-256", prefixed(&right.to_uppercase())),
        ("x-hub-signature-256", prefixed(&right[..40])),
        ("x-hub-signature-256", prefixed(&right[..63])),
        ("x-hub-signature-256", prefixed(&format!("{right}00"))),
        ("x-hub-signature-256", prefixed(&hex(b"another body"))),
        ("x-hub-signature-256", prefixed(&"0".repeat(64))),
        ("x-hub-signature-256", "sha256=".to_owned()),
        ("x-hub-signature-256", String::new()),
        ("x-hub-signature-256", SECRET.to_owned()),
        ("x-gitea-signature", right.clone()),
        ("x-gitlab-token", SECRET.to_owned()),
        ("authorization", format!("Bearer {SECRET}")),
        ("x-nothing", "at all".to_owned()),
    ];
    for (name, value) in &github {
        let headers = [
            ("x-github-event", "ping"),
            ("x-github-delivery", "1"),
            (*name, value.as_str()),
        ];
        let (status, text) = answer(world.hooks.plain("github", &headers, BODY)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{name}: {value}: {text}");
        assert!(
            !text.contains(SECRET) && !text.contains(&right) && !text.contains('<'),
            "{text}"
        );
    }
    // The right one, of another body, which is no JSON: nobody gets to see that.
    let signature = prefixed(&right);
    let headers = [("x-github-event", "ping"), ("x-hub-signature-256", signature.as_str())];
    for body in [&BODY[1..], b"{", b""] {
        let (status, text) = answer(world.hooks.plain("github", &headers, body)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{text}");
    }
    for (forge, name, value) in [
        ("gitea", "x-gitea-signature", prefixed(&right)),
        ("forgejo", "x-gogs-signature", right.clone()),
        ("gitlab", "x-gitlab-token", format!("{SECRET}x")),
        ("gitlab", "x-hub-signature-256", prefixed(&right)),
    ] {
        let headers = [
            ("x-gitea-event", "push"),
            ("x-gitlab-event", "Push Hook"),
            (name, value.as_str()),
        ];
        let (status, text) = answer(world.hooks.plain(forge, &headers, BODY)).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{forge} {name}: {text}");
    }
    assert_eq!(count(&world.state(), "delivery"), 0);
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_names_a_forge_that_has_a_secret() {
    let world = World::start().await;
    let signature = format!("sha256={}", hex(BODY));
    let headers = [("x-github-event", "ping"), ("x-hub-signature-256", signature.as_str())];
    let to = async |forge: &str| answer(world.hooks.plain(forge, &headers, BODY)).await;
    let (status, text) = to("nobody").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(text.contains("nobody"), "{text}");
    let (status, text) = to("bare").await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert!(text.contains("`webhook_secret_file`"), "{text}");
    assert_eq!(to("a/b").await.0, StatusCode::NOT_FOUND);
    assert_eq!(to("github").await.0, StatusCode::ACCEPTED);
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_signed_and_senseless_is_told_so() {
    let world = World::start().await;
    let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let pull = |head: &str| {
        let side = json!({"sha": head, "ref": "x", "repo": null});
        json!({
            "action": "opened",
            "pull_request": {"number": 1, "state": "open", "head": side, "base": side},
            "repository": {"id": 1, "full_name": "o/n"},
        })
        .to_string()
    };
    for (event, body, named) in [
        ("push", "this is not JSON".to_owned(), "not JSON"),
        ("push", String::new(), "ends too early"),
        ("push", "{\"ref\": \"refs/heads/x\"".to_owned(), "ends too early"),
        ("push", "[]".to_owned(), "not what the forge documents"),
        ("push", deep(100_000), "not what the forge documents"),
        (
            "push",
            format!("{{\"x\": {}}}", deep(100_000)),
            "not what the forge documents",
        ),
        (
            "pull_request",
            "{\"action\": 7}".to_owned(),
            "not what the forge documents",
        ),
        ("pull_request", pull("main"), "`pull_request.head.sha`"),
        ("pull_request", pull("../../etc/passwd"), "`pull_request.head.sha`"),
    ] {
        let (status, text) = answer(world.hooks.github(event, "1", body.as_bytes())).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{named}: {text}");
        assert!(text.contains(named) && text.len() < 300, "{named}: {text}");
    }
    // Depth in what nobody looks at does no harm.
    let body = format!("{{\"x\": {}}}", deep(100_000));
    assert_eq!(
        answer(world.hooks.github("star", "2", body.as_bytes())).await.0,
        StatusCode::ACCEPTED
    );
    let signature = format!("sha256={}", hex(b"payload=%7B%7D"));
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let form = http
        .post(format!("http://{}/webhooks/github", world.daemon.http_addr.unwrap()))
        .header("content-type", "application/x-www-form-urlencoded")
        .header("x-github-event", "push")
        .header("x-hub-signature-256", signature)
        .body("payload=%7B%7D");
    let (status, text) = answer(form).await;
    assert_eq!(status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
    assert!(text.contains("application/json"), "{text}");
    // No event.
    let signature = format!("sha256={}", hex(BODY));
    let nameless = [("x-hub-signature-256", signature.as_str())];
    let (status, text) = answer(world.hooks.plain("github", &nameless, BODY)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST);
    assert!(text.contains("x-github-event"), "{text}");
    assert_eq!(count(&world.state(), "delivery"), 1, "only the star is known");
    let metrics = world.metrics().await;
    assert!(
        sum(
            &metrics,
            "nixci_webhooks_refused_total{forge=\"github\",reason=\"malformed\"}"
        ) >= 10,
        "{metrics}"
    );
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded_before_they_are_read() {
    let world = World::with("unix:///nonexistent/socket", |config| {
        config.limits.webhook_bytes = 200_000;
    })
    .await;
    let fits = vec![b' '; 200_000];
    assert_eq!(
        answer(world.hooks.github("ping", "1", &fits)).await.0,
        StatusCode::ACCEPTED
    );
    let (status, text) = answer(world.hooks.github("ping", "2", &vec![b' '; 200_001])).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(text.contains("`webhook_bytes`"), "{text}");

    // One that only says how long it is hears so at once; one that does not say is cut off.
    let address = world.daemon.http_addr.unwrap();
    let head = |length: &str| {
        format!("POST /webhooks/github HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n{length}\r\n\r\n")
    };
    for (head, chunk) in [
        (head("Content-Length: 99999999999"), Vec::new()),
        (
            head("Transfer-Encoding: chunked"),
            [format!("{:x}\r\n", 300_000).as_bytes(), &vec![b' '; 300_000], b"\r\n"].concat(),
        ),
    ] {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        // It may be closed before all of it was sent.
        drop(stream.write_all(&chunk).await);
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(String::from_utf8_lossy(&answer), "HTTP/1.1 413");
    }
    world.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replayed_body_is_known_whatever_number_it_is_given() {
    let world = World::start().await;
    let body = json!({
        "action": "created",
        "installation": {"id": 1, "app_id": crate::world::APP, "account": {"login": "o"}},
    });
    let body = body.to_string();
    let send = async |hooks: &Sender, number: &str| answer(hooks.github("installation", number, body.as_bytes())).await;
    assert_eq!(send(&world.hooks, "1").await.0, StatusCode::ACCEPTED);
    assert_eq!(send(&world.hooks, "1").await.0, StatusCode::OK);
    assert_eq!(
        send(&world.hooks, "2").await.0,
        StatusCode::OK,
        "numbers are not signed"
    );
    settled(&world.state());
    assert_eq!(outcome(&world.state(), "1").0, "handled");
    assert_eq!(count(&world.state(), "delivery"), 1);
    world.daemon.stop().await;
}
