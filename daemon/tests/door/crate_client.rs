//! The crate `nix-daemon`, written by others from other sources, as a client: protocol 1.35.

use std::fmt::Debug;
use std::path::Path;

use crate::world::front;
use nix_daemon::nix::DaemonStore;
use nix_daemon::{BuildMode, BuildResultStatus, ClientSettings, PathInfo, Progress, Store};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

/// What every operation of the crate answered, for comparison.
async fn tour(socket: &Path, drvs: &std::collections::BTreeMap<String, String>) -> Vec<String> {
    let mut store = DaemonStore::builder().connect_unix(socket).await.unwrap();
    let mut heard = Vec::new();
    let settings = ClientSettings {
        keep_going: true,
        ..ClientSettings::default()
    };
    hear(&mut heard, "set_options", store.set_options(settings).result().await);

    let none: [&str; 0] = [];
    let (text, info) = store
        .add_to_store("a-text", "text:sha256", none, false, &b"a text\n"[..])
        .result()
        .await
        .unwrap();
    heard.push(format!("add_to_store: {text} {}", shown(info)));
    let (file, _) = store
        .add_to_store("a-file", "fixed:sha256", none, false, &b"a file\n"[..])
        .result()
        .await
        .unwrap();
    heard.push(format!("add_to_store: {file}"));

    let nowhere = "/nix/store/00000000000000000000000000000000-nowhere";
    for path in [&text, nowhere] {
        hear(&mut heard, "is_valid_path", store.is_valid_path(path).result().await);
        let info = store.query_pathinfo(path).result().await;
        hear(&mut heard, "query_pathinfo", info.map(|info| info.map(shown)));
        hear(&mut heard, "add_temp_root", store.add_temp_root(path).result().await);
    }
    hear(&mut heard, "ensure_path", store.ensure_path(&text).result().await);
    let asked = [&file, &text, nowhere];
    hear_all(
        &mut heard,
        "query_valid_paths",
        store.query_valid_paths(asked, true).result().await,
    );
    let substitutable = store.query_substitutable_paths([nowhere]).result().await;
    hear_all(&mut heard, "query_substitutable_paths", substitutable);

    let (app, bad) = (&drvs["app"], &drvs["bad"]);
    let mut missing = store.query_missing([format!("{app}!*")]).result().await.unwrap();
    missing.will_build.sort();
    heard.push(format!("query_missing: {missing:?}"));
    let outputs = store.query_derivation_output_map(app).result().await.unwrap();
    heard.push(format!("query_derivation_output_map: {outputs:?}"));
    let built = store
        .build_paths_with_results([format!("{app}!*"), format!("{bad}!*")], BuildMode::Normal)
        .result()
        .await
        .unwrap();
    assert_eq!(built[&format!("{app}!*")].status, BuildResultStatus::Built);
    let failed = &built[&format!("{bad}!*")];
    heard.push(format!("build_paths_with_results: {:?} {}", failed.status, built.len()));
    hear(
        &mut heard,
        "build_paths",
        store
            .build_paths([format!("{app}!*")], BuildMode::Normal)
            .result()
            .await,
    );
    hear_all(
        &mut heard,
        "query_valid_derivers",
        store.query_valid_derivers(&outputs["out"]).result().await,
    );
    heard
}

/// Without the time at which it was registered, which is no matter of the protocol.
fn shown(info: PathInfo) -> String {
    let PathInfo {
        deriver,
        mut references,
        nar_hash,
        nar_size,
        ultimate,
        mut signatures,
        ca,
        registration_time: _,
    } = info;
    references.sort();
    signatures.sort();
    format!("{deriver:?} {references:?} {nar_hash} {nar_size} {ultimate} {signatures:?} {ca:?}")
}

fn hear<T: Debug, E: Debug>(heard: &mut Vec<String>, what: &str, answer: Result<T, E>) {
    heard.push(format!("{what}: {:?}", answer.unwrap()));
}

fn hear_all<E: Debug>(heard: &mut Vec<String>, what: &str, answer: Result<Vec<String>, E>) {
    let mut paths = answer.unwrap();
    paths.sort();
    heard.push(format!("{what}: {paths:?}"));
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn the_crate_nix_daemon_hears_the_same_as_from_a_stock_daemon(
    #[values("writes = \"spool\"", "writes = \"through\"")] keys: &str,
) {
    let list = [
        TestDrv::good("base"),
        TestDrv::good("app").needs(&["base"]),
        TestDrv::failing("bad"),
    ];
    let stock = TestDaemon::start(NixVersion::NEWEST);
    let expected = tour(&stock.socket(), &stock.instantiate("crate", &list)).await;

    let store = TestDaemon::start(NixVersion::NEWEST);
    let drvs = store.instantiate("crate", &list);
    let nixci = front(&store, keys);
    let heard = tour(&nixci.socket(), &drvs).await;
    for (heard, expected) in heard.iter().zip(&expected) {
        assert_eq!(heard, expected);
    }
    assert_eq!(heard.len(), expected.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_crate_asks_that_is_no_more_is_refused_in_words() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let nixci = front(&store, "");
    let mut client = DaemonStore::builder().connect_unix(nixci.socket()).await.unwrap();
    let path = "/nix/store/00000000000000000000000000000000-nowhere";
    let error = client.has_substitutes(path).result().await.unwrap_err().to_string();
    assert!(
        error.contains("HasSubstitutes") || error.contains("operation 3"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_are_made_and_found() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let nixci = front(&store, "writes = \"through\"");
    let mut client = DaemonStore::builder().connect_unix(nixci.socket()).await.unwrap();
    let none: [&str; 0] = [];
    let (path, _) = client
        .add_to_store("rooted", "text:sha256", none, false, &b"rooted\n"[..])
        .result()
        .await
        .unwrap();
    let link = store.scratch().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    client.add_indirect_root(link.to_str().unwrap()).result().await.unwrap();
    let roots = client.find_roots().result().await.unwrap();
    assert_eq!(roots.get(link.to_str().unwrap()), Some(&path), "{roots:?}");
}
