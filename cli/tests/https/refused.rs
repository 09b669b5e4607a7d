//! Who is not let in, and what may be said about it: never the token.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use nixci_store::testing::TestDrv;
use rstest::rstest;

use crate::runner::{IDLE, Runner, TOKEN, run};
use crate::world::{Ran, World};

fn has_no_token(ran: &Ran) {
    for token in [TOKEN, IDLE, "s3cr3t"] {
        assert!(!ran.out.contains(token) && !ran.err.contains(token), "{ran:?}");
    }
}

#[test]
fn a_token_is_in_no_output_at_any_verbosity() {
    let runner = Runner::new(Duration::ZERO);
    let (jobs, _) = runner.world.jobs("silent", &[TestDrv::good("a")]);
    std::fs::write(runner.world.dir().join("jobs"), jobs).unwrap();
    let file = runner.world.dir().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
    for args in [
        &["submit", "--jobs-file", "jobs", "--wait", "-vvv"][..],
        &["submit", "--jobs-file", "jobs", "--json", "-vv"],
        &["status", "-vvv"],
        &["doctor", "-vvv"],
        &["--help"],
        &["submit", "--help"],
    ] {
        for from in ["NIXCI_TOKEN", "NIXCI_TOKEN_FILE", "NIXCI_ID_TOKEN"] {
            let mut command = runner.command(args);
            let value = if from == "NIXCI_TOKEN_FILE" {
                file.to_str().unwrap_or_default()
            } else {
                TOKEN
            };
            let ran = run(command.env("NIXCI_LOG", "trace").env(from, value));
            let ran = if args[0] == "doctor" { ran } else { ran.ends(0) };
            has_no_token(&ran);
        }
    }
    let ran = run(runner.command(&["status", "-vvv"]).env("NIXCI_TOKEN", IDLE));
    has_no_token(&ran);
    has_no_token(&run(runner
        .command(&["status", "-vvv"])
        .env("NIXCI_TOKEN", "s3cr3t-and-unknown")
        .env("NIXCI_LOG", "trace")));
    // Nor in what the daemon says.
    let log = runner.world.service().log();
    assert!(!log.contains("s3cr3t"), "{log}");
}

#[test]
fn a_token_that_is_refused_ends_with_five_and_says_what_to_do() {
    let runner = Runner::new(Duration::ZERO);
    for (token, status) in [("s3cr3t-and-unknown", "401"), (IDLE, "403")] {
        let ran = run(runner.command(&["status"]).env("NIXCI_TOKEN", token)).ends(5);
        has_no_token(&ran);
        ran.warns("refused the token from NIXCI_TOKEN")
            .warns(status)
            .warns("nixci login --to https://localhost:");
    }
    run(&mut runner.command(&["status"]))
        .ends(5)
        .warns("there is no token for `https://localhost:");
    // Without the authority's certificate nobody is believed.
    let mut command = runner.command(&["status"]);
    command.env_remove("NIX_SSL_CERT_FILE").env("NIXCI_TOKEN", TOKEN);
    run(&mut command).ends(4).warns("certificate");
    run(runner
        .command(&["status"])
        .env("NIXCI_TOKEN", TOKEN)
        .env("NIX_SSL_CERT_FILE", "/missing.pem"))
    .ends(2)
    .warns("/missing.pem");
}

/// Answers every request with this, and returns its address.
fn answering(answer: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        while let Ok((mut client, _)) = listener.accept() {
            let mut request = [0; 4096];
            let read = client.read(&mut request).unwrap_or(0);
            let said = String::from_utf8_lossy(&request[..read]).to_ascii_lowercase();
            assert!(said.contains("upgrade: nix-worker-protocol"), "{said}");
            // A client that has heard enough may be gone.
            let _ = client.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}")
}

#[rstest]
#[case(
    "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\n\r\nBearer s3cr3t-token-that-may-submit-everything \x1b[31m:(\n",
    5,
    "(401 Unauthorized): Bearer *** [31m:("
)]
#[case("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", 4, "there is no nixci behind")]
#[case("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 4, "not as nixci does")]
#[case(
    "HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example.org/\r\nContent-Length: 0\r\n\r\n",
    4,
    "give the new address, `https://elsewhere.example.org/`"
)]
#[case(
    "HTTP/1.1 426 Upgrade Required\r\nContent-Length: 3\r\n\r\nno\n",
    4,
    "drops the `Upgrade` header: no"
)]
#[case(
    "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 5\r\n\r\nlater",
    4,
    "503 Service Unavailable: later"
)]
#[case("SSH-2.0-x\r\n", 4, "cannot reach the daemon")]
#[case("", 4, "cannot reach the daemon")]
fn what_is_no_daemon_is_told_by_what_it_answers(#[case] answer: &'static str, #[case] code: i32, #[case] said: &str) {
    let world = World::quiet();
    let mut command = world.command(&["status", "-vvv"]);
    let ran = run(command.env("NIXCI_TO", answering(answer)).env("NIXCI_TOKEN", TOKEN)).ends(code);
    has_no_token(&ran);
    let line = ran
        .err
        .lines()
        .find(|line| line.starts_with("error: "))
        .unwrap_or_default()
        .to_owned();
    assert!(line.contains(said), "{line}");
}
