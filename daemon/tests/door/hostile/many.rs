//! Many and slow clients.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as Blocking;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nixci_protocol::client::{Connection, Error};
use nixci_protocol::op::{AddTextToStore, QueryPathInfo};
use nixci_protocol::types::StorePath;
use rustix::process::{Resource, Rlimit, Uid, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::Scene;
use super::raw::{PATIENCE, Raw};
use crate::common::{connect, try_connect};

/// Somebody without any rights.
const NOBODY: u32 = 65_534;
/// Connections of who means no good.
const MANY: usize = 5_000;
/// What one in a hundred questions of another client may take meanwhile. Measured on two cores under a load of ten, with
/// a debug build: 0.4 ms alone, 15 ms while five thousand come, 0.4 ms beside them. What is meant to be seen is a client
/// that waits for others, which takes seconds.
const WORST: Duration = Duration::from_millis(250);
/// What an idle connection may cost in memory; it was 14 KiB.
const IDLE_KIB: u64 = 28;

/// Lets this process have all the open files it needs for both ends.
fn many_files() {
    let enough = Some(3 * MANY as u64);
    let limit = getrlimit(Resource::Nofile);
    let maximum = match limit.maximum {
        Some(maximum) if Some(maximum) < enough => enough,
        other => other,
    };
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("root may have as many files as it likes");
}

/// Connects as another user, as often as told. The connections are as silent as can be.
fn connect_as(uid: u32, socket: &Path, count: usize) -> Vec<UnixStream> {
    let socket: PathBuf = socket.to_owned();
    // The kernel keeps who connected, not who holds the socket; a user is a property of a thread.
    let connecting = std::thread::spawn(move || {
        if uid != 0 {
            let uid = Uid::from_raw(uid);
            rustix::thread::set_thread_res_uid(uid, uid, uid).expect("root may become anybody");
        }
        (0..count)
            .map(|_| Blocking::connect(&socket).unwrap())
            .collect::<Vec<_>>()
    });
    let streams = connecting.join().unwrap();
    streams
        .into_iter()
        .map(|stream| {
            stream.set_nonblocking(true).unwrap();
            UnixStream::from_std(stream).unwrap()
        })
        .collect()
}

/// Lets other users reach the socket.
fn open_house(scene: &Scene) {
    std::fs::set_permissions(scene.service.scratch(), std::fs::Permissions::from_mode(0o755)).unwrap();
}

async fn greeted(stream: UnixStream) -> Result<Connection, Error> {
    let (read, write) = stream.into_split();
    Connection::open(read, write, nixci_protocol::client::Hello::default()).await
}

async fn ends(mut stream: UnixStream) {
    let mut heard = Vec::new();
    let reading = stream.read_to_end(&mut heard);
    drop(
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("the daemon hangs up"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn places_are_limited_by_user_and_who_gets_none_reads_why() {
    let limits = "[limits]\nconnections = 4\nconnections_per_user = 3\nhandshake_time = \"2s\"\n";
    let scene = Scene::with(limits).await;
    open_house(&scene);
    let socket = scene.socket();
    let mut held = Vec::new();
    for stream in connect_as(NOBODY, &socket, 3) {
        held.push(greeted(stream).await.unwrap());
    }
    let fourth = connect_as(NOBODY, &socket, 1).pop().unwrap();
    let Err(Error::Refused(why)) = greeted(fourth).await else {
        panic!("there is no place");
    };
    assert_eq!(
        why.message,
        "user 65534 has 3 connections open, which is all one user may have (`connections_per_user` in [limits]); close some and try again"
    );
    let other = greeted(connect_as(NOBODY - 1, &socket, 1).pop().unwrap())
        .await
        .unwrap();
    let Err(Error::Refused(why)) = greeted(connect_as(NOBODY - 2, &socket, 1).pop().unwrap()).await else {
        panic!("there is no place");
    };
    assert_eq!(
        why.message,
        "the daemon has 4 connections open, which is all it takes (`connections` in [limits]); try again later"
    );
    // Root always gets in.
    let _own = connect(&socket).await;
    drop((held.pop(), other));
    // A place is free once the daemon has seen that somebody left.
    let again = tokio::time::timeout(PATIENCE, async {
        loop {
            match greeted(connect_as(NOBODY, &socket, 1).pop().unwrap()).await {
                Ok(connection) => break connection,
                Err(Error::Refused(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    });
    held.push(again.await.expect("a place is freed"));
    // Who says nothing gives way to who comes later, and is closed after a while in any case.
    let silent = connect_as(NOBODY - 1, &socket, 1).pop().unwrap();
    let new = greeted(connect_as(NOBODY - 2, &socket, 1).pop().unwrap())
        .await
        .unwrap();
    ends(silent).await;
    drop(new);
    let silent = connect_as(0, &socket, 1).pop().unwrap();
    ends(silent).await;
    drop(held);
    scene.others_go_on().await;
}

async fn add(client: &mut Connection) -> StorePath {
    let text = AddTextToStore {
        name: "known".to_owned(),
        text: "known".into(),
        references: BTreeSet::new(),
    };
    client.call(&text, &mut ()).await.unwrap()
}

/// How long the slowest but one in a hundred of some questions took.
async fn p99(client: &mut Connection, path: &StorePath, questions: usize) -> Duration {
    let mut times = Vec::with_capacity(questions);
    for _ in 0..questions {
        let began = Instant::now();
        let info = client
            .call(&QueryPathInfo { path: path.clone() }, &mut ())
            .await
            .unwrap();
        assert!(info.is_some());
        times.push(began.elapsed());
    }
    times.sort_unstable();
    times[questions * 99 / 100]
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_slow_and_many_clients_do_not_slow_the_others() {
    let scene = Scene::new().await;
    many_files();
    open_house(&scene);
    let socket = scene.socket();
    let mut client = connect(&socket).await;
    let path = add(&mut client).await;
    let alone = p99(&mut client, &path, 2_000).await;
    // A user who opens thousands and says nothing.
    let watched = tokio::spawn({
        let (socket, path) = (socket.clone(), path.clone());
        async move {
            let mut client = connect(&socket).await;
            p99(&mut client, &path, 4_000).await
        }
    });
    let (at, hostile) = (socket.clone(), MANY);
    let of_nobody = tokio::task::spawn_blocking(move || connect_as(NOBODY, &at, hostile))
        .await
        .unwrap();
    let while_they_come = watched.await.unwrap();
    // Another user, and who looks after the daemon, get in at once.
    let mut honest = greeted(connect_as(NOBODY - 1, &socket, 1).pop().unwrap())
        .await
        .unwrap();
    assert!(try_connect(&socket).await.is_ok());
    // Thousands that are all kept, for their user may have any number, and clients that send a byte a second.
    let at = socket.clone();
    let of_root = tokio::task::spawn_blocking(move || connect_as(0, &at, hostile))
        .await
        .unwrap();
    let mut slow = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let mut raw = Raw::ours(&socket).await;
        slow.spawn(async move {
            let request = [&1_u64.to_le_bytes()[..], &40_000_u64.to_le_bytes(), &vec![b'x'; 40_000]].concat();
            let mut each = tokio::time::interval(Duration::from_secs(1));
            for byte in request {
                each.tick().await;
                if raw.stream.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        });
    }
    let beside = p99(&mut honest, &path, 2_000).await;
    let mut late = connect(&socket).await;
    let of_late = p99(&mut late, &path, 2_000).await;
    println!(
        "p99: alone {alone:?}, while {MANY} come {while_they_come:?}, beside {MANY} {beside:?}, came later {of_late:?}"
    );
    for figure in [while_they_come, beside, of_late] {
        assert!(figure <= WORST, "alone {alone:?}, with hostile clients {figure:?}");
    }
    slow.shutdown().await;
    drop((of_nobody, of_root));
    scene.others_go_on().await;
}

/// Resident memory in KiB, now.
fn resident(scene: &Scene) -> u64 {
    let pid = scene.service.pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn heavy_idle_connections_cost_little() {
    const IDLE: usize = 1_000;
    let scene = Scene::new().await;
    many_files();
    let socket = scene.socket();
    let path = add(&mut connect(&socket).await).await;
    let before = resident(&scene);
    let mut idle = Vec::new();
    for _ in 0..IDLE {
        // Each has asked something: what that took is given back.
        let mut client = connect(&socket).await;
        client
            .call(&QueryPathInfo { path: path.clone() }, &mut ())
            .await
            .unwrap();
        idle.push(client);
    }
    let after = resident(&scene);
    let each = after.saturating_sub(before) / IDLE as u64;
    println!("{before} KiB before, {after} KiB with {IDLE} idle connections: {each} KiB each");
    assert!(each <= IDLE_KIB, "an idle connection costs {each} KiB");
    assert!(after <= 150 << 10, "{IDLE} idle connections: {} MiB", after >> 10);
    drop(idle);
    scene.others_go_on().await;
}
