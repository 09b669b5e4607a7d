//! Our client against real Nix daemons of three versions, and always a second request after each.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Stdio;

use nixci_protocol::client::{Connection, Error, Hello};
use nixci_protocol::io::{PathStreamWriter, StreamKind};
use nixci_protocol::log::{ActivityType, LogMessage, ResultType};
use nixci_protocol::op::{
    AddMultipleToStore, AddTempRoot, AddTextToStore, AddToStore, BuildPaths, BuildPathsWithResults, CollectGarbage,
    EnsurePath, FindRoots, GcAction, GcScope, IsValidPath, QueryAllValidPaths, QueryDerivationOutputMap, QueryMissing,
    QueryPathFromHashPart, QueryPathInfo, QueryReferrers, QueryValidDerivers, QueryValidPaths, SetOptions, VerifyStore,
};
use nixci_protocol::types::{
    AddMethod, BuildMode, BuildStatus, DerivedPath, DrvPath, HashAlgo, NarHash, StoreDir, StorePath, Trust,
};
use nixci_protocol::version::Version;
use rstest::rstest;
use tempfile::TempDir;
use tokio::process::{Child, Command};

const HELLO_NAR: &[u8] =
    b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\x04\0\0\0\0\0\0\0type\0\0\0\0\
\x07\0\0\0\0\0\0\0regular\0\x08\0\0\0\0\0\0\0contents\x06\0\0\0\0\0\0\0hello\n\0\0\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0";

/// A daemon on a store of its own, and a connection to it.
struct Daemon {
    connection: Connection,
    child: Child,
    _root: TempDir,
}

fn nix_daemon(version: &str) -> PathBuf {
    let cache = std::env::var_os("NIXCI_TEST_CACHE").map_or_else(
        || {
            let home = || PathBuf::from(std::env::var_os("HOME").expect("HOME is not set")).join(".cache");
            std::env::var_os("XDG_CACHE_HOME")
                .map_or_else(home, PathBuf::from)
                .join("nixci-test")
        },
        PathBuf::from,
    );
    let program = cache.join(format!("nix-{version}/bin/nix-daemon"));
    assert!(
        program.exists(),
        "Nix {version} is missing: {} does not exist; run `make test`",
        program.display()
    );
    program
}

impl Daemon {
    async fn start(version: &str, max_version: Version) -> Self {
        let root = tempfile::tempdir().unwrap();
        let mut child = Command::new(nix_daemon(version))
            .arg("--stdio")
            .env("NIX_REMOTE", format!("local?root={}", root.path().display()))
            .env("NIX_DAEMON_SOCKET_PATH", root.path().join("socket"))
            .env("HOME", root.path())
            .env(
                "NIX_CONFIG",
                "build-users-group =\nsubstituters =\nexperimental-features = nix-command flakes\nsandbox = true\n\
                 sandbox-paths = /bin/sh=/usr/bin/busybox\nsandbox-fallback = false",
            )
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let hello = Hello {
            max_version,
            features: vec!["x-unknown".to_owned()],
            ..Hello::default()
        };
        let connection = Connection::open(child.stdout.take().unwrap(), child.stdin.take().unwrap(), hello);
        let connection = connection.await.unwrap();
        Self {
            connection,
            child,
            _root: root,
        }
    }

    /// Another request after each, as lost step shows late.
    async fn in_step(&mut self) {
        assert!(self.connection.is_reusable());
        let absent = path("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-absent");
        assert!(
            !self
                .connection
                .call(&IsValidPath { path: absent }, &mut ())
                .await
                .unwrap()
        );
    }

    async fn add(&mut self, name: &str, method: &str, content: &[u8], references: &[&StorePath]) -> StorePath {
        let request = AddToStore {
            name: name.to_owned(),
            method: method.parse().unwrap(),
            references: references.iter().map(|path| (*path).clone()).collect(),
            repair: false,
        };
        let info = self.connection.call_framed(&request, content, &mut ()).await.unwrap();
        self.in_step().await;
        info.path
    }

    async fn stop(mut self) {
        self.connection.close().await.unwrap();
        self.child.wait().await.unwrap();
    }
}

fn path(base: &str) -> StorePath {
    StorePath::from_base_name(base).unwrap()
}

#[rstest]
#[case("2.8.0", 34, None)]
#[case("2.26.3", 38, Some(Trust::Trusted))]
#[case("2.34.8", 38, Some(Trust::Trusted))]
#[tokio::test]
async fn a_real_daemon_is_understood(#[case] version: &str, #[case] minor: u8, #[case] trust: Option<Trust>) {
    let mut daemon = Daemon::start(version, Version::MAX).await;
    assert_eq!(daemon.connection.negotiated().version, Version { major: 1, minor });
    assert_eq!(daemon.connection.daemon_version(), Some(version));
    assert_eq!(daemon.connection.trust(), trust.unwrap_or_default());
    assert!(daemon.connection.negotiated().features.is_empty());
    daemon.connection.call(&SetOptions::default(), &mut ()).await.unwrap();
    daemon.in_step().await;

    objects(&mut daemon).await;
    batches(&mut daemon).await;
    build(&mut daemon).await;
    failures(&mut daemon).await;
    daemon.stop().await;
}

/// Every version below what 2.34.8 speaks, down to the oldest we talk to.
#[rstest]
#[tokio::test]
async fn older_versions_are_spoken(#[values(18, 20, 21, 22, 25, 26, 28, 29, 30, 32, 33, 35, 37)] minor: u8) {
    let version = Version { major: 1, minor };
    let mut daemon = Daemon::start("2.34.8", version).await;
    assert_eq!(daemon.connection.negotiated().version, version);
    daemon.connection.call(&SetOptions::default(), &mut ()).await.unwrap();
    let request = AddTextToStore {
        name: "u".to_owned(),
        text: "u".into(),
        references: BTreeSet::new(),
    };
    let u = daemon.connection.call(&request, &mut ()).await.unwrap();
    assert_eq!(u, path("7lmww5ks62qvwklysqlsfbn6p4yl2ijr-u"));
    let request = QueryPathInfo { path: u.clone() };
    let info = daemon.connection.call(&request, &mut ()).await.unwrap().unwrap();
    let mut nar = Vec::new();
    daemon
        .connection
        .nar_from_path(&u, info.nar_size, &mut nar, &mut ())
        .await
        .unwrap();
    assert_eq!(NarHash::of(&nar), info.nar_hash);
    let paths = BTreeSet::from([u]);
    let request = QueryValidPaths {
        paths: paths.clone(),
        substitute: true,
    };
    assert_eq!(daemon.connection.call(&request, &mut ()).await.unwrap(), paths);
    // An error in the old form and in the new one.
    let request = EnsurePath {
        path: path("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-absent"),
    };
    let error = daemon.connection.call(&request, &mut ()).await.unwrap_err();
    assert!(error.is_remote() && error.to_string().contains("absent"), "{error:?}");
    daemon.in_step().await;
    daemon.stop().await;
}

/// The paths of worker-protocol appendix B.
async fn objects(daemon: &mut Daemon) {
    assert_eq!(
        daemon.add("u", "text:sha256", b"u", &[]).await,
        path("7lmww5ks62qvwklysqlsfbn6p4yl2ijr-u")
    );
    let expected = path("974pyy65p8annw3kp4ibcknbhz1pndwm-x");
    assert_eq!(daemon.add("x", "fixed:sha256", b"hello\n", &[]).await, expected);
    let x = daemon.add("x", "fixed:r:sha256", HELLO_NAR, &[]).await;
    assert_eq!(x, path("m5zd3qj7c4bs4g5d8hqvs5pc5xicclfg-x"));
    let expected = path("1m8hwvaiqwwr1adbqyk91zavsxx4cpbg-x");
    assert_eq!(daemon.add("x", "fixed:r:sha1", HELLO_NAR, &[]).await, expected);
    let text = daemon.add("y", "text:sha256", b"hello\n", &[&x]).await;

    let connection = &mut daemon.connection;
    let known = connection
        .call(&QueryPathInfo { path: text.clone() }, &mut ())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(known.references, BTreeSet::from([x.clone()]));
    assert_eq!((known.nar_size, known.nar_hash), (120, NarHash::of(HELLO_NAR)));
    let ca = known.ca.unwrap();
    let name = text.name();
    let made =
        nixci_protocol::types::make_content_addressed_path(&StoreDir::default(), name, &ca, &known.references, false);
    assert_eq!(made.unwrap(), text);

    let mut nar = Vec::new();
    connection
        .nar_from_path(&text, known.nar_size, &mut nar, &mut ())
        .await
        .unwrap();
    assert_eq!(nar, HELLO_NAR);
    let referrers = connection
        .call(&QueryReferrers { path: x.clone() }, &mut ())
        .await
        .unwrap();
    assert_eq!(referrers, BTreeSet::from([text.clone()]));
    let request = QueryPathFromHashPart {
        hash_part: text.hash_part(),
    };
    assert_eq!(connection.call(&request, &mut ()).await.unwrap(), Some(text.clone()));
    let all = connection.call(&QueryAllValidPaths {}, &mut ()).await.unwrap();
    assert_eq!(all.len(), 5);
    let absent = path("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-absent");
    let request = QueryValidPaths {
        paths: BTreeSet::from([absent.clone(), text.clone()]),
        substitute: false,
    };
    assert_eq!(
        connection.call(&request, &mut ()).await.unwrap(),
        BTreeSet::from([text])
    );
    assert_eq!(
        connection.call(&QueryPathInfo { path: absent }, &mut ()).await.unwrap(),
        None
    );
    let roots: Vec<_> = all.iter().map(|path| AddTempRoot { path: path.clone() }).collect();
    assert_eq!(connection.call_all(&roots, &mut ()).await.unwrap().len(), 5);
    let infos: Vec<_> = all
        .iter()
        .cycle()
        .take(2000)
        .map(|path| QueryPathInfo { path: path.clone() })
        .collect();
    let infos = connection.call_all(&infos, &mut ()).await.unwrap();
    assert!(infos.iter().all(Option::is_some));
    connection.call(&FindRoots {}, &mut ()).await.unwrap();
    daemon.in_step().await;
}

/// A stream of several paths, moved from one name to another by their own infos.
async fn batches(daemon: &mut Daemon) {
    let connection = &mut daemon.connection;
    let made = |name: &str| {
        let ca = format!(
            "fixed:r:sha256:{}",
            nixci_protocol::types::nix32::encode(&NarHash::of(HELLO_NAR).0)
        );
        let ca = ca.parse().unwrap();
        let path = nixci_protocol::types::make_fixed_path(&StoreDir::default(), name, &ca).unwrap();
        nixci_protocol::types::PathInfo {
            path,
            info: nixci_protocol::types::UnkeyedPathInfo {
                deriver: None,
                nar_hash: NarHash::of(HELLO_NAR),
                references: BTreeSet::new(),
                registration_time: 0,
                nar_size: 120,
                ultimate: false,
                signatures: BTreeSet::new(),
                ca: Some(ca),
            },
        }
    };
    let infos: Vec<_> = ["b1", "b2", "b3"].map(made).into();
    let mut stream = PathStreamWriter::new(StreamKind::Counted, 3, StoreDir::default(), Vec::new());
    for info in &infos {
        stream.add(info, HELLO_NAR).await.unwrap();
    }
    let body = stream.finish().await.unwrap();
    let request = AddMultipleToStore {
        repair: false,
        dont_check_sigs: false,
    };
    connection.call_framed(&request, &body[..], &mut ()).await.unwrap();
    for info in &infos {
        assert!(
            connection
                .call(
                    &IsValidPath {
                        path: info.path.clone()
                    },
                    &mut ()
                )
                .await
                .unwrap()
        );
    }
    // A hash that does not fit is refused, and the connection goes on.
    let mut bad = made("bad");
    bad.info.nar_hash = NarHash([7; 32]);
    let mut stream = PathStreamWriter::new(StreamKind::Counted, 1, StoreDir::default(), Vec::new());
    stream.add(&bad, HELLO_NAR).await.unwrap();
    let body = stream.finish().await.unwrap();
    let error = connection.call_framed(&request, &body[..], &mut ()).await.unwrap_err();
    assert!(error.is_remote(), "{error:?}");
    daemon.in_step().await;
}

/// The text of a derivation that runs a shell script, its output path blank: Nix computes and checks those of
/// input-addressed derivations, so this one promises its output's hash instead.
fn derivation(name: &str, out: &StorePath, script: &str) -> String {
    let sha256 = nixci_protocol::types::Hash::sha256_of(b"built\n").hex();
    format!(
        "Derive([(\"out\",\"/nix/store/{out}\",\"sha256\",\"{sha256}\")],[],[],\"x86_64-linux\",\"/bin/sh\",\
         [\"-c\",\"{script}\"],[(\"builder\",\"/bin/sh\"),(\"name\",\"{name}\"),(\"out\",\"/nix/store/{out}\"),\
         (\"outputHash\",\"{sha256}\"),(\"outputHashAlgo\",\"sha256\"),(\"outputHashMode\",\"flat\"),\
         (\"system\",\"x86_64-linux\")])"
    )
}

async fn instantiate(daemon: &mut Daemon, name: &str, script: &str) -> (DrvPath, StorePath) {
    let ca = format!("fixed:{}", nixci_protocol::types::Hash::sha256_of(b"built\n"))
        .parse()
        .unwrap();
    let out = nixci_protocol::types::make_fixed_path(&StoreDir::default(), name, &ca).unwrap();
    let text = derivation(name, &out, script);
    let drv = daemon
        .add(&format!("{name}.drv"), "text:sha256", text.as_bytes(), &[])
        .await;
    (drv.try_into().unwrap(), out)
}

async fn build(daemon: &mut Daemon) {
    let (good, out) = instantiate(daemon, "good", "echo a line; echo built > $out").await;
    let (bad, _) = instantiate(daemon, "bad", "echo it goes wrong; exit 3").await;
    let connection = &mut daemon.connection;
    let all = |drv: &DrvPath| DerivedPath::all_outputs(drv);
    let missing = connection
        .call(
            &QueryMissing {
                paths: vec![all(&good)],
            },
            &mut (),
        )
        .await
        .unwrap();
    assert_eq!(missing.will_build, BTreeSet::from([good.path().clone()]));

    let request = BuildPathsWithResults {
        paths: vec![all(&good), all(&bad)],
        mode: BuildMode::Normal,
    };
    let keep_going = SetOptions {
        keep_going: true,
        ..SetOptions::default()
    };
    connection.call(&keep_going, &mut ()).await.unwrap();
    let mut log = Vec::new();
    let results = connection.call(&request, &mut log).await.unwrap();
    let of = |drv: &DrvPath| results.iter().find(|result| result.path == all(drv)).unwrap();
    assert_eq!(of(&good).result.status, BuildStatus::Built);
    let outputs: Vec<_> = of(&good).result.built_outputs.paths().map(|(_, path)| path).collect();
    assert_eq!(outputs, [&out]);
    assert_eq!(
        of(&bad).result.status,
        BuildStatus::TransientFailure,
        "{:?}",
        of(&bad).result
    );
    assert!(
        of(&bad).result.error_msg.contains("exit code 3"),
        "{:?}",
        of(&bad).result
    );
    let started = log.iter().any(|message| {
        matches!(message, LogMessage::StartActivity { kind: ActivityType::BUILD, fields, .. }
            if fields[0].text().is_some_and(|drv| drv.ends_with(b"-good.drv")))
    });
    let printed = log.iter().any(|message| {
        matches!(message, LogMessage::Result { kind: ResultType::BUILD_LOG_LINE, fields, .. }
            if fields[0].text() == Some(b"a line"))
    });
    assert!(started && printed, "{log:?}");
    daemon.in_step().await;

    let connection = &mut daemon.connection;
    let request = BuildPaths {
        paths: vec![all(&good)],
        mode: BuildMode::Normal,
    };
    connection.call(&request, &mut ()).await.unwrap();
    let request = BuildPaths {
        paths: vec![all(&bad)],
        mode: BuildMode::Normal,
    };
    let error = connection.call(&request, &mut ()).await.unwrap_err();
    assert!(error.is_remote() && error.to_string().contains("bad.drv"), "{error}");
    let map = connection
        .call(&QueryDerivationOutputMap { drv: good.clone() }, &mut ())
        .await
        .unwrap();
    assert_eq!(map.into_values().collect::<Vec<_>>(), [Some(out.clone())]);
    let info = connection
        .call(&QueryPathInfo { path: out.clone() }, &mut ())
        .await
        .unwrap()
        .unwrap();
    let mut nar = Vec::new();
    connection
        .nar_from_path(&out, info.nar_size, &mut nar, &mut ())
        .await
        .unwrap();
    assert_eq!(NarHash::of(&nar), info.nar_hash);
    connection
        .call(&QueryValidDerivers { path: out }, &mut ())
        .await
        .unwrap();
    let request = VerifyStore {
        check_contents: true,
        repair: false,
    };
    assert!(!connection.call(&request, &mut ()).await.unwrap());
    let request = CollectGarbage {
        action: GcAction::ReturnDead,
        scope: GcScope::Whole,
        ignore_liveness: false,
        max_freed: u64::MAX,
    };
    connection.call(&request, &mut ()).await.unwrap();
    daemon.in_step().await;
}

/// Errors of the server, and the one that ends the connection.
async fn failures(daemon: &mut Daemon) {
    let absent = path("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-absent");
    let request = EnsurePath { path: absent.clone() };
    let error = daemon.connection.call(&request, &mut ()).await.unwrap_err();
    assert!(error.is_remote(), "{error:?}");
    daemon.in_step().await;

    let connection = &mut daemon.connection;
    let error = connection
        .nar_from_path(&absent, 120, &mut Vec::new(), &mut ())
        .await
        .unwrap_err();
    assert!(error.is_remote() && error.to_string().contains("absent"), "{error:?}");
    assert!(!connection.is_reusable());
    let error = connection
        .call(&IsValidPath { path: absent }, &mut ())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotReusable), "{error}");
}

#[test]
fn methods_are_spelled_as_nix_spells_them() {
    let method: AddMethod = "fixed:r:sha256".parse().unwrap();
    assert_eq!(
        (method.algo, method.to_string().as_str()),
        (HashAlgo::Sha256, "fixed:r:sha256")
    );
}
