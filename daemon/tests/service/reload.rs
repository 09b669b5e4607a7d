//! SIGHUP: the configuration is read again, and everything goes on.

use nixci_daemon::TokenHash;
use nixci_protocol::nixci::control::{Collected, Request};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rustix::process::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common::{ask, body_for, connect, submit, try_submit, watch};
use crate::world::{Process, World};

const NO_STORE: &str = "[[store]]\nname = \"none\"\nuri = \"unix:///nowhere\"\n";
const FIRST: &str = "the first token, long enough";
const SECOND: &str = "the second token, long enough";

/// Writes another configuration and waits until it is read.
fn reload(world: &World, daemon: &Process, sections: &str) {
    let before = world.said("holds from now on");
    world.configure(sections);
    daemon.signal(Signal::HUP);
    world.wait_for("holds from now on", before + 1);
}

fn token(name: &str, token: &str) -> String {
    let hash = TokenHash::of(token).unwrap();
    format!("[[token]]\nname = \"{name}\"\nsha256 = \"{hash}\"\nrights = [\"read\"]\n")
}

/// The status of a page.
async fn page(world: &World, token: &str) -> u16 {
    let mut stream = TcpStream::connect(world.http()).await.unwrap();
    let request = format!("GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_come_and_go_and_what_needs_a_restart_is_named() {
    let listen = "http = \"127.0.0.1:0\"\nhttp_read = \"token\"\n";
    let world = World::new(&format!("{listen}{NO_STORE}{}", token("first", FIRST)));
    let daemon = world.start();
    assert_eq!((page(&world, FIRST).await, page(&world, SECOND).await), (200, 401));

    let both = [token("first", FIRST), token("second", SECOND)].concat();
    reload(&world, &daemon, &format!("{listen}{NO_STORE}{both}"));
    assert_eq!((page(&world, FIRST).await, page(&world, SECOND).await), (200, 200));
    assert_eq!(world.said("needs a restart"), 0, "{}", world.log());

    let second = token("second", SECOND);
    reload(
        &world,
        &daemon,
        &format!("mode = \"0600\"\n{listen}{NO_STORE}{second}[cache]\nserve = false\n"),
    );
    assert_eq!((page(&world, FIRST).await, page(&world, SECOND).await), (401, 200));
    world.wait_for("needs a restart", 2);
    for key in ["`mode` in [listen]", "`serve` in [cache]"] {
        let said = format!("{key} was changed, which needs a restart");
        assert_eq!(world.said(&said), 1, "{}", world.log());
    }

    reload(&world, &daemon, &format!("http = \"127.0.0.1:0\"\n{NO_STORE}{second}"));
    assert_eq!(page(&world, FIRST).await, 200, "everybody may read now");
    daemon.stop();
    // The log is a file here, as the journal is no terminal.
    assert!(!world.log().contains('\u{1b}'), "{}", world.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_file_is_told_whole_and_changes_nothing() {
    let listen = "http = \"127.0.0.1:0\"\nhttp_read = \"token\"\n";
    let world = World::new(&format!("{listen}{NO_STORE}{}", token("first", FIRST)));
    let daemon = world.start();
    let mut client = connect(&world.socket()).await;

    // The tokens are right, the rest is not.
    let second = token("second", SECOND);
    world.configure(&format!("{listen}jobs = 1\n{NO_STORE}{second}[limits]\njob = 1\n"));
    daemon.signal(Signal::HUP);
    world.wait_for("holds on", 1);
    let (config, log) = (world.config().display().to_string(), world.log());
    for (line, what) in [(6, "`jobs` in [listen]"), (15, "`job` in [limits]")] {
        let start = format!("not reloaded: {config}:{line}: ");
        let told = log.lines().find(|told| told.contains(&start));
        assert!(told.is_some_and(|told| told.contains(what)), "{line} in {log}");
    }
    assert_eq!((page(&world, FIRST).await, page(&world, SECOND).await), (200, 401));

    // So it is with a secret that cannot be read.
    let lost = "[[token]]\nname = \"lost\"\nfile = \"/nowhere/hash\"\nrights = [\"read\"]\n";
    world.configure(&format!("{listen}{NO_STORE}{second}{lost}"));
    daemon.signal(Signal::HUP);
    world.wait_for("holds on", 2);
    assert!(
        world
            .log()
            .contains("not reloaded: failed to read the hash of token `lost`")
    );
    std::fs::remove_file(world.config()).unwrap();
    daemon.signal(Signal::HUP);
    world.wait_for("holds on", 3);
    assert_eq!((page(&world, FIRST).await, page(&world, SECOND).await), (200, 401));

    // The connection from before is served on.
    let collect = Request::CollectGarbage { dry_run: true };
    let _: Collected = ask(&mut client, &collect).await;
    reload(&world, &daemon, &format!("{listen}{NO_STORE}{second}"));
    assert_eq!((page(&world, FIRST).await, page(&world, SECOND).await), (401, 200));
    daemon.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_build_survives_while_limits_slots_and_retention_change() {
    let (store, evaluator) = (
        TestDaemon::start(NixVersion::V2_34),
        TestDaemon::start(NixVersion::V2_34),
    );
    let with = |slots: u32, more: &str| {
        let uri = store.uri();
        format!("http = \"127.0.0.1:0\"\n[[store]]\nname = \"default\"\nuri = \"{uri}\"\nslots = {slots}\n{more}")
    };
    let world = World::new(&with(1, "[limits]\njobs = 1\n"));
    let daemon = world.start();
    let (left, right) = (store.gate("left"), store.gate("right"));
    let drvs = evaluator.instantiate(
        "reload",
        &[TestDrv::good("left").gate("left"), TestDrv::good("right").gate("right")],
    );
    let mut client = connect(&world.socket()).await;
    let body = body_for(&evaluator, drvs.values()).await;
    let refused = try_submit(&mut client, &body, "one", &drvs).await.unwrap_err();
    assert!(refused.to_string().contains("jobs"), "{refused}");

    // The limit holds for a connection that is open; one build runs, as there is one slot.
    reload(&world, &daemon, &with(1, "[limits]\njobs = 2\n"));
    let mut client = connect(&world.socket()).await;
    let evaluation = submit(&mut client, &evaluator, "two", &drvs).await;
    let first_is_left = tokio::select! {
        () = left.started() => true,
        () = right.started() => false,
    };
    // And with another slot, and other settings of connections, the second runs beside it.
    reload(&world, &daemon, &with(2, "[limits]\nbuild_time = \"5m\"\n"));
    if first_is_left {
        right.started().await;
    } else {
        left.started().await;
    }
    reload(
        &world,
        &daemon,
        &with(1, "[retention]\nnewest = 0\nevaluations = \"0s\"\n"),
    );
    left.open();
    right.open();
    let watched = watch(&mut client, evaluation).await;
    for job in ["left", "right"] {
        let outcome = &watched.outcomes[job];
        assert!(
            matches!(outcome, Outcome::Succeeded { .. }),
            "{job}: {outcome:?}\n{}",
            world.log()
        );
    }
    let collect = Request::CollectGarbage { dry_run: true };
    let collected: Collected = ask(&mut client, &collect).await;
    assert!(collected.evaluations >= 1, "{collected:?}");
    reload(&world, &daemon, &with(1, ""));
    let collected: Collected = ask(&mut client, &collect).await;
    assert_eq!(collected.evaluations, 0, "{collected:?}");
    daemon.stop();
}

#[test]
fn without_a_file_there_is_nothing_to_reload() {
    let world = World::new("");
    let daemon = world.start_per_user();
    daemon.signal(Signal::HUP);
    world.wait_for("there is no configuration to reload", 1);
    daemon.signal(Signal::HUP);
    world.wait_for("there is no configuration to reload", 2);
    daemon.stop();
}
