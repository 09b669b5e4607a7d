//! A store checks what it takes once more. What it refuses is the fault of one derivation, not of the store.

mod common;

use std::collections::BTreeSet;

use common::{body_for, connect, daemon, try_submit, watch};
use nixci_protocol::nixci::outcome::{FailureClass, Outcome, Success};
use nixci_protocol::op::AddTextToStore;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

#[rstest]
#[case(NixVersion::V2_8)]
#[case(NixVersion::V2_26)]
#[case(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn a_derivation_that_lies_about_its_output_fails_alone(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let daemon = daemon(home.path(), &store, 1).await;
    let mut client = connect(&daemon.socket).await;

    let drvs = evaluator.instantiate("lies", &[TestDrv::good("app"), TestDrv::good("other")]);
    let honest = std::fs::read_to_string(evaluator.physical(&drvs["app"])).unwrap();
    // The same with another output path: its own path follows from its text, so that nothing is wrong with that.
    let output = honest.split('"').find(|text| text.ends_with("-app")).unwrap();
    let lie = honest.replace(output, &format!("/nix/store/{}-app", "0".repeat(32)));
    let text = AddTextToStore {
        name: "app.drv".to_owned(),
        text: lie.into_bytes().into(),
        references: BTreeSet::new(),
    };
    let lying = client
        .call(&text, &mut ())
        .await
        .expect("its path follows from its text");

    let body = body_for(&evaluator, [&drvs["other"]]).await;
    let mut jobs = drvs.clone();
    jobs.insert("app".to_owned(), format!("/nix/store/{lying}"));
    let evaluation = try_submit(&mut client, &body, "lies", &jobs).await.unwrap();
    let watched = watch(&mut client, evaluation).await;
    assert_eq!(watched.outcomes["other"], Outcome::Succeeded { how: Success::Built });
    assert_eq!(
        watched.outcomes["app"],
        Outcome::Failed {
            class: FailureClass::Store
        }
    );
    let cause = &watched.verdict.root_causes[0];
    assert!(cause.message.contains("output"), "{}", cause.message);
    drop(client);
    daemon.stop().await;
}
