//! A job of GitHub Actions whose token an issuer signs that others wrote (npm `oauth2-mock-server`).

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nixci_store::testing::TestDrv;
use nixci_store::testing::peers::{Peer, free_port, node_modules};

use crate::ci::Endpoint;
use crate::runner::{Runner, run};

const AUDIENCE: &str = "https://ci.example.org";
const HEAD: &str = "1111111111111111111111111111111111111111";

/// Starts the issuer, which makes what it is told to.
fn issuer(folder: &Path) -> Peer {
    let port = free_port();
    let mut command = Command::new(node_modules().join(".bin/node"));
    command
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../daemon/tests/identity/issuer.mjs"))
        .arg(node_modules())
        .arg(port.to_string());
    Peer::start(command, port, folder)
}

/// What GitHub says of a push to `main` of `o/n`, for this audience.
fn claims(audience: &str, number: u32) -> serde_json::Value {
    serde_json::json!({"claims": {
        "aud": audience,
        "sub": "repo:o/n:ref:refs/heads/main",
        "jti": format!("token-{number}"),
        "repository": "o/n",
        "repository_id": "1",
        "repository_owner_id": "2",
        "ref": "refs/heads/main",
        "sha": HEAD,
        "event_name": "push",
        "run_id": "77",
    }})
}

#[test]
fn a_job_submits_with_tokens_of_its_own_for_its_repository_and_commit() {
    let folder = tempfile::tempdir().unwrap();
    let issuer = issuer(folder.path());
    let runner = Runner::with(
        Duration::from_millis(50),
        &format!(
            "[[oidc]]\nissuer = \"{}\"\nkind = \"github\"\naudience = \"{AUDIENCE}\"\n[[oidc.allow]]\nrepositories = \
             [\"o/n\"]\nrights = [\"submit\", \"read\"]\n",
            issuer.url()
        ),
    );
    let (url, made) = (format!("{}/make", issuer.url()), Arc::new(AtomicU32::new(0)));
    let count = made.clone();
    let endpoint = Endpoint::start_with(move |asked| {
        let audience = asked.split("audience=").nth(1).and_then(|rest| rest.split(' ').next());
        let audience = audience.unwrap_or_default().replace("%3A", ":").replace("%2F", "/");
        let claims = claims(&audience, count.fetch_add(1, Ordering::Relaxed));
        let output = Command::new("curl")
            .args([
                "-sSf",
                "-H",
                "Content-Type: application/json",
                "-d",
                &claims.to_string(),
                &url,
            ])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let token = String::from_utf8(output.stdout).unwrap();
        (200, serde_json::json!({"value": token.trim()}).to_string())
    });
    let (jobs, _) = runner.world.jobs("oidc", &[TestDrv::good("a")]);
    std::fs::write(runner.world.dir().join("jobs"), jobs).unwrap();
    let job = |args: &[&str]| {
        let mut command = runner.command(&[&["submit", "--jobs-file", "jobs"], args].concat());
        command
            .env("GITHUB_REPOSITORY", "o/n")
            .env("GITHUB_SHA", HEAD)
            .env("GITHUB_REF", "refs/heads/main")
            .env("NIXCI_LOG", "trace")
            .env("NIXCI_AUDIENCE", AUDIENCE);
        run(endpoint.job(&mut command))
    };
    // Each connection brings a token of its own: one that was used is worth nothing.
    for _ in 0..2 {
        let ran = job(&["-vvv"]).ends(0);
        let lines: Vec<&str> = ran.err.lines().filter(|line| line.contains("eyJ")).collect();
        assert!(lines.len() == 1 && lines[0].starts_with("::add-mask::"), "{lines:?}");
        assert!(!ran.out.contains("eyJ"), "{}", ran.out);
    }
    assert_eq!(made.load(Ordering::Relaxed), 2);
    job(&["--project", "o/other"])
        .ends(5)
        .warns("cannot submit for `o/other`");
    job(&["--commit", "2222222222222222222222222222222222222222"])
        .ends(5)
        .warns(HEAD);
    let log = runner.world.service().log();
    assert!(!log.contains("eyJ"), "{log}");
}
