//! Stores that collect what was forwarded to them, at the moment when the connections that keep it are lost.

#![expect(clippy::unwrap_used, reason = "this is a test, and a failure here is a failed test")]

mod common;

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;

use common::{config, connect, daemon, submit, watch};
use nixci_daemon::start;
use nixci_protocol::nixci::outcome::{Outcome, Success};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, poll_until};
use rstest::rstest;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

const QUERY_VALID_PATHS: u64 = 31;
const QUERY_MISSING: u64 = 40;
const ADD_MULTIPLE: u64 = 44;
const BUILD: u64 = 46;

const BUILT: Outcome = Outcome::Succeeded { how: Success::Built };

/// Deletes everything that nobody keeps, these among it.
fn collect(store: &TestDaemon, drvs: &[String]) {
    let what = "what connections kept that are gone to be collected";
    poll_until(what, || {
        let output = store
            .local_command("nix-store")
            .arg("--gc")
            .stdout(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        drvs.iter().all(|drv| !store.physical(drv).exists()).then_some(())
    });
}

/// Passes connections on to a store until an operation is sent the first time: then all are cut, and `act` runs before
/// there are new ones.
async fn cut_at(op: u64, listener: UnixListener, store: PathBuf, act: impl FnOnce() + Send + 'static) {
    let (cut, mut cuts) = mpsc::channel(1);
    let mut act = Some(act);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            Ok((client, _)) = listener.accept() => {
                let daemon = UnixStream::connect(&store).await.unwrap();
                connections.spawn(pass(client, daemon, op, cut.clone()));
            }
            Some(()) = cuts.recv() => {
                if let Some(act) = act.take() {
                    connections.shutdown().await;
                    tokio::task::spawn_blocking(act).await.unwrap();
                }
            }
        }
    }
}

async fn pass(client: UnixStream, daemon: UnixStream, op: u64, cut: mpsc::Sender<()>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_daemon, mut to_daemon) = daemon.into_split();
    let requests = async {
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let read = from_client.read(&mut bytes).await.unwrap_or(0);
            // Requests are sent whole, after the answer to the one before.
            if bytes[..read].starts_with(&op.to_le_bytes()) {
                let _ = cut.send(()).await;
            }
            if read == 0 || to_daemon.write_all(&bytes[..read]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = requests => {}
        _ = tokio::io::copy(&mut from_daemon, &mut to_client) => {}
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_collects_when_its_connections_are_cut_gets_everything_again(
    #[values(NixVersion::V2_8, NixVersion::V2_34)] version: NixVersion,
    #[values(QUERY_VALID_PATHS, ADD_MULTIPLE, QUERY_MISSING, BUILD)] op: u64,
) {
    let store = Arc::new(TestDaemon::start(version));
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let drvs = evaluator.instantiate("cut", &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])]);
    let socket = home.path().join("store");
    let listener = UnixListener::bind(&socket).unwrap();
    let behind = (store.clone(), drvs.values().cloned().collect::<Vec<_>>());
    let (collected, was_collected) = oneshot::channel();
    let proxy = tokio::spawn(cut_at(op, listener, store.socket(), move || {
        collect(&behind.0, &behind.1);
        let _ = collected.send(());
    }));
    let mut config = config(&folder(home.path()), &store, 2);
    config.stores[0].uri = store.uri_at(&socket);
    let daemon = start(config).await.unwrap();
    let mut client = connect(&daemon.socket).await;
    let evaluation = submit(&mut client, &evaluator, "cut", &drvs).await;
    let watched = watch(&mut client, evaluation).await;
    for job in ["base", "app"] {
        assert_eq!(watched.outcomes.get(job), Some(&BUILT), "{job}");
    }
    was_collected.await.unwrap();
    drop(client);
    daemon.stop().await;
    proxy.abort();
}

fn folder(home: &Path) -> PathBuf {
    let folder = home.join("nixci");
    std::fs::create_dir(&folder).unwrap();
    folder
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn what_waits_for_its_turn_is_sent_again_when_the_store_lost_it(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = daemon(home.path(), &store, 1).await;
    let gate = store.gate("slow");
    let drvs = evaluator.instantiate(
        "lost",
        &[
            TestDrv::good("slow").gate("slow"),
            TestDrv::good("above").needs(&["slow"]),
            TestDrv::good("other"),
            TestDrv::failing("bad"),
        ],
    );
    let mut client = connect(&daemon.socket).await;
    let evaluation = submit(&mut client, &evaluator, "lost", &drvs).await;
    gate.started().await;
    // The connections that keep derivations for the evaluation, and the one that builds, are lost.
    store.kill9();
    collect(&store, &drvs.values().cloned().collect::<Vec<_>>());
    store.start_again();
    gate.started().await;
    gate.open();
    let watched = watch(&mut client, evaluation).await;
    for job in ["slow", "above", "other"] {
        assert_eq!(watched.outcomes.get(job), Some(&BUILT), "{job}: {watched:?}");
    }
    assert_eq!(watched.verdict.root_causes.len(), 1, "{watched:?}");

    // Everything is collected, and wanted again: what is remembered of the store is wrong.
    store.kill9();
    collect(&store, &drvs.values().cloned().collect::<Vec<_>>());
    store.start_again();
    let evaluation = submit(&mut client, &evaluator, "again", &drvs).await;
    let watched = watch(&mut client, evaluation).await;
    for job in ["slow", "above", "other"] {
        assert_eq!(watched.outcomes.get(job), Some(&BUILT), "{job}: {watched:?}");
    }
    drop(client);
    daemon.stop().await;
}
