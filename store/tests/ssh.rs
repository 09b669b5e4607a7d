//! A real sshd on loopback, with throw-away keys.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests do")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use data_encoding::BASE64;
use nixci_protocol::op::QueryAllValidPaths;
use nixci_store::remote::{Environment, Remote, RemoteOptions};
use nixci_store::testing::{NixVersion, Sshd, TestDaemon, TestDrv};

/// What an ssh session runs: the daemon of a version on the store of `daemon`, and a note of what was asked for.
fn session(daemon: &TestDaemon, dir: &Path) -> String {
    use std::os::unix::fs::PermissionsExt;
    let file = dir.join("session");
    let mut variables = String::new();
    for (name, value) in daemon.environment(&daemon.local_uri()) {
        let _ = writeln!(variables, "export {name}='{value}'");
    }
    let text = format!(
        "#!/bin/sh\n{variables}echo \"$SSH_ORIGINAL_COMMAND from $SSH_CONNECTION\" >> {}\nexec nix-daemon --stdio\n",
        dir.join("sessions").display()
    );
    fs::write(&file, text).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    file.display().to_string()
}

fn remote(uri: &str) -> Remote {
    // What the user of this machine has in the home does not matter here.
    let environment = Environment::with([("NIX_SSHOPTS", "-F/dev/null")]);
    Remote::new(
        "far",
        uri.parse().unwrap(),
        RemoteOptions {
            environment,
            ..RemoteOptions::default()
        },
    )
}

#[tokio::test]
async fn sessions_share_one_connection_and_outlive_each_other() {
    let daemon = TestDaemon::start(NixVersion::NEWEST);
    let paths = daemon.instantiate("ssh", &[TestDrv::good("a")]);
    let sshd = Sshd::start(&session(&daemon, daemon.scratch()));
    let remote = remote(&sshd.uri("&max-connections=4&remote-program=nix-daemon%20--some-option"));
    let first = remote.acquire().await.unwrap();
    let mut second = remote.acquire().await.unwrap();
    // The end of the one that connected is not the end of the other.
    first.discard();
    let mut third = remote.acquire().await.unwrap();
    for connection in [&mut second, &mut third] {
        let all = connection.call(&QueryAllValidPaths {}, &mut ()).await.unwrap();
        assert!(
            all.iter().any(|path| paths["a"].ends_with(&path.base_name())),
            "{all:?}"
        );
    }
    let sessions = fs::read_to_string(daemon.scratch().join("sessions")).unwrap();
    let sessions: Vec<_> = sessions.lines().collect();
    assert_eq!(sessions.len(), 3, "{sessions:?}");
    assert!(
        sessions[0].starts_with("nix-daemon --some-option --stdio from 127.0.0.1"),
        "{sessions:?}"
    );
    assert!(
        sessions.iter().all(|session| *session == sessions[0]),
        "one connection: {sessions:?}"
    );
}

#[tokio::test]
async fn a_refusal_of_ssh_is_told_with_its_words() {
    let daemon = TestDaemon::start(NixVersion::NEWEST);
    let sshd = Sshd::start(&session(&daemon, daemon.scratch()));
    sshd.forget_keys();
    let error = remote(&sshd.uri("")).acquire().await.unwrap_err().to_string();
    assert!(
        error.starts_with("cannot reach store `far` (ssh-ng://127.0.0.1:"),
        "{error}"
    );
    assert!(error.contains("Permission denied (publickey"), "{error}");
    assert!(error.contains("ssh -oBatchMode=yes"), "{error}");

    // Another machine under the same address.
    let other = BASE64.encode(b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJfv8LKOVmTVqDwjQnJ2GmP3Zq5W2K2hX1bXQzq1Zq1Z");
    let uri = sshd.uri("").replace(
        &sshd.uri("")[sshd.uri("").find("&base64").unwrap()..],
        &format!("&base64-ssh-public-host-key={}", other.replace('=', "%3D")),
    );
    let error = remote(&uri).acquire().await.unwrap_err().to_string();
    assert!(error.contains("Host key verification failed"), "{error}");

    let uri = sshd.uri("");
    drop(sshd);
    let error = remote(&uri).acquire().await.unwrap_err().to_string();
    assert!(error.contains("Connection refused"), "{error}");
}
