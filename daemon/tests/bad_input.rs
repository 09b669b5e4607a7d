//! Bad input of every kind: one clear error, and nobody else notices.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;
use std::process::{Command, Output};

use common::small_disk::SmallDisk;
use common::{ask, body_for, closure, config, connect, connect_stock, daemon, packed, submission, submit, watch};
use nixci_daemon::{Config, Running, StartError, start};
use nixci_protocol::client::{self, Connection};
use nixci_protocol::nixci::control::{Begun, Evaluated, EvaluationId, JobStatus, NewJob, Request, Selector};
use nixci_protocol::nixci::outcome::{Outcome, Success};
use nixci_protocol::nixci::{AddClosure, QueryValidBatch};
use nixci_protocol::op;
use nixci_protocol::types::{NarHash, StoreDir, StorePath};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

const CLIENT_MAGIC: u64 = 0x6e69_7863;
const VERSION_1_37: u64 = 0x125;
const LAST: [u8; 8] = [0x73, 0x74, 0x6c, 0x61, 0, 0, 0, 0];
const IS_VALID_PATH: u64 = 1;

/// A daemon that needs its store for nothing, and a client that was there before.
struct Scene {
    daemon: Running,
    bystander: Connection,
    home: tempfile::TempDir,
    _store: TestDaemon,
}

impl Scene {
    async fn new() -> Self {
        let store = TestDaemon::start(NixVersion::NEWEST);
        let home = tempfile::tempdir().unwrap();
        let daemon = daemon(home.path(), &store, 1).await;
        let bystander = connect(&daemon.socket).await;
        Self {
            daemon,
            bystander,
            home,
            _store: store,
        }
    }

    /// The client that was there before notices nothing.
    async fn others_go_on(mut self) {
        let info: serde_json::Value = ask(&mut self.bystander, &Request::Info).await;
        assert_eq!(info["storeDir"], "/nix/store");
        drop(self.bystander);
        self.daemon.stop().await;
    }
}

/// Shakes hands, sends some bytes, and returns all that is answered until the daemon hangs up.
async fn answer_to(socket: &Path, request: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket).await.unwrap();
    let hello = [CLIENT_MAGIC, VERSION_1_37, 0, 0].map(u64::to_le_bytes).concat();
    stream.write_all(&hello).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(&LAST) {
        assert_ne!(stream.read_buf(&mut seen).await.unwrap(), 0, "the handshake succeeds");
    }
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_operation_is_named_and_ends_the_connection() {
    let scene = Scene::new().await;
    let said = answer_to(&scene.daemon.socket, &999_u64.to_le_bytes()).await;
    assert!(said.contains("999"), "{said:?}");
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_and_oversized_fields_are_told_and_end_the_connection() {
    let scene = Scene::new().await;
    let op = IS_VALID_PATH.to_le_bytes();
    let path = b"/nix/store/7lmww5ks62qvwklysqlsfbn6p4yl2ijr-u";
    let length = (path.len() as u64).to_le_bytes();
    let padded = [&op[..], &length, path, b"\x01\0\0"].concat();
    let said = answer_to(&scene.daemon.socket, &padded).await;
    assert!(said.contains("padded"), "{said:?}");
    let oversized = [&op[..], &(1_u64 << 40).to_le_bytes()].concat();
    let said = answer_to(&scene.daemon.socket, &oversized).await;
    assert!(said.contains("max_string"), "{said:?}");
    let foreign = b"/somewhere/else";
    let outside = [&op[..], &15_u64.to_le_bytes(), foreign, b"\0"].concat();
    let said = answer_to(&scene.daemon.socket, &outside).await;
    assert!(said.contains("/somewhere/else"), "{said:?}");
    scene.others_go_on().await;
}

/// Sends a closure that is refused; the error, from a connection that can still be used.
async fn refused(connection: &mut Connection, body: &[u8]) -> String {
    let error = connection
        .call_framed(&AddClosure {}, body, &mut ())
        .await
        .expect_err("the closure is refused");
    assert!(matches!(error, client::Error::Remote(_)), "{error:?}");
    let _: serde_json::Value = ask(connection, &Request::Info).await;
    error.to_string()
}

async fn is_here(connection: &mut Connection, path: &StorePath) -> bool {
    let question = QueryValidBatch::of([path]);
    connection.call(&question, &mut ()).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_in_an_upload_is_refused_and_what_came_whole_stays() {
    let scene = Scene::new().await;
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let drvs = evaluator.instantiate("wrong", &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])]);
    let dir = StoreDir::default();
    let app = dir.parse(&drvs["app"]).unwrap();
    let base = dir.parse(&drvs["base"]).unwrap();
    let mut source = connect_stock(&evaluator).await;
    let infos = closure(&mut source, std::slice::from_ref(&app)).await;
    let mut client = connect(&scene.daemon.socket).await;

    // A missing reference: both paths are named.
    let alone: Vec<_> = infos.iter().filter(|info| info.path == app).cloned().collect();
    let said = refused(&mut client, &packed(&mut source, &alone).await).await;
    assert!(
        said.contains(&app.base_name()) && said.contains(&base.base_name()),
        "{said}"
    );

    // A wrong hash: what came before it stays, so that only the rest has to be sent again.
    let mut wrong = infos.clone();
    let last = wrong.last_mut().unwrap();
    last.info.nar_hash = NarHash([7; 32]);
    let named = last.path.base_name();
    let said = refused(&mut client, &packed(&mut source, &wrong).await).await;
    assert!(said.contains(&named) && said.contains("hash"), "{said}");
    assert!(is_here(&mut client, &base).await);
    assert!(!is_here(&mut client, &app).await);

    // A stream that is no zstd, and one that breaks off.
    let said = refused(&mut client, b"this is not compressed").await;
    assert!(said.contains("zstd"), "{said}");
    let whole = packed(&mut source, &infos).await;
    let said = refused(&mut client, &whole[..whole.len() / 2]).await;
    assert!(said.contains("ends"), "{said}");

    // A derivation that does not parse.
    let garbage = op::AddTextToStore {
        name: "broken.drv".to_owned(),
        text: "Derive([(\"out\"".into(),
        references: std::collections::BTreeSet::new(),
    };
    let error = client.call(&garbage, &mut ()).await.expect_err("it does not parse");
    assert!(error.to_string().contains("broken.drv"), "{error}");

    assert_eq!(
        client.call_framed(&AddClosure {}, &whole[..], &mut ()).await.unwrap(),
        1
    );
    assert!(is_here(&mut client, &app).await);
    drop(client);
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_untrusted_user_cannot_add_what_proves_nothing() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let mut config = config(home.path(), &store, 1);
    config.listen.trusted_users = Vec::new();
    let daemon = start(config).await.unwrap();
    let drvs = evaluator.instantiate("proof", &[TestDrv::good("app")]);
    let out = evaluator.run("nix-store", &["-r", &drvs["app"]]);
    let out = StoreDir::default().parse(out.trim()).unwrap();
    let mut source = connect_stock(&evaluator).await;
    let infos = closure(&mut source, std::slice::from_ref(&out)).await;
    let mut client = connect(&daemon.socket).await;
    let said = refused(&mut client, &packed(&mut source, &infos).await).await;
    assert!(said.contains("lacks a signature by a trusted key"), "{said}");
    let drv_body = body_for(&evaluator, drvs.values()).await;
    assert_eq!(
        client
            .call_framed(&AddClosure {}, &drv_body[..], &mut ())
            .await
            .unwrap(),
        1
    );
    drop(client);
    daemon.stop().await;
}

async fn refused_jobs(client: &mut Connection, evaluation: EvaluationId, drv: &str) -> String {
    let request = Request::SubmitJobs {
        evaluation,
        jobs: vec![NewJob {
            attr: "app".parse().unwrap(),
            result: Evaluated::Drv(drv.to_owned()),
        }],
    };
    let json = serde_json::to_string(&request).unwrap();
    client
        .control_one(&json)
        .await
        .expect_err("the job is refused")
        .to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_without_their_derivations_are_refused_by_name() {
    let scene = Scene::new().await;
    let mut client = connect(&scene.daemon.socket).await;
    let begun: Begun = ask(&mut client, &Request::SubmitBegin(submission("absent"))).await;
    let absent = "/nix/store/7lmww5ks62qvwklysqlsfbn6p4yl2ijr-absent.drv";
    for (drv, words) in [
        (absent, "not here"),
        ("/nix/store/nonsense", "nonsense"),
        ("/tmp/x.drv", "/tmp/x.drv"),
    ] {
        let said = refused_jobs(&mut client, begun.evaluation, drv).await;
        assert!(said.contains(words), "{said}");
    }
    let error = client.control_one("{\"op\":\"dance\"}").await.unwrap_err().to_string();
    assert!(error.contains("dance"), "{error}");
    drop(client);
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_is_named_and_waited_for() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let evaluator = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let daemon = daemon(home.path(), &store, 1).await;
    let drvs = evaluator.instantiate("down", &[TestDrv::good("app")]);
    store.kill9();
    let mut client = connect(&daemon.socket).await;
    let evaluation = submit(&mut client, &evaluator, "down", &drvs).await;
    let question = Request::Jobs {
        which: Selector::Evaluation(evaluation),
    };
    let reason = loop {
        let jobs: Vec<JobStatus> = ask(&mut client, &question).await;
        match &jobs[0].outcome {
            Outcome::Queued { reason } if reason.contains("reach") => break reason.clone(),
            Outcome::Queued { .. } | Outcome::Forwarding => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    };
    assert!(reason.contains("default"), "{reason}");
    store.start_again();
    let watched = watch(&mut client, evaluation).await;
    assert_eq!(watched.outcomes["app"], Outcome::Succeeded { how: Success::Built });
    drop(client);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_says_what_is_in_use() {
    let scene = Scene::new().await;
    let socket = scene.daemon.socket.clone();
    let folder = scene.home.path().to_owned();
    let same = Config::in_folder(&folder, "auto", 1);
    let error = start(same).await.expect_err("the state folder is in use");
    assert!(matches!(error, StartError::StateInUse { .. }), "{error}");
    let other = tempfile::tempdir().unwrap();
    let mut config = Config::in_folder(other.path(), "auto", 1);
    config.listen.socket.clone_from(&socket);
    let error = start(config.clone()).await.expect_err("the socket is in use");
    assert!(error.to_string().contains(&socket.display().to_string()), "{error}");
    scene.others_go_on().await;

    // A file that a killed daemon left behind is replaced.
    let socket = other.path().join("stale");
    config.listen.socket.clone_from(&socket);
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let daemon = start(config.clone()).await.expect("a stale socket is replaced");
    daemon.stop().await;
    assert!(!socket.exists(), "the socket is removed at the end");
    std::fs::write(&socket, "precious").unwrap();
    let error = start(config).await.expect_err("a file is not replaced");
    assert!(error.to_string().contains("not a socket"), "{error}");
    assert_eq!(std::fs::read_to_string(&socket).unwrap(), "precious");
}

fn program(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nixci-daemon"))
        .args(arguments)
        .env_remove("NIXCI_CONFIG")
        .output()
        .unwrap()
}

fn text(name: &str, content: Vec<u8>) -> op::AddTextToStore {
    op::AddTextToStore {
        name: name.to_owned(),
        text: content.into(),
        references: std::collections::BTreeSet::new(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_told_and_nothing_stored_is_lost() {
    let disk = SmallDisk::start(2).await;
    let mut client = connect(&disk.socket()).await;
    let mut bystander = connect(&disk.socket()).await;
    let small = client.call(&text("small", b"kept".to_vec()), &mut ()).await.unwrap();
    let filler = disk.inside("filler");
    let mut room = 2 << 20;
    while room > 4096 && std::fs::write(&filler, vec![1; room]).is_err() {
        room -= 4096;
    }
    // What does not compress: numbers that a multiplication makes.
    let noise: Vec<u8> = (1..100_000_u64)
        .map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8)
        .collect();
    let error = client
        .call(&text("noise", noise.clone()), &mut ())
        .await
        .expect_err("there is no room");
    assert!(error.to_string().contains("no space left"), "{error}");
    assert!(is_here(&mut bystander, &small).await);
    std::fs::remove_file(filler).unwrap();
    let noise = client
        .call(&text("noise", noise), &mut ())
        .await
        .expect("there is room again");
    assert!(is_here(&mut bystander, &noise).await);
}

#[test]
fn a_corrupt_configuration_is_told_line_by_line_before_anything_is_bound() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ci.toml");
    let socket = folder.path().join("socket");
    let text = format!(
        "state_dir = {:?}\n[listen]\nsocket = {:?}\nwrite = \"spool\"\n",
        folder.path().join("state").to_str().unwrap(),
        socket.to_str().unwrap()
    );
    std::fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap();
    for arguments in [&["check-config", file][..], &["--config", file]] {
        let output = program(arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success());
        assert!(
            said.contains(":4: unknown key `write` in [listen]; did you mean `writes`?"),
            "{said}"
        );
    }
    assert!(!socket.exists() && !folder.path().join("state").exists());
    let missing = program(&["check-config", "/nowhere/ci.toml"]);
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nowhere/ci.toml"));
    std::fs::write(file, "[[store]]\nname = \"here\"\n").unwrap();
    assert!(program(&["check-config", file]).status.success());
}
