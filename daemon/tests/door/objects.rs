//! Store objects behind the door: the spool and several stores as one, and NARs while peers come and go.

use std::collections::BTreeSet;
use std::path::Path;

use crate::common::{config, connect_stock};
use crate::query::stock;
use nixci_daemon::config::Writes;
use nixci_daemon::{Running, start};
use nixci_protocol::client::{Connection, Error};
use nixci_protocol::op::{self, Call, RealisationKey};
use nixci_protocol::types::{DrvOutput, DrvPath, Realisation, StoreDir, StorePath};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, poll_until};
use tokio::io::{AsyncWriteExt, duplex};

fn path(text: &str) -> StorePath {
    StoreDir::default().parse(text.trim()).unwrap()
}

fn built(store: &TestDaemon, drv: &str) -> StorePath {
    path(&store.run("nix-store", &["-r", drv]))
}

/// A daemon with a spool in front of these stores, the first one by the name `default`.
async fn in_front_of(folder: &Path, stores: &[&TestDaemon]) -> Running {
    let mut config = config(folder, stores[0], 1);
    for (nth, store) in stores.iter().enumerate().skip(1) {
        let mut further = config.stores[0].clone();
        further.name = format!("store{nth}");
        further.uri = store.uri();
        config.stores.push(further);
    }
    start(config).await.unwrap()
}

async fn ask<R: Call>(connection: &mut Connection, question: R) -> R::Reply {
    connection.call(&question, &mut ()).await.unwrap()
}

async fn nar(connection: &mut Connection, path: &StorePath) -> Vec<u8> {
    let info = ask(connection, op::QueryPathInfo { path: path.clone() }).await.unwrap();
    let mut nar = Vec::new();
    connection
        .nar_from_path(path, info.nar_size, &mut nar, &mut ())
        .await
        .unwrap();
    nar
}

#[tokio::test(flavor = "multi_thread")]
async fn the_spool_and_all_stores_are_read_as_one() {
    let (first, second) = (
        TestDaemon::start(NixVersion::V2_34),
        TestDaemon::start(NixVersion::V2_26),
    );
    let drvs = |store: &TestDaemon| {
        store.instantiate(
            "as-one",
            &[
                TestDrv::good("one"),
                TestDrv::good("two"),
                TestDrv::good("app").needs(&["one"]),
            ],
        )
    };
    let (on_first, on_second) = (drvs(&first), drvs(&second));
    assert_eq!(on_first, on_second);
    let one = built(&first, &on_first["one"]);
    let two = built(&second, &on_second["two"]);
    let home = tempfile::tempdir().unwrap();
    let daemon = in_front_of(home.path(), &[&first, &second]).await;
    let spool = format!("unix://{}", daemon.socket.display());
    let source = home.path().join("source");
    std::fs::write(&source, "a source that only the spool has").unwrap();
    let spooled = path(&first.run(
        "nix",
        &["store", "add-path", "--store", &spool, source.to_str().unwrap()],
    ));
    let mut client = stock(&daemon.socket).await;
    let absent = path("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-absent");

    // Twice: as it is asked, and as it is known.
    for _ in 0..2 {
        let there = BTreeSet::from([one.clone(), two.clone(), spooled.clone()]);
        let mut paths = there.clone();
        paths.insert(absent.clone());
        let substitute = false;
        assert_eq!(ask(&mut client, op::QueryValidPaths { paths, substitute }).await, there);
        for path in &there {
            let path = path.clone();
            assert!(ask(&mut client, op::IsValidPath { path: path.clone() }).await);
            let hash_part = path.hash_part();
            let found = ask(&mut client, op::QueryPathFromHashPart { hash_part }).await;
            assert_eq!(found.as_ref(), Some(&path));
            assert!(!nar(&mut client, &path).await.is_empty());
        }
        for (store, path) in [(&first, &one), (&second, &two)] {
            let mut direct = connect_stock(store).await;
            let question = op::QueryPathInfo { path: path.clone() };
            assert_eq!(
                ask(&mut client, question.clone()).await,
                ask(&mut direct, question).await
            );
            assert_eq!(nar(&mut client, path).await, nar(&mut direct, path).await);
        }
        let hash_part = absent.hash_part();
        assert_eq!(ask(&mut client, op::QueryPathFromHashPart { hash_part }).await, None);
        let absent = absent.clone();
        assert_eq!(ask(&mut client, op::QueryPathInfo { path: absent }).await, None);
        poll_until("what is on both stores to be known", || {
            let rooted = |store: &TestDaemon, path: &StorePath| {
                let roots = store.run("nix-store", &["--gc", "--print-roots"]);
                roots.contains(&path.to_string()).then_some(())
            };
            rooted(&first, &one).and(rooted(&second, &two))
        });
    }
    let all = ask(&mut client, op::QueryAllValidPaths {}).await;
    assert!([&one, &two, &spooled].iter().all(|path| all.contains(path)));

    // Who refers to a derivation in the spool is found there too, beside what a store says.
    first.run("nix", &["copy", "--derivation", "--to", &spool, &on_first["app"]]);
    let path_of = |name: &str| path(&on_first[name]);
    let referrers = ask(&mut client, op::QueryReferrers { path: path_of("one") }).await;
    assert_eq!(referrers, BTreeSet::from([path_of("app")]));
    let derivers = ask(&mut client, op::QueryValidDerivers { path: two.clone() }).await;
    assert_eq!(derivers, BTreeSet::from([path_of("two")]));

    // One store that is away does not take the others with it.
    second.kill9();
    let paths = BTreeSet::from([one.clone(), spooled.clone(), absent.clone()]);
    poll_until("the lost store to be noticed", || {
        let connection = std::os::unix::net::UnixStream::connect(second.socket());
        connection.is_err().then_some(())
    });
    let substitute = false;
    let there = ask(&mut client, op::QueryValidPaths { paths, substitute }).await;
    assert_eq!(there, BTreeSet::from([one, spooled]));
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_refers_to_objects_that_only_a_store_has_is_taken() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let drvs = |of: &TestDaemon| {
        let base = TestDrv::good("base");
        of.instantiate("refers", &[base.clone(), TestDrv::good("app").needs(&["base"])])
    };
    let drvs = (drvs(&store), drvs(&evaluator)).1;
    // The store lacks the upper derivation and has the lower one and its output.
    store.run("nix-store", &["-r", &drvs["base"]]);
    store.run("nix-store", &["--delete", &drvs["app"]]);
    evaluator.run("nix-store", &["-r", &drvs["app"]]);
    for writes in [Writes::Spool, Writes::Through] {
        let home = tempfile::tempdir().unwrap();
        let mut config = config(home.path(), &store, 1);
        config.listen.writes = writes;
        let daemon = start(config.clone()).await.unwrap();
        let door = format!("unix://{}?root={}", daemon.socket.display(), store.root().display());
        evaluator.run("nix", &["copy", "--derivation", "--to", &door, &drvs["app"]]);
        let app = format!("{}^*", drvs["app"]);
        evaluator.run("nix", &["copy", "--no-check-sigs", "--to", &door, &app]);
        let mut client = stock(&daemon.socket).await;
        let out = evaluator.run("nix", &["path-info", &app]);
        for path in [path(&drvs["app"]), path(&out)] {
            assert!(ask(&mut client, op::IsValidPath { path }).await, "{writes:?}");
        }
        drop(client);
        daemon.stop().await;
        assert_eq!(store.physical(out.trim()).exists(), writes == Writes::Through);
        if writes == Writes::Through {
            // What went through once goes through again when the store has lost it.
            poll_until("the store to lose it, once the connections have ended", || {
                let deleted = store.output("nix-store", &["--delete", out.trim(), &drvs["app"]]);
                deleted.status.success().then_some(())
            });
            assert!(!store.physical(&drvs["app"]).exists());
            let daemon = start(config).await.unwrap();
            evaluator.run("nix", &["copy", "--derivation", "--to", &door, &drvs["app"]]);
            assert!(store.physical(&drvs["app"]).exists());
            daemon.stop().await;
        }
    }
}

/// The processes that a store has for its connections.
fn connections(store: &TestDaemon) -> usize {
    let pid = store.pid().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    children.split_ascii_whitespace().count()
}

fn memory_mib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    let kib = line.split_ascii_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() / 1024
}

const MIB: usize = 1 << 20;

/// A store object of so many MiB that do not compress.
fn large(store: &TestDaemon, mib: usize) -> StorePath {
    let file = store.scratch().join("large");
    let mut content = vec![0_u8; mib * MIB];
    let mut state = 1_u64;
    for word in content.chunks_exact_mut(8) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        word.copy_from_slice(&state.to_le_bytes());
    }
    std::fs::write(&file, content).unwrap();
    path(&store.run("nix-store", &["--add", file.to_str().unwrap()]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_nar_is_streamed_and_whoever_leaves_frees_the_store() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let path = large(&store, 300);
    let home = tempfile::tempdir().unwrap();
    let daemon = in_front_of(home.path(), &[&store]).await;
    let mut client = stock(&daemon.socket).await;
    let info = ask(&mut client, op::QueryPathInfo { path: path.clone() })
        .await
        .unwrap();
    assert!(info.nar_size > 300 * MIB as u64);
    // Ours and the client's buffers are both in this process.
    let before = memory_mib("VmRSS");
    let mut whole = tokio::io::sink();
    client
        .nar_from_path(&path, info.nar_size, &mut whole, &mut ())
        .await
        .unwrap();
    let grown = memory_mib("VmRSS").saturating_sub(before);
    assert!(grown < 32, "a NAR of 300 MiB took {grown} MiB");
    assert!(
        ask(&mut client, op::IsValidPath { path: path.clone() }).await,
        "the connection is in step"
    );

    // Two that leave in the middle, and that do not read on meanwhile.
    let quiet = connections(&store);
    let mut left = Vec::new();
    for _ in 0..2 {
        let mut client = stock(&daemon.socket).await;
        let (mut sink, mut begun) = duplex(64 * 1024);
        let path = path.clone();
        let reading = tokio::spawn(async move {
            let read = client.nar_from_path(&path, info.nar_size, &mut sink, &mut ()).await;
            drop(sink.shutdown().await);
            read
        });
        let mut first = vec![0; 4096];
        tokio::io::AsyncReadExt::read_exact(&mut begun, &mut first)
            .await
            .unwrap();
        left.push((reading, begun));
    }
    poll_until("both to have a connection of the store", || {
        (connections(&store) > quiet).then_some(())
    });
    for (reading, begun) in left {
        reading.abort();
        drop(begun);
    }
    poll_until("the connections to be free", || {
        (connections(&store) <= quiet).then_some(())
    });

    // A store that dies in the middle ends the connection: a NAR cannot be taken back.
    let mut unlucky = stock(&daemon.socket).await;
    let (mut sink, mut begun) = duplex(64 * 1024);
    let of = path.clone();
    let reading = tokio::spawn(async move { unlucky.nar_from_path(&of, info.nar_size, &mut sink, &mut ()).await });
    let mut first = vec![0; 4096];
    tokio::io::AsyncReadExt::read_exact(&mut begun, &mut first)
        .await
        .unwrap();
    store.kill9();
    let rest = tokio::spawn(async move { tokio::io::copy(&mut begun, &mut tokio::io::sink()).await });
    let broken = reading.await.unwrap();
    assert!(matches!(broken, Err(Error::Closed)), "{broken:?}");
    let got = rest.await.unwrap().unwrap();
    assert!(got < info.nar_size - 4096, "it broke off in the middle");
    store.start_again();
    let mut client = stock(&daemon.socket).await;
    assert!(ask(&mut client, op::IsValidPath { path }).await, "others are served on");
    daemon.stop().await;
}

const FLOATING: &str = r#"rec {
  floating = derivation {
    name = "floating"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo text > $out" ];
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  };
  never = derivation {
    name = "never"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo other > $out" ];
    __contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";
  };
}"#;

#[tokio::test(flavor = "multi_thread")]
async fn floating_outputs_are_known_once_a_store_has_built_them() {
    let store = TestDaemon::builder(NixVersion::V2_34)
        .config("extra-experimental-features = ca-derivations")
        .start();
    let drvs = store.instantiate_text(FLOATING);
    let out = built(&store, &drvs["floating"]);
    let home = tempfile::tempdir().unwrap();
    let daemon = in_front_of(home.path(), &[&store]).await;
    let spool = format!("unix://{}", daemon.socket.display());
    // So that the index knows them, and that their paths are not known before the build.
    let both: Vec<&str> = drvs.values().map(String::as_str).collect();
    store.run("nix", &[&["copy", "--derivation", "--to", &spool][..], &both].concat());
    let (mut ours, mut direct) = (stock(&daemon.socket).await, connect_stock(&store).await);
    for name in ["floating", "never"] {
        let drv: DrvPath = path(&drvs[name]).try_into().unwrap();
        let question = op::QueryDerivationOutputMap { drv: drv.clone() };
        let map = ask(&mut ours, question.clone()).await;
        assert_eq!(map, ask(&mut direct, question).await, "{name}");
        let known = map.values().flatten().cloned().collect::<Vec<_>>();
        assert_eq!(
            known,
            if name == "floating" {
                vec![out.clone()]
            } else {
                Vec::new()
            }
        );
        let question = op::QueryDerivationOutputNames { drv };
        assert_eq!(ask(&mut ours, question.clone()).await, ask(&mut direct, question).await);
    }
    let missing = op::QueryMissing {
        paths: both
            .iter()
            .map(|drv| nixci_protocol::types::DerivedPath::all_outputs(&path(drv).try_into().unwrap()))
            .collect(),
    };
    assert_eq!(ask(&mut ours, missing.clone()).await, ask(&mut direct, missing).await);

    // A realisation that is registered through us is found through us.
    let id = DrvOutput {
        drv_hash: nixci_protocol::types::Hash::from_sha256([7; 32]),
        output: "out".parse().unwrap(),
    };
    let question = op::QueryRealisation {
        key: RealisationKey::Hashed(id.clone()),
    };
    assert_eq!(
        ask(&mut ours, question.clone()).await,
        op::Realisations::Hashed(Vec::new())
    );
    let realisation = Realisation {
        id,
        out_path: out,
        signatures: None,
        dependencies: None,
    };
    ask(
        &mut ours,
        op::RegisterDrvOutput::Hashed(Realisation {
            signatures: Some(nixci_protocol::types::RealisationSignatures::Text(BTreeSet::new())),
            dependencies: Some(std::collections::BTreeMap::new()),
            ..realisation.clone()
        }),
    )
    .await;
    let found = ask(&mut ours, question.clone()).await;
    assert_eq!(found, ask(&mut direct, question).await);
    let op::Realisations::Hashed(found) = found else {
        panic!("{found:?}")
    };
    assert_eq!(found[0].out_path, realisation.out_path);
    daemon.stop().await;
}
