//! `nixci report` and what `nixci doctor` says of forges.

#![expect(clippy::unwrap_used, reason = "helpers of tests report by panicking")]

use nixci_protocol::nixci::control::EvaluationId;
use nixci_protocol::nixci::report::{StatusContent, StatusRole, StatusState};
use nixci_store::index::Index;
use nixci_store::index::statuses::{StatusKey, Want, Wanted, want};
use nixci_store::testing::TestDrv;

use crate::world::World;

const COMMIT: &str = "3333333333333333333333333333333333333333";

/// Submits one job at [`COMMIT`].
fn submitted(world: &World) {
    let drvs = world.nix.instantiate("report", &[TestDrv::good("a")]);
    let args = [
        "submit",
        "--project",
        "o/n",
        "--commit",
        COMMIT,
        "--wait",
        drvs["a"].as_str(),
    ];
    world.nixci(&args).ends(0);
}

/// Writes down what shall stand at the commit, in the daemon's own index, at a forge that no sender has.
fn wanted(world: &World, contexts: &[&str]) {
    let index = Index::open(&world.service.scratch().join("state/index.db")).unwrap();
    let rows: Vec<Wanted> = contexts
        .iter()
        .map(|context| Wanted {
            key: StatusKey {
                forge: "elsewhere".into(),
                repository: "o/n".into(),
                commit: COMMIT.into(),
                context: (*context).to_owned(),
            },
            evaluation: EvaluationId(1),
            role: StatusRole::Job,
            attr: None,
            content: StatusContent {
                state: StatusState::Success,
                description: "built".into(),
                summary: String::new(),
                text: String::new(),
                url: None,
                annotations: Vec::new(),
                started: None,
                ended: None,
            },
        })
        .collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let done = index
            .write_durable(move |tx| {
                rows.iter()
                    .map(|row| want(tx, row, 1_700_000_000_000))
                    .collect::<Result<Vec<_>, _>>()
            })
            .await
            .unwrap();
        assert!(done.iter().all(|done| matches!(done, Want::Changed(_))), "{done:?}");
        index.close().await;
    });
}

#[test]
fn what_was_not_sent_is_shown_by_number_and_by_commit() {
    let world = World::new("");
    submitted(&world);
    world
        .nixci(&["report"])
        .ends(0)
        .says("nothing of evaluation #1 is shown on a forge");
    wanted(&world, &["nixci", "nixci / a"]);
    for args in [
        &["report"][..],
        &["report", "1"],
        &["report", "3333333"],
        &["report", "1", "--project", "o/n"],
    ] {
        world
            .nixci(args)
            .ends(3)
            .says("elsewhere o/n @ 333333333333")
            .says("nixci / a  success  not yet");
    }
    let json = world.nixci(&["report", "--json"]).ends(3).json();
    assert_eq!(json.as_array().unwrap().len(), 2);
    assert_eq!(json[1]["context"], "nixci / a");
    assert_eq!(json[1]["isSent"], false);
    world.nixci(&["report", "--again"]).ends(3);
    world.nixci(&["report", "99"]).ends(1).warns("99");
}

#[test]
fn the_doctor_says_which_forges_do_not_answer() {
    let forge =
        "[[forge]]\nname = \"hub\"\nkind = \"forgejo\"\nurl = \"http://127.0.0.1:9\"\ntoken_file = \"@TOKEN@\"\n";
    let dir = tempfile::tempdir().unwrap();
    let token = dir.path().join("token");
    std::fs::write(&token, "s3cr3t-of-the-forge\n").unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&token, mode).unwrap();
    let world = World::new(&forge.replace("@TOKEN@", &token.display().to_string()));
    let ran = world
        .nixci(&["doctor"])
        .ends(1)
        .says("✕ forge hub")
        .says("it has no `webhook_secret_file`");
    assert!(!ran.out.contains("s3cr3t") && !ran.err.contains("s3cr3t"), "{ran:?}");
    assert!(!world.service.log().contains("s3cr3t"));
}
