//! The harness itself: daemons of every version start, build, are killed and come back.

use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, recorded};
use rstest::rstest;

#[rstest]
#[tokio::test]
async fn a_daemon_builds_and_survives_a_kill_with_a_build_at_a_gate(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let daemon = TestDaemon::start(version);
    let gate = daemon.gate("slow");
    let paths = daemon.instantiate(
        "harness",
        &[
            TestDrv::good("base"),
            TestDrv::good("top").needs(&["base"]),
            TestDrv::failing("broken"),
            TestDrv::good("slow").gate("slow"),
        ],
    );
    let out = daemon.run("nix-store", &["-r", &paths["top"]]);
    assert!(daemon.physical(out.trim()).is_file(), "{out}");
    let failed = daemon.output("nix-store", &["-r", &paths["broken"]]);
    assert!(!failed.status.success());
    assert!(
        String::from_utf8_lossy(&failed.stderr).contains("does not compile"),
        "{failed:?}"
    );

    let mut client = daemon
        .command("nix-store")
        .args(["-r", &paths["slow"]])
        .spawn()
        .unwrap();
    gate.started().await;
    daemon.kill9();
    assert!(!client.wait().unwrap().success());

    daemon.start_again();
    gate.open();
    let out = daemon.run("nix-store", &["-r", &paths["slow"]]);
    assert!(daemon.physical(out.trim()).is_file(), "{out}");
}

#[test]
fn the_recorded_graph_is_a_store() {
    let graph = recorded::whole();
    assert_eq!(graph.paths().len(), 29_718);
    let roots = graph.roots(recorded::Set::Head);
    assert_eq!(roots.len(), 6_521);
    assert!(graph.root().join(&roots[0][1..]).is_file());
}
