//! What a build would do: told without uploading anything, and the same as the store itself says once it has the
//! derivations.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use crate::common::config;
use crate::query::stock;
use nixci_daemon::start;
use nixci_protocol::client::Connection;
use nixci_protocol::op::{Missing, QueryMissing};
use nixci_protocol::types::{DerivedPath, StoreDir};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, recorded};

/// Copies derivations with all they need; answers nothing until they are there.
fn copy(client: &TestDaemon, from: &str, to: &str, drvs: &[&str]) {
    let mut command = client.command("nix");
    command.args(["copy", "--derivation", "--from", from, "--to", to, "--stdin"]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(drvs.join("\n").as_bytes()).unwrap();
    drop(stdin);
    assert!(child.wait().unwrap().success());
}

async fn missing(connection: &mut Connection, wants: &[String]) -> Missing {
    let dir = StoreDir::default();
    let paths = wants.iter().map(|want| DerivedPath::parse(&dir, want).unwrap());
    let question = QueryMissing { paths: paths.collect() };
    connection.call(&question, &mut ()).await.unwrap()
}

/// Asks both, after the derivations went to both, ours first.
async fn compare(store: &TestDaemon, socket: &Path, wants: &[String]) -> Missing {
    let mut ours = stock(socket).await;
    let told = missing(&mut ours, wants).await;
    let mut direct = stock(&store.socket()).await;
    assert_eq!(told, missing(&mut direct, wants).await, "{wants:?}");
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_says_what_the_store_would_say_and_uploads_nothing() {
    let cache = tempfile::tempdir().unwrap();
    let cache_uri = format!("file://{}", cache.path().display());
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let store = TestDaemon::builder(NixVersion::V2_34)
        .config(&format!("substituters = {cache_uri}\nrequire-sigs = false"))
        .start();
    let two = |name: &str| {
        TestDrv::good(name)
            .attribute("outputs", r#"[ "out" "dev" ]"#)
            .script("echo dev > $dev")
    };
    let derivations = [
        TestDrv::good("built"),
        TestDrv::good("cached").needs(&["built"]),
        TestDrv::good("own").attribute("allowSubstitutes", "false"),
        two("half").needs(&["cached"]),
        TestDrv::good("uses_out").needs(&["half"]),
        TestDrv::good("fresh").needs(&["cached", "own"]),
        TestDrv::good("top").needs(&["fresh", "uses_out"]),
    ];
    let drvs = evaluator.instantiate("missing", &derivations);
    // In the cache: `cached` with what it refers to, one output of `half`, and `own`, which may not come from there.
    for (name, output) in [("cached", "out"), ("half", "out"), ("own", "out")] {
        let drv = format!("{}^{output}", drvs[name]);
        evaluator.run("nix", &["build", "--no-link", &drv]);
        evaluator.run("nix", &["copy", "--to", &cache_uri, "--no-check-sigs", &drv]);
    }
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    let spool = format!("unix://{}", daemon.socket.display());
    let all: Vec<&str> = drvs.values().map(String::as_str).collect();
    copy(&evaluator, &evaluator.uri(), &spool, &all);

    let absent = "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-absent".to_owned();
    let cached_out = evaluator.run("nix", &["path-info", &format!("{}^out", drvs["cached"])]);
    let wants: Vec<Vec<String>> = vec![
        vec![format!("{}!*", drvs["top"])],
        vec![format!("{}!out", drvs["half"])],
        vec![format!("{}!dev", drvs["half"])],
        vec![format!("{}!*", drvs["half"])],
        vec![format!("{}!nothing", drvs["half"])],
        vec![format!("{}!*", drvs["own"]), format!("{}!*", drvs["cached"])],
        vec![cached_out.trim().to_owned(), absent.clone()],
        vec![
            format!("{absent}.drv!*"),
            drvs["top"].clone(),
            format!("{}!*", drvs["fresh"]),
        ],
    ];
    let mut told = Vec::new();
    let mut ours = stock(&daemon.socket).await;
    for wants in &wants {
        told.push(missing(&mut ours, wants).await);
    }
    drop(ours);
    assert!(!store.physical(&drvs["top"]).exists(), "nothing was uploaded for it");

    copy(&evaluator, &evaluator.uri(), &store.uri(), &all);
    for (wants, told) in wants.iter().zip(&told) {
        assert_eq!(&compare(&store, &daemon.socket, wants).await, told);
    }
    let names = |told: &Missing| {
        let names = |paths: &std::collections::BTreeSet<nixci_protocol::types::StorePath>| {
            let mut names: Vec<_> = paths.iter().map(|path| path.name().to_owned()).collect();
            names.sort();
            names.join(" ")
        };
        [
            names(&told.will_build),
            names(&told.will_substitute),
            names(&told.unknown),
        ]
    };
    assert_eq!(
        names(&told[0]),
        ["fresh.drv own.drv top.drv uses_out.drv", "built cached half", ""]
    );
    assert_eq!(names(&told[2]), ["half.drv", "built cached", ""]);
    assert_eq!(names(&told[7])[2], "absent.drv");
    assert!(told[0].download_size > 0 && told[0].nar_size > 0);

    // And when some of it is there.
    store.run("nix-store", &["-r", &drvs["cached"]]);
    for wants in &wants {
        compare(&store, &daemon.socket, wants).await;
    }
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_of_recorded_jobs_says_what_the_store_would_say() {
    let graph = recorded::whole();
    let roots: Vec<&str> = graph
        .roots(recorded::Set::Head)
        .into_iter()
        .step_by(57)
        .take(120)
        .collect();
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    copy(
        &store,
        &graph.uri(),
        &format!("unix://{}", daemon.socket.display()),
        &roots,
    );
    let wants: Vec<String> = roots.iter().map(|drv| format!("{drv}!*")).collect();
    let mut ours = stock(&daemon.socket).await;
    let told = missing(&mut ours, &wants).await;
    assert!(told.will_build.len() > 1_000 && told.unknown.is_empty());
    assert!(!store.physical(roots[0]).exists(), "nothing was uploaded for it");
    copy(&store, &graph.uri(), &store.uri(), &roots);
    assert_eq!(compare(&store, &daemon.socket, &wants).await, told);
    daemon.stop().await;
}
