//! Tokens that a CI issues to its jobs.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nixci_store::testing::TestDrv;

use crate::runner::{Runner, TOKEN, run};

/// The secret by which a job asks for tokens.
const REQUEST_TOKEN: &str = "s3cr3t-of-the-job";

/// What makes tokens for jobs, as GitHub Actions does: strict about how it is asked.
pub(crate) struct Endpoint {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Endpoint {
    /// Answers with these statuses and bodies, one after the other; the last one again and again.
    fn start(answers: &[(u16, String)]) -> Self {
        let mut answers = VecDeque::from(answers.to_vec());
        Self::start_with(move |_| {
            let answer = answers.front().cloned().unwrap();
            if answers.len() > 1 {
                answers.pop_front();
            }
            answer
        })
    }

    /// Answers a request's first line with a status and a body.
    pub(crate) fn start_with(mut answer: impl FnMut(&str) -> (u16, String) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/token?api-version=2.0", listener.local_addr().unwrap());
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let heard = asked.clone();
        std::thread::spawn(move || {
            while let Ok((mut client, _)) = listener.accept() {
                let lines: Vec<String> = BufReader::new(client.try_clone().unwrap())
                    .lines()
                    .map_while(Result::ok)
                    .take_while(|line| !line.is_empty())
                    .collect();
                let authorization = format!("authorization: bearer {REQUEST_TOKEN}");
                let is_allowed = lines.iter().any(|line| line.to_ascii_lowercase() == authorization);
                let (status, body) = if is_allowed {
                    answer(&lines[0])
                } else {
                    (401, "{}".to_owned())
                };
                heard.lock().unwrap().push(lines[0].clone());
                let length = body.len();
                let answer = format!(
                    "HTTP/1.1 {status} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\nConnection: \
                     close\r\n\r\n{body}"
                );
                // A client that has heard enough may be gone.
                let _ = client.write_all(answer.as_bytes());
            }
        });
        Self { url, asked }
    }

    /// What a job finds in its environment.
    pub(crate) fn job<'c>(&self, command: &'c mut Command) -> &'c mut Command {
        command
            .env("GITHUB_ACTIONS", "true")
            .env("ACTIONS_ID_TOKEN_REQUEST_URL", &self.url)
            .env("ACTIONS_ID_TOKEN_REQUEST_TOKEN", REQUEST_TOKEN)
    }
}

fn token(text: &str) -> String {
    format!(r#"{{"count": 1, "value": "{text}"}}"#)
}

#[test]
fn a_job_of_actions_asks_for_a_token_of_its_own_for_the_daemon() {
    let runner = Runner::new(Duration::ZERO);
    let (jobs, _) = runner.world.jobs("ci", &[TestDrv::good("a")]);
    std::fs::write(runner.world.dir().join("jobs"), jobs).unwrap();
    // An overloaded endpoint is asked again.
    let endpoint = Endpoint::start(&[(503, String::new()), (200, token(TOKEN))]);
    let args = ["submit", "--jobs-file", "jobs", "--wait", "-vvv"];
    let ran = run(endpoint.job(&mut runner.command(&args)).env("NIXCI_LOG", "trace")).ends(0);
    let asked = std::mem::take(&mut *endpoint.asked.lock().unwrap());
    let audience = runner.link.url().replace(':', "%3A").replace('/', "%2F");
    let line = format!("GET /token?api-version=2.0&audience={audience} HTTP/1.1");
    assert_eq!(asked, [line.clone(), line]);
    // Once, where the runner takes it out of its log, and nowhere else.
    let masked = format!("::add-mask::{TOKEN}");
    let lines: Vec<&str> = ran.err.lines().filter(|line| line.contains("s3cr3t")).collect();
    assert_eq!(lines, [masked]);
    assert!(!ran.out.contains("s3cr3t"), "{}", ran.out);

    let mut command = runner.command(&["status"]);
    run(endpoint
        .job(&mut command)
        .env("NIXCI_AUDIENCE", "https://known.example.org"))
    .ends(0);
    let asked = endpoint.asked.lock().unwrap().pop().unwrap();
    assert!(asked.contains("audience=https%3A%2F%2Fknown.example.org "), "{asked}");
}

#[test]
fn a_ci_that_gives_no_token_is_told_apart() {
    let runner = Runner::new(Duration::ZERO);
    for (answer, code, said) in [
        (
            (403, r#"{"value": "s3cr3t"}"#.to_owned()),
            5,
            "the CI refused a token to this job (403",
        ),
        ((500, "s3cr3t".to_owned()), 4, "the CI answered 500"),
        ((200, "s3cr3t".to_owned()), 1, "something else than a token"),
        ((200, token("s3cr3t\\nx")), 2, "the CI's answer holds no token"),
        (
            (200, token("s3cr3t-and-unknown")),
            5,
            "refused this job's token for \"https://localhost:",
        ),
    ] {
        let endpoint = Endpoint::start(&[answer]);
        let ran = run(endpoint.job(&mut runner.command(&["status", "-vvv"])))
            .ends(code)
            .warns(said);
        let lines = ran.err.lines().filter(|line| !line.starts_with("::add-mask::"));
        assert!(lines.clone().all(|line| !line.contains("s3cr3t")), "{}", ran.err);
    }
    run(runner.command(&["status"]).env("GITHUB_ACTIONS", "true"))
        .ends(5)
        .warns("id-token: write")
        .warns("--artifact");
    run(runner.command(&["status"]).env("GITLAB_CI", "true"))
        .ends(5)
        .warns("id_tokens: {NIXCI_ID_TOKEN: {aud: \"https://localhost:");
}
