//! Questions about store objects: the same answers as the store's own, and true ones while it collects.

use std::process::Output;
use std::time::Duration;

use crate::client::all_outputs;
use crate::common::config;
use nixci_daemon::config::Writes;
use nixci_daemon::start;
use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::op;
use nixci_protocol::types::{StoreDir, StorePath};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, poll_until};
use rstest::rstest;
use std::path::Path;
use tokio::net::UnixStream;

/// A client as stock ones are.
pub(crate) async fn stock(socket: &Path) -> Connection {
    let (read, write) = UnixStream::connect(socket).await.unwrap().into_split();
    Connection::open(read, write, Hello::default()).await.unwrap()
}

fn path(text: &str) -> StorePath {
    StoreDir::default().parse(text.trim()).unwrap()
}

/// Runs a stock program with the store at another URI than the daemon's own.
fn at(store: &TestDaemon, uri: &str, words: &[&str]) -> Output {
    let mut command = store.command(words[0]);
    command.args(&words[1..]).env("NIX_REMOTE", uri);
    command.output().unwrap()
}

/// What a user sees of it.
fn seen(output: &Output, uri: &str) -> (Option<i32>, String, String) {
    let short = uri.split('?').next().unwrap_or(uri);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(uri, "URI").replace(short, "URI");
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

/// The store's temporary and other roots, as it tells them.
fn roots(store: &TestDaemon) -> String {
    store.run("nix-store", &["--gc", "--print-roots"])
}

fn build(store: &TestDaemon, drv: &str) -> String {
    let out = store.run("nix-store", &["-r", drv]);
    out.trim().to_owned()
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn every_question_is_answered_as_by_the_store_itself(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let drvs = store.instantiate(
        "query",
        &[
            TestDrv::good("base").script("echo hello from base"),
            TestDrv::good("app").needs(&["base"]),
            TestDrv::good("never").needs(&["app"]),
        ],
    );
    let base = build(&store, &drvs["base"]);
    let app = build(&store, &drvs["app"]);
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 2);
    config.listen.writes = Writes::Through;
    let daemon = start(config).await.unwrap();
    let (direct, through) = (
        store.uri(),
        format!("unix://{}?root={}", daemon.socket.display(), store.root().display()),
    );
    let (drv, never) = (drvs["app"].as_str(), drvs["never"].as_str());
    let absent = format!("{}-absent", "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q");
    let (all_app, all_never) = (all_outputs(version, drv), all_outputs(version, never));
    let mut commands: Vec<Vec<&str>> = vec![
        vec!["nix", "path-info", "-r", "--json", "--closure-size", &app],
        vec!["nix", "path-info", "--json", &absent],
        vec!["nix", "path-info", "--all"],
        vec!["nix-store", "-q", "--requisites", &app],
        vec!["nix-store", "-q", "--requisites", drv],
        vec!["nix-store", "-q", "--referrers", &base],
        vec!["nix-store", "-q", "--referrers", &drvs["base"]],
        vec!["nix-store", "-q", "--referrers-closure", &base],
        vec!["nix-store", "-q", "--deriver", &app],
        vec!["nix-store", "-q", "--outputs", drv],
        vec!["nix-store", "-q", "--hash", &app],
        vec!["nix-store", "-q", "--size", &app],
        vec!["nix-store", "-q", "--tree", &app],
        vec!["nix-store", "-q", "--graph", drv],
        vec!["nix-store", "-q", "--hash", &absent],
        vec!["nix-store", "--check-validity", &app, drv],
        vec!["nix-store", "--check-validity", "--print-invalid", &absent, &app],
        vec!["nix-store", "--dump", &app],
        vec!["nix-store", "--export", &base, &app],
        vec!["nix-store", "-l", &drvs["base"]],
        vec!["nix-store", "-r", drv],
        vec!["nix-store", "-r", "--dry-run", never],
        vec!["nix-store", "-r", &app],
        vec!["nix-store", "-r", &absent],
        vec!["nix", "why-depends", &app, &base],
        vec!["nix", "store", "ls", "-R", "--json", &app],
        vec!["nix", "store", "cat", &app],
        vec!["nix", "store", "ping"],
        vec!["nix", "log", &drvs["base"]],
        vec!["nix", "build", "--no-link", "--print-out-paths", &all_app],
        vec!["nix", "build", "--no-link", "--dry-run", &all_never],
    ];
    match version {
        NixVersion::V2_8 => commands.push(vec!["nix", "show-derivation", "-r", drv]),
        NixVersion::V2_26 | NixVersion::V2_34 => commands.push(vec!["nix", "derivation", "show", "-r", drv]),
    }
    let closure = [drv, &app, &base, &drvs["base"]];
    // The second time it is answered from what is known.
    for round in ["asked", "known"] {
        for words in &commands {
            let expected = seen(&at(&store, &direct, words), &direct);
            let found = seen(&at(&store, &through, words), &through);
            // The store's version and what we say of ours differ.
            if words[1..] == ["store", "ping"] {
                assert_eq!(found.0, expected.0, "{round}: {words:?}: {found:?}");
            } else {
                assert_eq!(found, expected, "{round}: {words:?}");
            }
        }
        poll_until("the store's paths to be known", || {
            let roots = roots(&store);
            closure.iter().all(|path| roots.contains(path)).then_some(())
        });
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_answered_from_memory_survives_a_collection_and_nothing_else_is_answered() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let drvs = store.instantiate("lease", &[TestDrv::good("kept"), TestDrv::good("gone")]);
    let (kept, gone) = (build(&store, &drvs["kept"]), build(&store, &drvs["gone"]));
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 1);
    config.listen.writes = Writes::Through;
    config.limits.known_time = Duration::from_secs(3);
    let daemon = start(config).await.unwrap();
    let mut client = stock(&daemon.socket).await;
    let info = |path: &str| op::QueryPathInfo { path: self::path(path) };
    for path in [&kept, &gone] {
        assert!(client.call(&info(path), &mut ()).await.unwrap().is_some());
    }
    poll_until("the paths to be protected", || {
        let roots = roots(&store);
        (roots.contains(&kept) && roots.contains(&gone)).then_some(())
    });
    store.run("nix-store", &["--gc"]);
    assert!(store.physical(&kept).exists() && store.physical(&gone).exists());

    // A root that a client asked for lasts as long as the client, and that of nothing else.
    let root = op::AddTempRoot { path: path(&kept) };
    client.call(&root, &mut ()).await.unwrap();
    poll_until("the other path to be let go", || {
        let deleted = store.output("nix-store", &["--delete", &gone]);
        deleted.status.success().then_some(())
    });
    assert!(client.call(&info(&gone), &mut ()).await.unwrap().is_none());
    assert!(client.call(&info(&kept), &mut ()).await.unwrap().is_some());
    let deleted = store.output("nix-store", &["--delete", &kept]);
    assert!(!deleted.status.success(), "the client's root protects it still");
    drop(client);
    daemon.stop().await;
    store.run("nix-store", &["--delete", &kept]);
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_that_goes_through_us_deletes_what_is_known(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let drvs = store.instantiate("through", &[TestDrv::good("used"), TestDrv::good("gone")]);
    let (used, gone) = (build(&store, &drvs["used"]), build(&store, &drvs["gone"]));
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 1);
    config.listen.writes = Writes::Through;
    let daemon = start(config).await.unwrap();
    let uri = format!("unix://{}?root={}", daemon.socket.display(), store.root().display());
    let mut client = stock(&daemon.socket).await;
    let info = |path: &str| op::QueryPathInfo { path: self::path(path) };
    for path in [&used, &gone] {
        assert!(client.call(&info(path), &mut ()).await.unwrap().is_some());
    }
    poll_until("the paths to be known", || {
        let roots = roots(&store);
        (roots.contains(&used) && roots.contains(&gone)).then_some(())
    });
    let root = op::AddTempRoot { path: path(&used) };
    client.call(&root, &mut ()).await.unwrap();
    let deleted = at(&store, &uri, &["nix-store", "--delete", &gone]);
    assert!(deleted.status.success(), "{deleted:?}");
    assert!(!store.physical(&gone).exists());
    assert!(client.call(&info(&gone), &mut ()).await.unwrap().is_none());
    let deleted = at(&store, &uri, &["nix-store", "--delete", &used]);
    assert!(!deleted.status.success(), "a client has a root on it");
    assert!(at(&store, &uri, &["nix-store", "--gc"]).status.success());
    assert!(client.call(&info(&used), &mut ()).await.unwrap().is_some());
    drop(client);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_was_restarted_is_asked_again() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let drvs = store.instantiate("restarted", &[TestDrv::good("base")]);
    let base = build(&store, &drvs["base"]);
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    let mut client = stock(&daemon.socket).await;
    let valid = op::IsValidPath { path: path(&base) };
    assert!(client.call(&valid, &mut ()).await.unwrap());
    poll_until("the path to be protected", || {
        roots(&store).contains(&base).then_some(())
    });
    // With the daemon its connections go, and with them all roots.
    store.kill9();
    let mut local = store.local_command("nix-store");
    poll_until("the path to be collected", || {
        let deleted = local.args(["--delete", &base]).output().unwrap();
        deleted.status.success().then_some(())
    });
    store.start_again();
    assert!(!client.call(&valid, &mut ()).await.unwrap());
    daemon.stop().await;
}
