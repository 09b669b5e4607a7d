//! Looking after the store through the door: an administrator meets the store behind itself, word for word.

use std::collections::BTreeSet;
use std::process::Command;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use nixci_daemon::config::Writes;
use nixci_daemon::{Config, Running, start};
use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::log::LogMessage;
use nixci_protocol::nixci::control;
use nixci_protocol::op::{self, Collected, GcAction, GcScope, Reply, Request};
use nixci_protocol::server::{self, Exchange, Handler, HandlerError, ServerHello};
use nixci_protocol::types::{StoreDir, StorePath, Trust};
use nixci_protocol::wire::{FEATURE_GC_REFERRERS, Limits};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, poll_until};
use rstest::rstest;
use tokio::net::{UnixListener, UnixStream};

use crate::common::{ask, config, connect, connect_stock};

/// A store and a door to it, through which what is written goes at once.
pub(crate) struct Pair {
    pub(crate) store: TestDaemon,
    daemon: Running,
    _home: tempfile::TempDir,
}

/// What a command told.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<String>,
    pub(crate) stderr: Vec<String>,
}

impl Pair {
    pub(crate) async fn new(version: NixVersion) -> Self {
        let store = TestDaemon::start(version);
        let home = tempfile::tempdir().unwrap();
        let mut config = config(home.path(), &store, 2);
        config.listen.writes = Writes::Through;
        let daemon = start(config).await.unwrap();
        Self {
            store,
            daemon,
            _home: home,
        }
    }

    fn door(&self) -> String {
        format!(
            "unix://{}?root={}",
            self.daemon.socket.display(),
            self.store.root().display()
        )
    }

    async fn run(&self, remote: &str, program: &str, arguments: &[&str]) -> Told {
        let mut command: Command = self.store.command(program);
        command.env("NIX_REMOTE", remote).args(arguments);
        let output = tokio::task::spawn_blocking(move || command.output().unwrap())
            .await
            .unwrap();
        // A folder is listed in no order, so what is deleted in it is not either.
        let lines = |bytes: &[u8]| {
            let text = String::from_utf8_lossy(bytes);
            // Clients name the store as they were told to find it.
            let text = [self.daemon.socket.clone(), self.store.socket()]
                .iter()
                .fold(text.into_owned(), |text, socket| {
                    text.replace(&socket.display().to_string(), "SOCKET")
                });
            // Which other connections there are is not for us to say: our own, and those that are about to end.
            let of_others = |line: &&str| line.starts_with("{temp:") || line.starts_with("removing stale temporary");
            let mut lines: Vec<String> = text
                .lines()
                .filter(|line| !of_others(line))
                .map(str::to_owned)
                .collect();
            lines.sort_unstable();
            lines
        };
        Told {
            code: output.status.code(),
            stdout: lines(&output.stdout),
            stderr: lines(&output.stderr),
        }
    }

    async fn directly(&self, program: &str, arguments: &[&str]) -> Told {
        self.run(&self.store.uri(), program, arguments).await
    }

    async fn through(&self, program: &str, arguments: &[&str]) -> Told {
        self.run(&self.door(), program, arguments).await
    }

    /// Runs a command through both doors, after the same preparations, and compares.
    pub(crate) async fn same(
        &self,
        prepare: impl Fn(&TestDaemon) -> Vec<String>,
        program: &str,
        arguments: &[&str],
    ) -> Told {
        let words = |more: Vec<String>| {
            let words = arguments.iter().map(|word| (*word).to_owned());
            words.chain(more).collect::<Vec<String>>()
        };
        let first = words(prepare(&self.store));
        let first: Vec<&str> = first.iter().map(String::as_str).collect();
        let directly = self.directly(program, &first).await;
        let second = words(prepare(&self.store));
        let second: Vec<&str> = second.iter().map(String::as_str).collect();
        // What was asked about through the door before keeps nothing alive.
        let through = self.through(program, &second).await;
        assert_eq!(through, directly, "{program} {arguments:?}");
        through
    }

    pub(crate) async fn stop(self) {
        self.daemon.stop().await;
    }
}

fn nothing(_: &TestDaemon) -> Vec<String> {
    Vec::new()
}

fn file(store: &TestDaemon) -> Vec<String> {
    let file = store.scratch().join("some-file");
    std::fs::write(&file, "some content").unwrap();
    let added = store.run("nix-store", &["--add", &file.display().to_string()]);
    let path = added.trim().to_owned();
    poll_until("the connection that added it to end", || {
        let dead = store.run("nix-store", &["--gc", "--print-dead"]);
        dead.contains(&path).then_some(())
    });
    vec![path]
}

fn file_unnamed(store: &TestDaemon) -> Vec<String> {
    file(store);
    Vec::new()
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_meets_the_store_behind(#[case] version: NixVersion) {
    let pair = Pair::new(version).await;
    let drvs = pair.store.instantiate(
        "upkeep",
        &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])],
    );
    let out = pair
        .store
        .run("nix-store", &["--realise", &drvs["app"]])
        .trim()
        .to_owned();
    let link = pair.store.scratch().join("result").display().to_string();

    // A root made through the door is one for both.
    let rooted = pair
        .through("nix-store", &["--realise", &out, "--add-root", &link, "--indirect"])
        .await;
    assert_eq!(
        (rooted.code, rooted.stdout),
        (Some(0), vec![link.clone()]),
        "{:?}",
        rooted.stderr
    );
    let roots = pair.same(nothing, "nix-store", &["--query", "--roots", &out]).await;
    assert!(roots.stdout.iter().any(|line| line.contains(&link)), "{roots:?}");

    for arguments in [
        &["--gc", "--print-roots"][..],
        &["--gc", "--print-live"],
        &["--gc", "--print-dead"],
        &["--verify"],
        &["--verify", "--check-contents"],
        &["--verify", "--check-contents", "--repair"],
        &["--delete", &out],
        &["--gc", "--max-freed", "1"],
        &["--gc"],
        &["--optimise"],
    ] {
        let told = pair.same(file_unnamed, "nix-store", arguments).await;
        let expected = i32::from(arguments[0] == "--delete");
        assert_eq!(told.code, Some(expected), "{arguments:?}: {told:?}");
    }
    let deleted = pair.same(file, "nix-store", &["--delete"]).await;
    assert!(deleted.stdout.concat().contains("1 store paths deleted"), "{deleted:?}");

    for arguments in [
        &["store", "gc"][..],
        &["store", "gc", "--max", "1"],
        &["store", "optimise"],
    ] {
        let told = pair.same(file_unnamed, "nix", arguments).await;
        assert_eq!(told.code, Some(0), "{told:?}");
    }
    let deleted = pair.same(file, "nix", &["store", "delete"]).await;
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    let verified = pair
        .same(nothing, "nix", &["store", "verify", "--no-trust", &out])
        .await;
    assert_eq!(verified.code, Some(0), "{verified:?}");
    pair.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_told_as_the_store_tells_it() {
    let pair = Pair::new(NixVersion::V2_34).await;
    let damage = |store: &TestDaemon| {
        let path = file(store).remove(0);
        let physical = store.physical(&path);
        std::fs::remove_file(&physical).unwrap();
        std::fs::write(&physical, "something else").unwrap();
        Vec::new()
    };
    let found = pair.same(damage, "nix-store", &["--verify", "--check-contents"]).await;
    assert_eq!(found.code, Some(1), "{found:?}");
    assert!(found.stderr.concat().contains("was modified"), "{found:?}");
    let repaired = pair
        .same(damage, "nix-store", &["--verify", "--check-contents", "--repair"])
        .await;
    assert!(repaired.stderr.concat().contains("was modified"), "{repaired:?}");
    pair.daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn what_was_only_asked_about_can_be_deleted(#[case] version: NixVersion) {
    let pair = Pair::new(version).await;
    for _ in 0..3 {
        let path = file(&pair.store).remove(0);
        for arguments in [
            &["--query", "--hash", &path][..],
            &["--check-validity", &path],
            &["--query", "--requisites", &path],
        ] {
            let told = pair.through("nix-store", arguments).await;
            assert_eq!(told.code, Some(0), "{told:?}");
        }
        let deleted = pair.through("nix-store", &["--delete", &path]).await;
        assert_eq!(deleted.code, Some(0), "{deleted:?}");
        let gone = pair.through("nix-store", &["--check-validity", &path]).await;
        assert_ne!(gone.code, Some(0), "what was deleted is not said to be there: {gone:?}");
    }
    pair.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn roots_logs_and_signatures_go_to_the_store() {
    let pair = Pair::new(NixVersion::V2_34).await;
    let drvs = pair.store.instantiate("upkeep-ops", &[TestDrv::good("logged")]);
    let dir = StoreDir::default();
    let path: StorePath = dir.parse(&file(&pair.store)[0]).unwrap();
    let mut door = connect(&pair.daemon.socket).await;

    let link = pair.store.scratch().join("perm-root");
    let root = op::AddPermRoot {
        path: path.clone(),
        link: link.display().to_string().into(),
    };
    let made = door.call(&root, &mut ()).await.unwrap();
    assert_eq!(made, Bytes::from(link.display().to_string()));
    let roots = door.call(&op::FindRoots {}, &mut ()).await.unwrap();
    assert!(roots.iter().any(|root| root.target == path), "{roots:?}");
    let mut stock = connect_stock(&pair.store).await;
    assert_eq!(stock.call(&op::FindRoots {}, &mut ()).await.unwrap().len(), roots.len());

    let drv: StorePath = dir.parse(&drvs["logged"]).unwrap();
    let log = op::AddBuildLog { drv: op::BaseName(drv) };
    door.call_framed(&log, &b"what the builder said\n"[..], &mut ())
        .await
        .unwrap();
    let read = pair.store.run("nix-store", &["--read-log", &drvs["logged"]]);
    assert_eq!(read, "what the builder said\n");

    let signature = format!("some-key-1:{}", "A".repeat(86) + "==");
    let before = door
        .call(&op::QueryPathInfo { path: path.clone() }, &mut ())
        .await
        .unwrap();
    assert!(before.unwrap().signatures.is_empty());
    let sign = op::AddSignatures {
        path: path.clone(),
        signatures: BTreeSet::from([signature.parse().unwrap()]),
    };
    door.call(&sign, &mut ()).await.unwrap();
    for from in [&mut door, &mut stock] {
        let info = from
            .call(&op::QueryPathInfo { path: path.clone() }, &mut ())
            .await
            .unwrap()
            .unwrap();
        let told: Vec<String> = info.signatures.iter().map(ToString::to_string).collect();
        assert_eq!(told, [signature.as_str()]);
    }
    // What the store refuses is refused in its words, and the connection goes on.
    let live = op::CollectGarbage {
        action: GcAction::DeleteSpecific,
        scope: GcScope::Paths {
            paths: BTreeSet::from([path.clone()]),
            delete_referrers: false,
        },
        ignore_liveness: false,
        max_freed: u64::MAX,
    };
    let by_door = door.call(&live, &mut ()).await.unwrap_err();
    let by_store = stock.call(&live, &mut ()).await.unwrap_err();
    assert_eq!(by_door.to_string(), by_store.to_string());
    assert!(door.call(&op::IsValidPath { path }, &mut ()).await.unwrap());
    pair.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_spool_is_signed_there_and_survives_a_collection() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let evaluator = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    let path = file(&evaluator).remove(0);
    let uri = format!("unix://{}", daemon.socket.display());
    evaluator.run("nix", &["copy", "--to", &uri, &path]);
    let path: StorePath = StoreDir::default().parse(&path).unwrap();
    let mut door = connect(&daemon.socket).await;
    let signature = format!("some-key-1:{}", "A".repeat(86) + "==");
    let sign = op::AddSignatures {
        path: path.clone(),
        signatures: BTreeSet::from([signature.parse().unwrap()]),
    };
    door.call(&sign, &mut ()).await.unwrap();
    let mut log: Vec<LogMessage> = Vec::new();
    door.call(&whole(GcAction::DeleteDead), &mut log).await.unwrap();
    let told = |log: &[LogMessage]| format!("{log:?}").matches("nixci's spool stays").count();
    assert_eq!(told(&log), 1, "{log:?}");
    let info = door
        .call(&op::QueryPathInfo { path: path.clone() }, &mut ())
        .await
        .unwrap()
        .unwrap();
    let signatures: Vec<String> = info.signatures.iter().map(ToString::to_string).collect();
    assert!(signatures.contains(&signature), "{signatures:?}");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_administrator_hears_what_the_store_says_of_his_settings() {
    let pair = Pair::new(NixVersion::V2_34).await;
    let options = op::SetOptions {
        overrides: [("timeout".to_owned(), "soon".to_owned())].into(),
        ..op::SetOptions::default()
    };
    let mut heard = Vec::new();
    for mut client in [connect_stock(&pair.store).await, connect(&pair.daemon.socket).await] {
        let mut log: Vec<LogMessage> = Vec::new();
        client.call(&options, &mut log).await.unwrap();
        client.call(&op::FindRoots {}, &mut log).await.unwrap();
        let lines: Vec<LogMessage> = log
            .into_iter()
            .filter(|line| format!("{line:?}").contains("soon"))
            .collect();
        heard.push(lines);
    }
    assert_eq!(heard[0].len(), 1, "{heard:?}");
    assert_eq!(heard[0], heard[1]);
    pair.daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_trusted_further_than_the_store_trusts_us() {
    let store = TestDaemon::builder(NixVersion::V2_34).config("trusted-users =").start();
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 1);
    config.listen.writes = Writes::Through;
    let daemon = start(config).await.unwrap();
    // It has asked the store once when somebody has asked it about its stores.
    let _: serde_json::Value = ask(&mut connect(&daemon.socket).await, &control::Request::Stores).await;
    assert_eq!(connect(&daemon.socket).await.trust(), Trust::NotTrusted);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_stores_are_named_to_ask_each() {
    let stores = [
        TestDaemon::start(NixVersion::V2_34),
        TestDaemon::start(NixVersion::V2_26),
    ];
    let home = tempfile::tempdir().unwrap();
    let mut config: Config = config(home.path(), &stores[0], 1);
    "near".clone_into(&mut config.stores[0].name);
    let mut far = config.stores[0].clone();
    "far".clone_into(&mut far.name);
    far.uri = stores[1].uri();
    config.stores.push(far);
    let daemon = start(config).await.unwrap();
    let mut door = connect(&daemon.socket).await;
    macro_rules! refused {
        ($request:expr) => {
            let text = door.call(&$request, &mut ()).await.unwrap_err().to_string();
            for words in ["on 2 stores at once", "(near)", "(far)", &stores[1].uri()] {
                assert!(text.contains(words), "{text}");
            }
        };
    }
    refused!(whole(GcAction::DeleteDead));
    refused!(op::OptimiseStore {});
    refused!(op::FindRoots {});
    refused!(op::VerifyStore {
        check_contents: false,
        repair: false
    });
    assert!(door.call(&op::SyncWithGc {}, &mut ()).await.is_ok());
    daemon.stop().await;
}

fn whole(action: GcAction) -> op::CollectGarbage {
    op::CollectGarbage {
        action,
        scope: GcScope::Whole,
        ignore_liveness: false,
        max_freed: u64::MAX,
    }
}

/// A store that writes down what it is asked, connection by connection.
#[derive(Clone, Default)]
struct Asked(Arc<Mutex<Vec<Vec<Request>>>>);

struct Notes {
    asked: Asked,
    nth: usize,
}

impl Handler for Notes {
    async fn handle(&mut self, request: Request, _: &mut Exchange<'_>) -> Result<Reply, HandlerError> {
        self.asked.0.lock().unwrap()[self.nth].push(request.clone());
        match request {
            Request::SetOptions(_) | Request::AddTempRoot(_) => Ok(Reply::Done),
            Request::CollectGarbage(_) => Ok(Collected::default().into()),
            Request::QuerySubstitutablePaths(_) => Ok(Reply::Paths(BTreeSet::new())),
            other => Err(HandlerError::new(format!("not here: {}", other.name()))),
        }
    }
}

impl Asked {
    fn listen(&self, socket: &std::path::Path, features: &[&str]) {
        let listener = UnixListener::bind(socket).unwrap();
        let (asked, features) = (
            self.clone(),
            features.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>(),
        );
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (read, write) = stream.into_split();
                let hello = ServerHello {
                    version_text: "2.35.0".to_owned(),
                    trust: Trust::Trusted,
                    features: features.clone(),
                    store_dir: StoreDir::default(),
                    limits: Limits::default(),
                };
                let nth = {
                    let mut connections = asked.0.lock().unwrap();
                    connections.push(Vec::new());
                    connections.len() - 1
                };
                let notes = Notes {
                    asked: asked.clone(),
                    nth,
                };
                tokio::spawn(server::serve(read, write, hello, notes));
            }
        });
    }

    fn collections(&self) -> Vec<op::CollectGarbage> {
        let connections = self.0.lock().unwrap();
        let requests = connections.iter().flatten();
        requests
            .filter_map(|request| match request {
                Request::CollectGarbage(request) => Some(request.clone()),
                _ => None,
            })
            .collect()
    }
}

async fn before(folder: &std::path::Path, features: &[&str]) -> (Running, Asked) {
    let asked = Asked::default();
    let socket = folder.join("store");
    asked.listen(&socket, features);
    let mut config = Config::in_folder(folder, &format!("unix://{}", socket.display()), 1);
    config.listen.writes = Writes::Through;
    (start(config).await.unwrap(), asked)
}

async fn client(daemon: &Running, features: &[&str]) -> Connection {
    let stream = UnixStream::connect(&daemon.socket).await.unwrap();
    let (read, write) = stream.into_split();
    let hello = Hello {
        features: features.iter().map(|name| (*name).to_owned()).collect(),
        ..Hello::default()
    };
    Connection::open(read, write, hello).await.unwrap()
}

#[rstest]
#[case::both_old(&[], &[])]
#[case::new_client(&[FEATURE_GC_REFERRERS], &[])]
#[case::new_store(&[], &[FEATURE_GC_REFERRERS])]
#[case::both_new(&[FEATURE_GC_REFERRERS], &[FEATURE_GC_REFERRERS])]
#[tokio::test(flavor = "multi_thread")]
async fn a_collection_means_the_same_in_both_layouts(#[case] of_client: &[&str], #[case] of_store: &[&str]) {
    let home = tempfile::tempdir().unwrap();
    let (daemon, asked) = before(home.path(), of_store).await;
    let mut door = client(&daemon, of_client).await;
    let paths = |delete_referrers| GcScope::Paths {
        paths: BTreeSet::from([StorePath::from_base_name("00000000000000000000000000000000-x").unwrap()]),
        delete_referrers,
    };
    let of = |action, scope| op::CollectGarbage { scope, ..whole(action) };
    let mut expected = Vec::new();
    for request in [
        whole(GcAction::ReturnLive),
        whole(GcAction::ReturnDead),
        whole(GcAction::DeleteDead),
        of(GcAction::DeleteSpecific, paths(false)),
    ] {
        door.call(&request, &mut ()).await.unwrap();
        expected.push(request);
    }
    // Only those who both know the newer layout can speak of these; with an old store they are refused, for it would
    // take them for the whole store.
    if !of_client.is_empty() {
        for request in [
            of(GcAction::DeleteSpecific, paths(true)),
            of(GcAction::DeleteDead, paths(false)),
            of(GcAction::ReturnDead, paths(true)),
        ] {
            let answer = door.call(&request, &mut ()).await;
            assert_eq!(answer.is_ok(), !of_store.is_empty(), "{request:?}: {answer:?}");
            if answer.is_ok() {
                expected.push(request);
            }
        }
    }
    assert_eq!(asked.collections(), expected);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_client_sets_no_other_meets() {
    let home = tempfile::tempdir().unwrap();
    let (daemon, asked) = before(home.path(), &[]).await;
    let question = || op::QuerySubstitutablePaths { paths: BTreeSet::new() };
    for name in ["post-build-hook", "sandbox"] {
        let mut first = client(&daemon, &[]).await;
        let options = op::SetOptions {
            overrides: [(name.to_owned(), name.to_owned())].into(),
            ..op::SetOptions::default()
        };
        first.call(&options, &mut ()).await.unwrap();
        first.call(&question(), &mut ()).await.unwrap();
        drop(first);
    }
    let mut plain = client(&daemon, &[]).await;
    plain.call(&op::SetOptions::default(), &mut ()).await.unwrap();
    plain.call(&question(), &mut ()).await.unwrap();
    let mut silent = client(&daemon, &[]).await;
    silent.call(&question(), &mut ()).await.unwrap();

    let seen = poll_until("all four to have asked", || {
        let connections = asked.0.lock().unwrap().clone();
        let asking = |requests: &&Vec<Request>| {
            requests
                .iter()
                .any(|one| matches!(one, Request::QuerySubstitutablePaths(_)))
        };
        (connections.iter().filter(asking).count() == 4).then_some(connections)
    });
    for requests in seen {
        let set: BTreeSet<String> = requests
            .iter()
            .filter_map(|request| match request {
                Request::SetOptions(options) => Some(options.overrides.keys().cloned().collect::<Vec<_>>()),
                _ => None,
            })
            .flatten()
            .collect();
        let questions = requests
            .iter()
            .filter(|one| matches!(one, Request::QuerySubstitutablePaths(_)))
            .count();
        assert!(set.len() <= 1 && (set.is_empty() || questions == 1), "{requests:?}");
    }
    daemon.stop().await;
}
