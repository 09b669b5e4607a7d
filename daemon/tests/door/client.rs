//! Stock clients, and how they reach the daemon.

use std::path::Path;
use std::process::Output;

use nixci_store::testing::{NixVersion, TestDaemon};

/// The program that stock clients start in place of ssh.
pub(crate) fn remote_program(home: &Path, socket: &Path) -> String {
    // Old clients take the program as one word, so that its arguments have to be in a file.
    let program = home.join("remote");
    let script = format!(
        "#!/bin/sh\nNIXCI_SOCKET={} exec {} stdio \"$@\"\n",
        socket.display(),
        env!("CARGO_BIN_EXE_nixci-daemon")
    );
    executable(&program, &script);
    format!("ssh-ng://localhost?remote-program={}", program.display())
}

/// Writes a program.
pub(crate) fn executable(file: &Path, text: &str) {
    std::fs::write(file, text).unwrap();
    std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}

/// Runs a stock `nix` whose own store is the evaluator's.
pub(crate) async fn nix(evaluator: &TestDaemon, arguments: &[&str]) -> Output {
    let mut command = evaluator.command("nix");
    command.args(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap())
        .await
        .unwrap()
}

pub(crate) async fn succeeds(evaluator: &TestDaemon, arguments: &[&str]) -> String {
    let output = nix(evaluator, arguments).await;
    assert!(
        output.status.success(),
        "nix {arguments:?}: {}\ndaemon: {}",
        String::from_utf8_lossy(&output.stderr),
        evaluator.log()
    );
    String::from_utf8(output.stdout).unwrap()
}

/// How a version spells all outputs of a derivation.
pub(crate) fn all_outputs(version: NixVersion, drv: &str) -> String {
    match version {
        NixVersion::V2_8 => drv.to_owned(),
        NixVersion::V2_26 | NixVersion::V2_34 => format!("{drv}^*"),
    }
}
