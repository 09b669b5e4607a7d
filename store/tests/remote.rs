//! Connections to real daemons of every version.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests do")]

use std::path::Path;
use std::time::Duration;

use nixci_protocol::client;
use nixci_protocol::op::{BuildPaths, IsValidPath, QueryAllValidPaths, QueryPathInfo};
use nixci_protocol::types::{BuildMode, DerivedPath, DrvPath, StoreDir, StorePath};
use nixci_store::remote::{BuildOptions, Environment, Remote, RemoteOptions, StoreUri};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

fn options() -> RemoteOptions {
    RemoteOptions {
        environment: Environment::with::<&str, &str>([]),
        ..RemoteOptions::default()
    }
}

fn remote(uri: &str) -> Remote {
    Remote::new("test", uri.parse().unwrap(), options())
}

fn path(full: &str) -> StorePath {
    StoreDir::default().parse(full).unwrap()
}

#[rstest]
#[tokio::test]
async fn a_connection_is_used_again_and_replaced_after_a_kill(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let daemon = TestDaemon::start(version);
    let paths = daemon.instantiate("pool", &[TestDrv::good("a")]);
    let remote = remote(&format!("{}&max-connections=1", daemon.uri()));
    let ask = IsValidPath {
        path: path(&paths["a"]),
    };
    let mut connection = remote.acquire().await.unwrap();
    assert_eq!(
        u16::from(connection.negotiated().version.minor),
        version.protocol_minor()
    );
    assert_eq!(connection.daemon_version(), Some(version.number()));
    assert!(connection.call(&ask, &mut ()).await.unwrap());
    drop(connection);
    let workers = daemon_workers(&daemon);
    assert!(remote.acquire().await.unwrap().call(&ask, &mut ()).await.unwrap());
    // Workers of connections before ours, such as the one that asked whether the daemon is up, may end meanwhile.
    let now = daemon_workers(&daemon);
    assert!(!now.is_empty(), "a worker serves the idle connection");
    let new: Vec<_> = now.iter().filter(|worker| !workers.contains(worker)).collect();
    assert!(
        new.is_empty(),
        "the idle connection is used again, but there are {new:?}"
    );

    // One that the daemon dropped is not handed out.
    daemon.kill9();
    daemon.start_again();
    assert!(remote.acquire().await.unwrap().call(&ask, &mut ()).await.unwrap());

    // One that breaks while it is used is not handed out again.
    let mut connection = remote.acquire().await.unwrap();
    daemon.kill9();
    let error = connection.call(&ask, &mut ()).await.unwrap_err();
    assert!(!error.is_remote(), "{error}");
    assert!(!connection.is_reusable());
    drop(connection);
    let error = remote.acquire().await.unwrap_err().to_string();
    assert!(error.starts_with("cannot reach store `test` (unix://"), "{error}");
    assert!(error.contains("start nix-daemon"), "{error}");
    daemon.start_again();
    assert!(remote.acquire().await.unwrap().call(&ask, &mut ()).await.unwrap());
}

/// The processes that serve connections.
fn daemon_workers(daemon: &TestDaemon) -> Vec<String> {
    let pid = daemon.pid().unwrap();
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
    let mut list: Vec<_> = children.split_whitespace().map(str::to_owned).collect();
    list.retain(|pid| {
        !std::fs::read_to_string(format!("/proc/{pid}/stat"))
            .unwrap_or_default()
            .contains(") Z ")
    });
    list
}

#[tokio::test]
async fn a_remote_error_keeps_the_connection_and_a_cut_off_call_does_not() {
    let daemon = TestDaemon::start(NixVersion::NEWEST);
    let gate = daemon.gate("wait");
    let paths = daemon.instantiate("cut", &[TestDrv::failing("bad"), TestDrv::good("slow").gate("wait")]);
    let build = |name: &str| {
        let drv: DrvPath = path(&paths[name]).try_into().unwrap();
        BuildPaths {
            paths: vec![DerivedPath::all_outputs(&drv)],
            mode: BuildMode::Normal,
        }
    };
    let remote = remote(&format!("{}&max-connections=1", daemon.uri()));
    let mut connection = remote.acquire().await.unwrap();
    let error = connection.call(&build("bad"), &mut ()).await.unwrap_err();
    assert!(error.is_remote(), "{error}");
    assert!(connection.is_reusable());

    // Nobody else gets in while it is used; whoever gave up waiting takes no place.
    let waiting = tokio::time::timeout(Duration::from_millis(1), remote.acquire());
    assert!(waiting.await.is_err());
    {
        let request = build("slow");
        let call = async { connection.call(&request, &mut ()).await };
        tokio::pin!(call);
        tokio::select! {
            result = &mut call => panic!("the build waits at its gate: {result:?}"),
            () = gate.started() => {}
        }
    }
    assert!(!connection.is_reusable());
    drop(connection);
    let mut connection = remote.acquire().await.unwrap();
    let valid = connection
        .call(
            &IsValidPath {
                path: path(&paths["bad"]),
            },
            &mut (),
        )
        .await
        .unwrap();
    assert!(valid);
    gate.open();
}

#[tokio::test]
async fn waiters_are_served_in_order() {
    let daemon = TestDaemon::start(NixVersion::NEWEST);
    let remote = remote(&format!("{}&max-connections=1", daemon.uri()));
    let held = remote.acquire().await.unwrap();
    let (order, mut served) = tokio::sync::mpsc::channel(8);
    let mut waiters = Vec::new();
    for number in 0..5 {
        let (remote, order) = (remote.clone(), order.clone());
        waiters.push(tokio::spawn(async move {
            let _connection = remote.acquire().await.unwrap();
            order.send(number).await.unwrap();
        }));
        tokio::task::yield_now().await;
    }
    drop((held, order));
    for expected in 0..5 {
        assert_eq!(served.recv().await, Some(expected));
    }
}

#[rstest]
#[tokio::test]
async fn a_private_daemon_serves_a_local_store_and_a_pipe(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let daemon = TestDaemon::start(version);
    let paths = daemon.instantiate("local", &[TestDrv::good("a")]);
    daemon.kill9();
    let environment = Environment::with(daemon.environment(""));
    let local = RemoteOptions {
        environment: environment.clone(),
        ..RemoteOptions::default()
    };
    let pipe = RemoteOptions {
        environment: environment.set("NIX_REMOTE", daemon.local_uri()),
        ..RemoteOptions::default()
    };
    let by_pipe = format!(
        "ssh-ng://localhost?remote-program={}",
        version.program("nix-daemon").display()
    );
    for (uri, options) in [(daemon.local_uri(), local), (by_pipe, pipe)] {
        let remote = Remote::new("local", uri.parse().unwrap(), options);
        let mut connection = remote.acquire().await.unwrap();
        assert_eq!(connection.daemon_version(), Some(version.number()), "{uri}");
        let all = connection.call(&QueryAllValidPaths {}, &mut ()).await.unwrap();
        assert!(all.contains(&path(&paths["a"])), "{uri}: {all:?}");
    }
}

#[tokio::test]
async fn auto_is_what_nix_remote_says_or_the_socket_or_a_private_daemon() {
    let daemon = TestDaemon::start(NixVersion::NEWEST);
    let paths = daemon.instantiate("auto", &[TestDrv::good("a")]);
    let ask = QueryPathInfo {
        path: path(&paths["a"]),
    };
    let environment = Environment::with(daemon.environment(""));
    let state = daemon.root().join("nix/var/nix");
    for (environment, is_there) in [
        (environment.clone().set("NIX_REMOTE", daemon.uri()), true),
        (environment.clone().set("NIX_REMOTE", daemon.local_uri()), true),
        (environment.clone().set("NIX_DAEMON_SOCKET_PATH", daemon.socket()), true),
        (
            environment
                .clone()
                .set("NIX_REMOTE", "daemon")
                .set("NIX_DAEMON_SOCKET_PATH", daemon.socket()),
            true,
        ),
        // No socket: a private daemon, on the store that the variables name.
        (
            environment
                .set("NIX_DAEMON_SOCKET_PATH", "/nonexistent/socket")
                .set("NIX_STATE_DIR", &*state.to_string_lossy())
                .set("NIX_LOG_DIR", &*daemon.root().join("nix/var/log/nix").to_string_lossy()),
            true,
        ),
    ] {
        let options = RemoteOptions {
            environment: environment.clone(),
            ..RemoteOptions::default()
        };
        let remote = Remote::new("auto", StoreUri::Auto, options);
        let info = remote.acquire().await.unwrap().call(&ask, &mut ()).await.unwrap();
        assert_eq!(info.is_some(), is_there, "{environment:?}");
    }
}

#[tokio::test]
async fn errors_say_which_store_why_and_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let silent = script(dir.path(), "silent", "while read line; do :; done");
    let words = script(
        dir.path(),
        "words",
        "echo first >&2; echo 'the disk is full' >&2; exit 3",
    );
    let babble = script(
        dir.path(),
        "babble",
        "echo 'Welcome to this machine'; while read line; do :; done",
    );
    let plain = dir.path().join("plain");
    std::fs::write(&plain, "").unwrap();
    let stale = dir.path().join("stale");
    drop(std::os::unix::net::UnixListener::bind(&stale).unwrap());
    for (uri, parts) in [
        (
            format!("unix://{}/none", dir.path().display()),
            ["No such file", "start nix-daemon"],
        ),
        (
            format!("unix://{}", stale.display()),
            ["Connection refused", "start nix-daemon again"],
        ),
        (
            "ssh-ng://localhost?remote-program=/nonexistent/daemon".to_owned(),
            ["/nonexistent/daemon", "install it"],
        ),
        (
            format!("ssh-ng://localhost?remote-program={}", plain.display()),
            ["ermission denied", "may be run"],
        ),
        (
            format!("ssh-ng://localhost?remote-program={words}"),
            ["closed the connection", "first / the disk is full"],
        ),
        (
            format!("ssh-ng://localhost?remote-program={babble}"),
            ["ssh-ng://localhost", "log of nix-daemon"],
        ),
        (
            format!("ssh-ng://localhost?remote-program={silent}"),
            ["no answer within 1 seconds", "overloaded"],
        ),
    ] {
        let options = RemoteOptions {
            connect_timeout: Duration::from_secs(1),
            ..options()
        };
        let remote = Remote::new("builds", uri.parse().unwrap(), options);
        let error = remote.acquire().await.unwrap_err().to_string();
        assert!(error.starts_with("cannot reach store `builds` ("), "{error}");
        for part in parts {
            assert!(error.contains(part), "{part}: {error}");
        }
    }
}

fn script(dir: &Path, name: &str, lines: &str) -> String {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join(name);
    std::fs::write(&file, format!("#!/bin/sh\n{lines}\n")).unwrap();
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o755)).unwrap();
    file.display().to_string()
}

#[tokio::test]
async fn settings_reach_the_store() {
    let daemon = TestDaemon::start(NixVersion::NEWEST);
    let gate = daemon.gate("silent");
    let paths = daemon.instantiate("settings", &[TestDrv::good("silent").gate("silent")]);
    let build = BuildOptions {
        max_silent_time: Some(Duration::from_secs(1)),
        ..BuildOptions::default()
    };
    let remote = Remote::new(
        "test",
        daemon.uri().parse().unwrap(),
        RemoteOptions { build, ..options() },
    );
    let request = BuildPaths {
        paths: vec![DerivedPath::all_outputs(&path(&paths["silent"]).try_into().unwrap())],
        mode: BuildMode::Normal,
    };
    let mut connection = remote.acquire().await.unwrap();
    let call = async { connection.call(&request, &mut ()).await };
    let ((), result) = tokio::join!(gate.started(), call);
    let error = match result.unwrap_err() {
        client::Error::Remote(error) => error.to_string(),
        error => panic!("{error}"),
    };
    assert!(error.contains("timed out"), "{error}");
}
