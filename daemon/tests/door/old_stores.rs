//! Stores behind nixci that speak an old protocol: real daemons, and a proxy that lets neither side offer more.

use std::io;
use std::path::Path;

use crate::client::{all_outputs, remote_program, succeeds};
use crate::common::{config, connect, log, submit, watch};
use nixci_daemon::{Running, start};
use nixci_protocol::nixci::control::LogOf;
use nixci_protocol::nixci::outcome::{FailureClass, Outcome, Success};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

/// Lets connections through to a daemon that must not speak more than this minor version.
fn cap(listener: UnixListener, to: &Path, minor: u8) {
    let to = to.to_owned();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let server = UnixStream::connect(&to).await.unwrap();
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::spawn(capped(from_client, to_server, minor));
            tokio::spawn(capped(from_server, to_client, minor));
        }
    });
}

/// Each side begins with a magic number and its version.
async fn capped(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, minor: u8) -> io::Result<()> {
    let magic = from.read_u64_le().await?;
    to.write_u64_le(magic).await?;
    let version = from.read_u64_le().await?;
    to.write_u64_le(version.min(0x100 | u64::from(minor))).await?;
    tokio::io::copy(&mut from, &mut to).await?;
    to.shutdown().await
}

/// A daemon in front of a store that speaks no more than this.
async fn in_front_of(version: NixVersion, minor: u8) -> (TestDaemon, TempDir, Running) {
    let store = TestDaemon::start(version);
    let home = tempfile::tempdir().unwrap();
    let socket = home.path().join("capped");
    cap(UnixListener::bind(&socket).unwrap(), store.socket().as_ref(), minor);
    let mut config = config(home.path(), &store, 2);
    config.stores[0].uri = format!("unix://{}", socket.display());
    let daemon = start(config).await.unwrap();
    (store, home, daemon)
}

#[rstest]
#[case::before_results(NixVersion::V2_8, 33)]
#[case::before_outputs(NixVersion::V2_26, 27)]
#[case::before_results_of_the_newest(NixVersion::V2_34, 33)]
#[tokio::test(flavor = "multi_thread")]
async fn a_store_of_an_old_protocol_builds_and_is_read(#[case] version: NixVersion, #[case] minor: u8) {
    let (store, home, daemon) = in_front_of(version, minor).await;

    let client = TestDaemon::start(NixVersion::NEWEST);
    let graph = [
        TestDrv::good("base"),
        TestDrv::good("app").needs(&["base"]),
        TestDrv::failing("bad").needs(&["base"]),
        TestDrv::good("asked").needs(&["app"]),
    ];
    let mut drvs = client.instantiate("old-store", &graph);
    let asked = drvs.remove("asked").unwrap();
    let mut door = connect(&daemon.socket).await;
    let evaluation = submit(&mut door, &client, "old-store", &drvs).await;
    let watched = watch(&mut door, evaluation).await;
    for name in ["base", "app"] {
        assert_eq!(
            watched.outcomes[name],
            Outcome::Succeeded { how: Success::Built },
            "{name}"
        );
    }
    let class = FailureClass::Build;
    assert_eq!(watched.outcomes["bad"], Outcome::Failed { class });
    let (lines, _) = log(&mut door, LogOf::Derivation(drvs["bad"].clone()), false).await;
    assert!(lines.contains(&"error: bad does not compile".to_owned()), "{lines:?}");
    drop(door);

    // And for a stock client, which also reads what came of it.
    let uri = remote_program(home.path(), &daemon.socket);
    let (here, all) = (client.uri(), all_outputs(NixVersion::NEWEST, &asked));
    let printed = [
        "build",
        "--no-link",
        "--print-out-paths",
        "--store",
        &uri,
        "--eval-store",
        &here,
        &all,
    ];
    let built = succeeds(&client, &printed).await;
    let again = succeeds(&client, &printed).await;
    assert_eq!(again, built, "nothing to do");
    let out = built.trim();
    assert!(store.physical(out).exists(), "{out}");
    succeeds(&client, &["copy", "--no-check-sigs", "--from", &uri, out]).await;
    let read = |store: &TestDaemon| std::fs::read(store.physical(out)).unwrap();
    assert_eq!(read(&client), read(&store));
    daemon.stop().await;
}

/// Before 1.23 uploads have forms that no store of today needs: what has to be sent there ends with words, at once.
#[rstest]
#[case::as_2_3(NixVersion::V2_8, 21)]
#[case::the_least(NixVersion::V2_34, 18)]
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_takes_no_uploads_is_named(#[case] version: NixVersion, #[case] minor: u8) {
    let (_store, _home, daemon) = in_front_of(version, minor).await;
    let client = TestDaemon::start(NixVersion::NEWEST);
    let drvs = client.instantiate("old-store", &[TestDrv::good("base")]);
    let mut door = connect(&daemon.socket).await;
    let evaluation = submit(&mut door, &client, "old-store", &drvs).await;
    let watched = watch(&mut door, evaluation).await;
    let class = FailureClass::Store;
    assert_eq!(watched.outcomes["base"], Outcome::Failed { class });
    let cause = &watched.verdict.root_causes[0].message;
    let wanted = format!("AddToStoreNar needs protocol 1.23, the peer speaks 1.{minor}");
    assert!(cause.contains(&wanted), "{cause}");
    daemon.stop().await;
}
