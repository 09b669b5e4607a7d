//! Sockets that somebody else holds.

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, poll_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::common::{connect, submit, watch};
use crate::world::{Process, World};

const NO_STORE: &str = "http = \"127.0.0.1:0\"\n[[store]]\nname = \"none\"\nuri = \"unix:///nowhere\"\n";
const REQUEST: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";

async fn shake_hands(stream: UnixStream) {
    let (read, write) = stream.into_split();
    Connection::open(read, write, Hello::default()).await.unwrap();
}

async fn is_healthy(mut stream: TcpStream) {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_connects_before_the_daemon_is_there_is_served() {
    let world = World::new(NO_STORE).holding();
    let client = UnixStream::connect(world.socket()).await.unwrap();
    let mut page = TcpStream::connect(world.http()).await.unwrap();
    page.write_all(REQUEST).await.unwrap();
    let daemon = world.start();
    shake_hands(client).await;
    is_healthy(page).await;
    daemon.stop();
    assert!(world.socket().exists(), "the file is not the daemon's to remove");
}

#[tokio::test(flavor = "multi_thread")]
async fn systemd_starts_it_for_the_first_who_connects() {
    let world = World::new("http = \"off\"\n[[store]]\nname = \"none\"\nuri = \"unix:///nowhere\"\n");
    let log = std::fs::File::create(world.home().join("log")).unwrap();
    let held = Command::new("systemd-socket-activate")
        .arg("--listen")
        .arg(world.socket())
        .args(["--fdname=socket", env!("CARGO_BIN_EXE_nixci-daemon"), "--config"])
        .arg(world.config())
        .stdin(Stdio::null())
        .stderr(log)
        .spawn();
    let _process = Process(held.unwrap());
    poll_until("the socket of systemd-socket-activate", || {
        world.socket().exists().then_some(())
    });
    assert_eq!(world.said("listening on /"), 0, "nobody has asked yet");
    shake_hands(UnixStream::connect(world.socket()).await.unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_refuses_nobody_and_the_queue_goes_on() {
    let (store, evaluator) = (
        TestDaemon::start(NixVersion::V2_34),
        TestDaemon::start(NixVersion::V2_34),
    );
    let world = World::new(&format!(
        "http = \"127.0.0.1:0\"\n[[store]]\nname = \"default\"\nuri = {:?}\nslots = 1\n",
        store.uri()
    ))
    .holding();
    let gate = store.gate("restart");
    let drvs = evaluator.instantiate(
        "restart",
        &[
            TestDrv::good("first").gate("restart"),
            TestDrv::good("second").needs(&["first"]),
        ],
    );
    let daemon = world.start();
    let mut client = connect(&world.socket()).await;
    let evaluation = submit(&mut client, &evaluator, "restart", &drvs).await;
    gate.started().await;
    daemon.stop();

    // Nobody is there, and nobody is refused.
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(UnixStream::connect(world.socket()).await.unwrap());
    }
    let mut page = TcpStream::connect(world.http()).await.unwrap();
    page.write_all(REQUEST).await.unwrap();
    let daemon = world.start();
    for client in waiting {
        shake_hands(client).await;
    }
    is_healthy(page).await;
    gate.open();
    let mut client = connect(&world.socket()).await;
    daemon.kill9();
    drop(client.control_one("{}").await);
    let waits = UnixStream::connect(world.socket()).await.unwrap();
    let daemon = world.start();
    shake_hands(waits).await;
    let watched = watch(&mut connect(&world.socket()).await, evaluation).await;
    for job in ["first", "second"] {
        let outcome = &watched.outcomes[job];
        assert!(matches!(outcome, Outcome::Succeeded { .. }), "{job}: {outcome:?}");
    }
    daemon.stop();
}

#[test]
fn sockets_that_do_not_fit_are_refused_in_one_line() {
    let world = World::new(NO_STORE).holding();
    for (names, said) in [
        (
            "socket:nixci-daemon.socket",
            "named `nixci-daemon.socket`; known are `socket` and `http`",
        ),
        ("socket:socket", "more than one socket named `socket`"),
        ("http:socket", "as `http` cannot be used: "),
        ("socket", "LISTEN_FDNAMES"),
    ] {
        let (status, log) = world.refused(names);
        assert!(!status.success() && log.contains(said), "{names}: {log}");
        assert_eq!(log.lines().count(), 1, "{log}");
    }
    world.configure("http = \"off\"\n");
    let (status, log) = world.refused("socket:http");
    assert!(
        !status.success() && log.contains("`http` in [listen] is \"off\""),
        "{log}"
    );
    let text = std::fs::read_to_string(world.config()).unwrap();
    std::fs::write(world.config(), text.replace("/socket\"", "/other\"")).unwrap();
    let (status, log) = world.refused("socket:http");
    assert!(!status.success() && log.contains("and ListenStream= the same"), "{log}");
    assert!(world.socket().exists());
}

#[test]
fn what_the_configuration_says_otherwise_is_told() {
    let world =
        World::new("http = \"127.0.0.1:9\"\nmode = \"0600\"\n[[store]]\nname = \"none\"\nuri = \"unix:///nowhere\"\n");
    let world = world.holding();
    std::fs::set_permissions(world.socket(), std::fs::Permissions::from_mode(0o640)).unwrap();
    let daemon = world.start();
    assert_eq!(
        world.said("has the mode 0640, and `mode` in [listen] is 0600"),
        1,
        "{}",
        world.log()
    );
    assert_eq!(world.said("and not on 127.0.0.1:9, which `http`"), 1, "{}", world.log());
    daemon.stop();
}
