//! Which configuration the commands for an administrator take.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::process::{Command, Output};

/// Runs the daemon's program where `/etc` holds only this configuration. Needs root, for a mount namespace of its own.
fn run(config: Option<&str>, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    if let Some(config) = config {
        std::fs::create_dir(folder.path().join("nixci")).unwrap();
        std::fs::write(folder.path().join("nixci/nixci.toml"), config).unwrap();
    }
    Command::new("unshare")
        .args(["--mount", "sh", "-ec", r#"mount --bind "$0" /etc && exec "$@""#])
        .arg(folder.path())
        .arg(env!("CARGO_BIN_EXE_nixci-daemon"))
        .args(arguments)
        .env_remove("NIXCI_CONFIG")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8(both).unwrap()
}

#[test]
fn administration_takes_the_systems_configuration_where_it_exists() {
    let home = tempfile::tempdir().unwrap();
    let state = home.path().join("there");
    let config = format!("state_dir = {state:?}\n");

    let checked = run(Some(&config), &[], &["check-config"]);
    assert!(checked.status.success(), "{}", said(&checked));
    assert!(said(&checked).contains(state.to_str().unwrap()), "{}", said(&checked));

    let listed = run(Some(&config), &[], &["token", "list"]);
    let missing = format!("no state folder {}", state.display());
    assert!(said(&listed).contains(&missing), "{}", said(&listed));

    let silent = run(
        Some("[limits]\njobs = 5\n"),
        &[("XDG_RUNTIME_DIR", "/run/user/0")],
        &["check-config"],
    );
    let folders = "socket /run/nixci/socket, state /var/lib/nixci,";
    assert!(said(&silent).contains(folders), "{}", said(&silent));

    let wrong = run(Some("stat_dir = 1\n"), &[], &["check-config"]);
    assert!(!wrong.status.success());
    assert!(said(&wrong).contains("/etc/nixci/nixci.toml:1: "), "{}", said(&wrong));
}

#[test]
fn a_file_that_is_named_and_a_system_without_one_come_before_it() {
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("own.toml");
    std::fs::write(&file, "state_dir = \"/own\"\n").unwrap();
    let file = file.to_str().unwrap();
    let system = Some("state_dir = \"/system\"\n");

    for output in [
        run(system, &[], &["check-config", file]),
        run(system, &[], &["check-config", "--config", file]),
        run(system, &[("NIXCI_CONFIG", file)], &["check-config"]),
    ] {
        assert!(said(&output).contains("state /own,"), "{}", said(&output));
    }
    let of_user = run(None, &[("XDG_STATE_HOME", "/mine")], &["check-config"]);
    assert!(of_user.status.success(), "{}", said(&of_user));
    assert!(said(&of_user).contains("state /mine/nixci,"), "{}", said(&of_user));
}
