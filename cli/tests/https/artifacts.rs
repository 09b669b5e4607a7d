//! From a job without rights to one that may submit.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::process::Command;
use std::time::Duration;

use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};

use crate::runner::{Runner, run};
use crate::world::World;

const HEAD: &str = "1111111111111111111111111111111111111111";

/// The variables of a job in Actions with this event.
fn job<'c>(world: &World, command: &'c mut Command, name: &str, event: &str) -> &'c mut Command {
    let file = world.dir().join(format!("{name}.json"));
    std::fs::write(&file, event).unwrap();
    command
        .env("GITHUB_ACTIONS", "true")
        .env("GITHUB_REPOSITORY", "o/n")
        .env("GITHUB_SHA", "3333333333333333333333333333333333333333")
        .env("GITHUB_EVENT_PATH", file)
}

fn workflow_run(head: &str) -> String {
    format!(
        r#"{{"workflow_run":{{"id":77,"head_sha":"{head}","head_branch":"main","pull_requests":[],
            "head_repository":{{"full_name":"fork/n"}}}}}}"#
    )
}

#[test]
fn what_a_fork_evaluates_is_sent_by_a_job_that_has_no_nix() {
    let runner = Runner::new(Duration::ZERO);
    let fork = World::quiet();
    let source = fork.dir().join("source");
    std::fs::write(&source, "a source that the derivation needs").unwrap();
    let (jobs, drvs) = fork.jobs(
        "fork",
        &[
            TestDrv::good("a").attribute("source", source.to_str().unwrap()),
            TestDrv::good("b").needs(&["a"]),
        ],
    );
    std::fs::write(fork.dir().join("jobs"), jobs).unwrap();
    let event = format!(
        r#"{{"pull_request":{{"number":5,"head":{{"ref":"main","sha":"{HEAD}"}},"base":{{"ref":"main","sha":"{}"}}}}}}"#,
        "2".repeat(40)
    );
    let file = runner.world.dir().join("ci.nixci");
    let args = ["submit", "--jobs-file", "jobs", "--artifact", file.to_str().unwrap()];
    let mut command = fork.command(&args);
    // No daemon listens, there is no token, and neither is missed.
    run(job(&fork, &mut command, "pr", &event).env("NIXCI_TO", "https://ci.example.org"))
        .ends(0)
        .says("wrote 2 jobs with 3 paths");

    // The job that sends it has a store without any of that.
    let elsewhere = TestDaemon::start(NixVersion::NEWEST);
    let send = |head: &str, args: &[&str]| {
        let mut command = runner.command(&[&["submit", "--from-artifact", "ci.nixci"], args].concat());
        command
            .envs(elsewhere.environment(&elsewhere.uri()))
            .env("NIXCI_TOKEN", crate::runner::TOKEN);
        run(job(&runner.world, &mut command, "run", &workflow_run(head)))
    };
    send("4444444444444444444444444444444444444444", &[])
        .ends(2)
        .warns("of commit 1111111111111111111111111111111111111111, but the run");
    assert_eq!(
        runner.nixci(&["status", "--json"]).ends(0).json(),
        serde_json::json!([])
    );

    send(HEAD, &["--wait"]).ends(0).says("2");
    let status = &runner.nixci(&["status", "1", "--json"]).ends(0).json()["summary"];
    assert_eq!(
        (&status["project"], &status["commit"]),
        (&"o/n".into(), &HEAD.into()),
        "{status}"
    );
    // Not to be taken for the branch of that name here.
    assert_eq!(status["gitRef"], "fork:main", "{status}");
    assert_eq!(status["pullRequest"], 5, "{status}");
    let jobs = runner.nixci(&["jobs", "1", "--json"]).ends(0).json();
    assert_eq!(jobs[1]["drvPath"].as_str(), Some(drvs["b"].as_str()), "{jobs}");
}

#[test]
fn an_artifact_that_was_changed_is_not_sent_at_all() {
    let runner = Runner::new(Duration::ZERO);
    let (jobs, _) = runner.world.jobs("changed", &[TestDrv::good("a")]);
    let dir = runner.world.dir();
    std::fs::write(dir.join("jobs"), jobs).unwrap();
    runner
        .nixci(&["submit", "--jobs-file", "jobs", "--artifact", "file", "--json"])
        .ends(0)
        .says(r#""jobs":1,"paths":1"#);
    let whole = std::fs::read(dir.join("file")).unwrap();
    runner.link.take();
    let mut changed = whole.clone();
    *changed.last_mut().unwrap() ^= 1;
    for bytes in [&changed, &whole[..whole.len() / 2], b"PK"] {
        std::fs::write(dir.join("broken"), bytes).unwrap();
        runner
            .nixci(&["submit", "--from-artifact", "broken"])
            .ends(2)
            .warns("the artifact `broken` cannot be sent: it ");
    }
    runner
        .nixci(&["submit", "--from-artifact", "."])
        .ends(2)
        .warns("no plain file");
    assert_eq!(runner.link.take().connections, 0, "nothing was sent");
    runner.nixci(&["submit", "--from-artifact", "file"]).ends(0).says("#1");
}

#[test]
fn an_artifact_can_go_through_a_pipe() {
    let runner = Runner::new(Duration::ZERO);
    let (jobs, _) = runner.world.jobs("piped", &[TestDrv::good("a")]);
    let dir = runner.world.dir();
    std::fs::write(dir.join("jobs"), jobs).unwrap();
    let written = runner
        .command(&["submit", "--jobs-file", "jobs", "--artifact", "-"])
        .output()
        .unwrap();
    assert!(written.status.success(), "{}", String::from_utf8_lossy(&written.stderr));
    let send = |bytes: &[u8], more: &[&str]| {
        std::fs::write(dir.join("in"), bytes).unwrap();
        let mut command = runner.command(&[&["submit", "--from-artifact", "-"], more].concat());
        let from = std::fs::File::open(dir.join("in")).unwrap();
        run(command.env("NIXCI_TOKEN", crate::runner::TOKEN).stdin(from))
    };
    let (cut, whole) = (&written.stdout[..written.stdout.len() / 2], &written.stdout[..]);
    send(cut, &[])
        .ends(2)
        .warns("the artifact on standard input cannot be sent: it is cut off");
    send(whole, &["--artifact-limit", "jobs=0"])
        .ends(2)
        .warns("it has 1 jobs, and at most 0 are taken (`--artifact-limit jobs=N`)");
    send(whole, &["--artifact-limit", "file=100"])
        .ends(2)
        .warns("it has more than 100 bytes");
    send(whole, &["--artifact-limit", "job=1"])
        .ends(2)
        .warns("there is no limit `job`");
    send(whole, &[]).ends(0).says("#1");
}

#[test]
fn an_evaluation_that_fails_is_in_the_file_too_and_outputs_are_not() {
    let runner = Runner::new(Duration::ZERO);
    let expression = r#"{ a = throw "no such thing"; b = derivation { name = "b"; system = "x86_64-linux"; builder = "/bin/sh"; }; }"#;
    runner
        .nixci(&["submit", "--expr", expression, "--artifact", "file"])
        .ends(0)
        .says("wrote 2 jobs with 1 path");
    runner
        .nixci(&["submit", "--expr", "{ a = ", "--artifact", "failed"])
        .ends(1)
        .warns("the evaluation is incomplete");
    runner.nixci(&["submit", "--from-artifact", "file"]).ends(0);
    let jobs = runner.nixci(&["jobs", "1", "--json"]).ends(0).json();
    assert!(jobs.to_string().contains("no such thing"), "{jobs}");
    runner
        .nixci(&["submit", "--from-artifact", "failed"])
        .ends(1)
        .warns("the evaluation is incomplete");
}

#[test]
fn paths_are_copied_over_https() {
    let runner = Runner::new(Duration::ZERO);
    let (_, drvs) = runner
        .world
        .jobs("copy", &[TestDrv::good("a"), TestDrv::good("b").needs(&["a"])]);
    runner.nixci(&["copy", &drvs["b"]]).ends(0).says("copied 2 paths");
    runner.nixci(&["copy", &drvs["b"]]).ends(0).says("nothing to copy");
}
