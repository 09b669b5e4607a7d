//! The whole road on real stores: upload, submit, build, verdict, logs.

mod common;

use common::{connect, daemon, log, submit, watch};
use nixci_protocol::nixci::control::LogOf;
use nixci_protocol::nixci::outcome::{FailureClass, Outcome, Success};
use nixci_protocol::nixci::verdict::Conclusion;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_built_and_the_verdict_names_root_causes(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = daemon(home.path(), &store, 2).await;
    let drvs = evaluator.instantiate(
        "road",
        &[
            TestDrv::good("base"),
            TestDrv::good("app").needs(&["base"]).script("echo hello from app"),
            TestDrv::failing("libfoo"),
            TestDrv::good("left").needs(&["libfoo", "base"]),
            TestDrv::good("right").needs(&["left"]),
        ],
    );
    let mut client = connect(&daemon.socket).await;
    let evaluation = submit(&mut client, &evaluator, "road", &drvs).await;
    let watched = watch(&mut client, evaluation).await;
    let built = Outcome::Succeeded { how: Success::Built };
    let blocked = Outcome::Blocked {
        by: vec![drvs["libfoo"].clone()],
    };
    for (job, outcome) in [
        ("base", &built),
        ("app", &built),
        (
            "libfoo",
            &Outcome::Failed {
                class: FailureClass::Build,
            },
        ),
        ("left", &blocked),
        ("right", &blocked),
    ] {
        assert_eq!(watched.outcomes.get(job), Some(outcome), "{job}");
    }
    let verdict = watched.verdict;
    assert_eq!(verdict.conclusion, Conclusion::Failure);
    assert_eq!(verdict.root_causes.len(), 1, "{:?}", verdict.root_causes);
    let cause = &verdict.root_causes[0];
    assert_eq!(cause.drv_path, drvs["libfoo"]);
    assert_eq!(cause.blocks, 2);
    assert!(cause.message.contains("failed with exit code 1"), "{}", cause.message);
    assert!(
        cause
            .log_tail
            .iter()
            .any(|line| line.contains("libfoo does not compile")),
        "{:?}",
        cause.log_tail
    );
    let (lines, end) = log(&mut client, LogOf::Derivation(drvs["app"].clone()), false).await;
    assert!(lines.iter().any(|line| line == "hello from app"), "{lines:?}");
    assert_eq!(end, Some(built));
    drop(client);
    daemon.stop().await;
}
