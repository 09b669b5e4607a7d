//! Negotiating and uploading closures to real daemons, and building what was uploaded.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests do")]

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::op::{BuildPathsWithResults, QueryPathInfo};
use nixci_protocol::types::{BuildMode, DerivedPath, DrvPath, StorePath};
use nixci_protocol::version::Version;
use nixci_store::local::LocalStore;
use nixci_store::negotiate::negotiate;
use nixci_store::remote::{Environment, Remote, RemoteOptions, Unreachable};
use nixci_store::testing::recorded::{self, Arguments, Recorded};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use nixci_store::upload::{ObjectSource, Progress, upload};
use rstest::rstest;

fn local(daemon: &TestDaemon) -> LocalStore {
    LocalStore::open_in(Some(&daemon.local_uri()), Environment::with(daemon.environment(""))).unwrap()
}

fn remote(daemon: &TestDaemon) -> Remote {
    let environment = Environment::with(daemon.environment(""));
    Remote::new(
        "target",
        daemon.uri().parse().unwrap(),
        RemoteOptions {
            environment,
            ..RemoteOptions::default()
        },
    )
}

async fn copy(source: &LocalStore, target: &Remote, roots: &[StorePath]) -> Result<(usize, u32), Unreachable> {
    let mut connection = target.acquire().await?;
    let plan = negotiate(&mut **connection, source, roots.to_vec()).await.unwrap();
    let mut last = Progress::default();
    let sent = upload(&mut connection, source, &plan.missing, |progress| last = progress)
        .await
        .unwrap();
    assert_eq!(sent, last);
    assert_eq!(sent.paths, plan.missing.len() as u64);
    assert!(connection.is_reusable());
    Ok((plan.missing.len(), plan.rounds))
}

/// A source of two megabytes in a folder, an executable, a link and an empty file; and a text.
fn sources(daemon: &TestDaemon) -> String {
    use std::os::unix::fs::PermissionsExt;
    let dir = daemon.scratch().join("tree");
    std::fs::create_dir_all(dir.join("empty")).unwrap();
    let big: Vec<u8> = (0..2_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8)
        .collect();
    std::fs::write(dir.join("big"), big).unwrap();
    std::fs::write(dir.join("run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(dir.join("run"), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::os::unix::fs::symlink("run", dir.join("link")).unwrap();
    dir.display().to_string()
}

#[rstest]
#[tokio::test]
async fn what_is_missing_is_sent_and_builds(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let from = TestDaemon::start(version);
    let to = TestDaemon::start(version);
    let tree = sources(&from);
    let paths = from.instantiate(
        "copy",
        &[
            TestDrv::good("base")
                .attribute("tree", &format!("builtins.path {{ path = {tree}; name = \"tree\"; }}"))
                .script("test -x $tree/link; test -s $tree/big"),
            TestDrv::good("text").attribute("text", "builtins.toFile \"text\" \"hello\\n\""),
            TestDrv::good("top").needs(&["base", "text"]),
        ],
    );
    let source = local(&from);
    let target = remote(&to);
    let top: DrvPath = source.store_dir().parse(&paths["top"]).unwrap().try_into().unwrap();
    // A part first: the rest is found to be the rest.
    let text = source.store_dir().parse(&paths["text"]).unwrap();
    assert_eq!(copy(&source, &target, &[text]).await.unwrap(), (2, 2));
    assert_eq!(copy(&source, &target, &[top.path().clone()]).await.unwrap(), (3, 2));
    assert_eq!(copy(&source, &target, &[top.path().clone()]).await.unwrap(), (0, 1));
    to.run("nix-store", &["--verify", "--check-contents"]);

    let mut connection = target.acquire().await.unwrap();
    let request = BuildPathsWithResults {
        paths: vec![DerivedPath::all_outputs(&top)],
        mode: BuildMode::Normal,
    };
    let results = connection.call(&request, &mut ()).await.unwrap();
    assert!(results[0].result.status.is_success(), "{results:?}");

    // What the daemon says of a derivation is what we made of its bytes.
    let ours = source.objects(&[top.path().clone()]).await.unwrap().remove(0).info.info;
    let mut theirs = connection
        .call(
            &QueryPathInfo {
                path: top.path().clone(),
            },
            &mut (),
        )
        .await
        .unwrap()
        .unwrap();
    theirs.registration_time = 0;
    theirs.ultimate = false;
    assert_eq!(ours, theirs);
}

#[tokio::test]
async fn built_outputs_are_copied_too() {
    let from = TestDaemon::start(NixVersion::NEWEST);
    let to = TestDaemon::start(NixVersion::NEWEST);
    let paths = from.instantiate(
        "outputs",
        &[TestDrv::good("low"), TestDrv::good("high").needs(&["low"])],
    );
    let out = from.run("nix-store", &["-r", &paths["high"]]);
    let source = local(&from);
    let out = source.store_dir().parse(out.trim()).unwrap();
    assert_eq!(copy(&source, &remote(&to), &[out]).await.unwrap().0, 2);
    to.run("nix-store", &["--verify", "--check-contents"]);
}

#[tokio::test]
async fn the_closure_of_curl_is_copied_and_builds() {
    let graph = Recorded::new(&Arguments {
        only: vec![442],
        ..Arguments::default()
    });
    let to = TestDaemon::start(NixVersion::NEWEST);
    let environment = Environment::with(to.environment(""));
    let source = LocalStore::open_in(Some(&graph.uri()), environment).unwrap();
    let curl: DrvPath = source.store_dir().parse(graph.path(442)).unwrap().try_into().unwrap();
    let target = remote(&to);
    let (missing, rounds) = copy(&source, &target, &[curl.path().clone()]).await.unwrap();
    assert_eq!(missing, 443);
    assert!(rounds <= 6, "{rounds}");
    let mut connection = target.acquire().await.unwrap();
    let request = BuildPathsWithResults {
        paths: vec![DerivedPath::all_outputs(&curl)],
        mode: BuildMode::Normal,
    };
    let results = connection.call(&request, &mut ()).await.unwrap();
    assert!(results[0].result.status.is_success(), "{results:?}");
}

#[tokio::test]
async fn heavy_the_whole_recorded_set_is_copied_in_bounded_memory() {
    let graph = recorded::whole();
    let to = TestDaemon::start(NixVersion::NEWEST);
    let source = LocalStore::open_in(Some(&graph.uri()), Environment::with(to.environment(""))).unwrap();
    let roots: Vec<_> = graph
        .roots(recorded::Set::Base)
        .into_iter()
        .map(|path| source.store_dir().parse(path).unwrap())
        .collect();
    let start = std::time::Instant::now();
    let (missing, rounds) = copy(&source, &remote(&to), &roots).await.unwrap();
    println!("{missing} paths in {rounds} rounds, {:?}", start.elapsed());
    assert_eq!((missing, rounds), (28_240, 4));
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .and_then(|number| number.parse().ok())
        .unwrap();
    println!("{} MiB at most", peak / 1024);
    assert!(peak < 150 * 1024, "{peak} kB");
}

#[tokio::test]
async fn a_store_that_takes_no_streams_gets_path_by_path() {
    let from = TestDaemon::start(NixVersion::NEWEST);
    let to = TestDaemon::start(NixVersion::V2_8);
    let tree = sources(&from);
    let tree = format!("builtins.path {{ path = {tree}; name = \"tree\"; }}");
    let paths = from.instantiate("old", &[TestDrv::good("a").attribute("tree", &tree)]);
    let stream = tokio::net::UnixStream::connect(to.socket()).await.unwrap();
    let (read, write) = stream.into_split();
    let hello = Hello {
        max_version: Version { major: 1, minor: 31 },
        ..Hello::default()
    };
    let mut connection = Connection::open(read, write, hello).await.unwrap();
    let source = local(&from);
    let plan = negotiate(
        &mut connection,
        &source,
        [source.store_dir().parse(&paths["a"]).unwrap()],
    )
    .await
    .unwrap();
    let sent = upload(&mut connection, &source, &plan.missing, |_| {}).await.unwrap();
    assert_eq!(sent.paths, 2);
    to.run("nix-store", &["-r", &paths["a"]]);
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let from = TestDaemon::start(NixVersion::NEWEST);
    let paths = from.instantiate(
        "missing",
        &[TestDrv::good("low"), TestDrv::good("high").needs(&["low"])],
    );
    std::fs::remove_file(from.physical(&paths["low"])).unwrap();
    let to = TestDaemon::start(NixVersion::NEWEST);
    let source = local(&from);
    let target = remote(&to);
    let mut connection = target.acquire().await.unwrap();
    let high = source.store_dir().parse(&paths["high"]).unwrap();
    let low = source.store_dir().parse(&paths["low"]).unwrap();
    let error = negotiate(&mut **connection, &source, [high.clone()])
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("{low} is not in ")), "{error}");
    // Found out in the middle of an upload: the store must not take the part for the whole, and we know the reason.
    let error = upload(&mut connection, &source, &[low.clone(), high], |_| {})
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&format!("{low} is not in ")), "{error}");
    assert!(!connection.is_reusable());
    drop(connection);
    let mut connection = target.acquire().await.unwrap();
    let nothing = connection.call(&QueryPathInfo { path: low }, &mut ()).await.unwrap();
    assert_eq!(nothing, None);
}

#[tokio::test]
async fn a_store_elsewhere_is_no_local_store() {
    let environment = || Environment::with([("NIX_STORE_DIR", "/srv/store")]);
    let error = LocalStore::open_in(Some("ssh-ng://host"), environment())
        .unwrap_err()
        .to_string();
    assert!(error.contains("not on this machine"), "{error}");
    // As stock Nix does, whatever the store directory is called.
    let store = LocalStore::open_in(Some("local?root=/x"), environment()).unwrap();
    assert_eq!(store.physical_dir(), "/x/nix/store");
    let store = LocalStore::open_in(None, environment().set("NIX_REMOTE", "unix:///s?real=/y")).unwrap();
    assert_eq!(
        (store.physical_dir().to_str(), store.store_dir().as_str()),
        (Some("/y"), "/srv/store")
    );
    let error = LocalStore::open_in(None, environment().set("NIX_REMOTE", "bogus"))
        .unwrap_err()
        .to_string();
    assert!(error.starts_with("NIX_REMOTE: \"bogus\""), "{error}");
}
