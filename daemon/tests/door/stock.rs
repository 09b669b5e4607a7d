//! Stock clients of three versions, over the socket and over `ssh-ng://localhost?remote-program=`.

use crate::client::{all_outputs, nix, remote_program, succeeds};
use crate::common::{config, connect, log};
use nixci_daemon::config::Writes;
use nixci_daemon::{Running, start};
use nixci_protocol::nixci::control::LogOf;
use nixci_protocol::nixci::outcome::{Outcome, Success};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn derivations_are_copied_asked_about_and_built(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let evaluator = TestDaemon::start(version);
    let home = tempfile::tempdir().unwrap();
    let daemon: Running = start(config(home.path(), &store, 2)).await.unwrap();
    let drvs = evaluator.instantiate(
        "stock",
        &[
            TestDrv::good("base"),
            TestDrv::good("app").needs(&["base"]).script("echo hello from app"),
            TestDrv::failing("bad"),
        ],
    );
    let socket = format!("unix://{}", daemon.socket.display());
    let pipe = remote_program(home.path(), &daemon.socket);

    succeeds(&evaluator, &["copy", "--derivation", "--to", &socket, &drvs["app"]]).await;
    succeeds(
        &evaluator,
        &["copy", "--derivation", "--to", &pipe, &drvs["app"], &drvs["bad"]],
    )
    .await;
    // On a socket 2.8 reads derivations from its own disk, whatever the daemon says of them.
    let doors = match version {
        NixVersion::V2_8 => vec![&pipe],
        NixVersion::V2_26 | NixVersion::V2_34 => vec![&socket, &pipe],
    };
    for uri in doors {
        let known = succeeds(
            &evaluator,
            &["path-info", "--store", uri, "--recursive", "--derivation", &drvs["app"]],
        )
        .await;
        assert!(known.contains(&drvs["app"]) && known.contains(&drvs["base"]), "{known}");
    }
    assert!(
        !store.physical(&drvs["app"]).exists(),
        "nothing is forwarded before it is needed"
    );

    let app = all_outputs(version, &drvs["app"]);
    succeeds(&evaluator, &["build", "--no-link", "--store", &pipe, &app]).await;
    let mut client = connect(&daemon.socket).await;
    for (drv, line) in [("app", "hello from app"), ("base", "building base")] {
        let (lines, end) = log(&mut client, LogOf::Derivation(drvs[drv].clone()), false).await;
        assert!(lines.iter().any(|printed| printed == line), "{drv}: {lines:?}");
        assert_eq!(end, Some(Outcome::Succeeded { how: Success::Built }), "{drv}");
    }

    let failed = nix(
        &evaluator,
        &[
            "build",
            "--no-link",
            "--store",
            &pipe,
            &all_outputs(version, &drvs["bad"]),
        ],
    )
    .await;
    let said = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(!failed.status.success());
    assert!(said.contains("bad does not compile"), "{said}");
    let (_, end) = log(&mut client, LogOf::Derivation(drvs["bad"].clone()), false).await;
    assert!(matches!(end, Some(Outcome::Failed { .. })), "{end:?}");

    // What was built can be fetched from the store behind through the same door.
    let out = succeeds(&evaluator, &["path-info", "--store", &pipe, &app]).await;
    succeeds(&evaluator, &["copy", "--no-check-sigs", "--from", &pipe, out.trim()]).await;
    assert!(evaluator.physical(out.trim()).exists());
    // And put back into the spool, as by a cache.
    let second = TestDaemon::start(version);
    let other_home = tempfile::tempdir().unwrap();
    let other = start(config(other_home.path(), &second, 1)).await.unwrap();
    let other_socket = format!("unix://{}", other.socket.display());
    succeeds(
        &evaluator,
        &["copy", "--no-check-sigs", "--to", &other_socket, out.trim()],
    )
    .await;
    let known = succeeds(&evaluator, &["path-info", "--store", &other_socket, out.trim()]).await;
    assert_eq!(known.trim(), out.trim());
    drop(client);
    other.stop().await;
    daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_shares_the_disk_builds_through_the_socket(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let evaluator = TestDaemon::start(version);
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 2);
    config.listen.writes = Writes::Through;
    let daemon = start(config).await.unwrap();
    let drvs = evaluator.instantiate(
        "through",
        &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])],
    );
    let socket = format!("unix://{}?root={}", daemon.socket.display(), store.root().display());
    succeeds(&evaluator, &["copy", "--derivation", "--to", &socket, &drvs["app"]]).await;
    assert!(store.physical(&drvs["app"]).exists(), "writes go through at once");
    let app = all_outputs(version, &drvs["app"]);
    succeeds(&evaluator, &["build", "--no-link", "--store", &socket, &app]).await;
    let out = succeeds(&evaluator, &["path-info", "--store", &socket, &app]).await;
    assert!(store.physical(out.trim()).exists());
    daemon.stop().await;
}
