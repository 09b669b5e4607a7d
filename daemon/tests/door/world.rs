//! nixci as a process of its own in front of a real store, and a stock client with another store.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::{connect, log};
use nixci_protocol::nixci::control::LogOf;
use nixci_protocol::nixci::outcome::Outcome;
use nixci_store::testing::{NixVersion, Service, Sshd, TestDaemon};

/// How long a stock client may take for one command.
const PATIENCE: &str = "240";

/// A store behind nixci, and a stock client whose own store is another one.
pub(crate) struct World {
    pub(crate) nixci: Service,
    pub(crate) store: TestDaemon,
    pub(crate) client: TestDaemon,
}

impl World {
    /// Both of this version, uploads to the spool.
    pub(crate) fn new(version: NixVersion) -> Self {
        Self::of(TestDaemon::start(version), TestDaemon::start(version), "")
    }

    /// With these keys in `[listen]`, or above the tables: a line `store_dir = …` goes to the top.
    pub(crate) fn of(store: TestDaemon, client: TestDaemon, keys: &str) -> Self {
        let nixci = front(&store, keys);
        Self { nixci, store, client }
    }

    /// `unix://`, for a client that does not share the disk.
    pub(crate) fn socket(&self) -> String {
        format!("unix://{}", self.nixci.socket().display())
    }

    /// `unix://`, for a client that sees the files of the store behind.
    pub(crate) fn shared(&self) -> String {
        self.store.uri_at(&self.nixci.socket())
    }

    /// `ssh-ng://localhost?remote-program=…`: a program in place of ssh.
    pub(crate) fn pipe(&self) -> String {
        format!(
            "ssh-ng://localhost?remote-program={}",
            program(&self.nixci, "").display()
        )
    }

    /// A real sshd with a forced command, and how the client names it.
    pub(crate) fn sshd(&self) -> (Sshd, String) {
        sshd(&self.nixci, &self.client)
    }

    /// Runs a stock program of the client's version on the client's own store; panics with its errors.
    pub(crate) fn run(&self, program: &str, arguments: &[&str]) -> String {
        ran(self.client.command(program).args(arguments), &self.nixci)
    }

    /// Builds in the client's own store: the outputs.
    pub(crate) fn build_at_client(&self, drv: &str) -> String {
        self.run("nix-store", &["--realise", drv]).trim().to_owned()
    }
}

/// A real sshd whose forced command is nixci, and how a client names it.
pub(crate) fn sshd(nixci: &Service, client: &TestDaemon) -> (Sshd, String) {
    let sshd = Sshd::start(&program(nixci, "").display().to_string());
    let uri = match client.version() {
        // They take a port for a part of the name.
        NixVersion::V2_8 | NixVersion::V2_26 => {
            let host = format!("nixci-{}", nixci.pid().unwrap());
            sshd.known_as(&host, client);
            // A parameter of no effect, so that more can follow.
            format!("ssh-ng://{host}?remote-program=nix-daemon")
        }
        NixVersion::V2_34 => sshd.uri(""),
    };
    (sshd, uri)
}

/// nixci in front of one store, with lines for its configuration.
pub(crate) fn front(store: &TestDaemon, keys: &str) -> Service {
    let (top, listen): (Vec<&str>, Vec<&str>) = keys.lines().partition(|line| line.starts_with("store_dir"));
    let uri = store.uri();
    // Sections follow the keys of [listen] that the harness writes.
    let sections = format!(
        "{}\n[[store]]\nname = \"behind\"\nuri = \"{uri}\"\nslots = 4\n",
        listen.join("\n"),
    );
    Service::with_keys(
        Path::new(env!("CARGO_BIN_EXE_nixci-daemon")),
        &top.join("\n"),
        &sections,
    )
}

/// The program that an ssh session runs, with arguments of ours before those of the client.
pub(crate) fn program(nixci: &Service, arguments: &str) -> PathBuf {
    // Old clients take the program as one word, so that its arguments have to be in a file.
    let name: String = arguments.chars().filter(char::is_ascii_alphanumeric).collect();
    let file = nixci.scratch().join(format!("remote{name}"));
    let script = format!(
        "#!/bin/sh\nNIXCI_SOCKET={} exec {} stdio {arguments} \"$@\"\n",
        nixci.socket().display(),
        env!("CARGO_BIN_EXE_nixci-daemon")
    );
    std::fs::write(&file, script).unwrap();
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    file
}

/// Runs a command that must succeed, and returns what it printed.
pub(crate) fn ran(command: &mut Command, nixci: &Service) -> String {
    let output = output(command);
    assert!(
        output.status.success(),
        "{}: {}\n{}\nnixci: {}",
        shown(command),
        output.status,
        String::from_utf8_lossy(&output.stderr),
        nixci.log()
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Runs a command that must fail, and returns what it said.
pub(crate) fn failed(command: &mut Command) -> String {
    let output = output(command);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success(), "{}: {said}", shown(command));
    assert!(output.status.code() != Some(124), "{} hangs: {said}", shown(command));
    said
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What a command did, ended when it takes too long.
pub(crate) fn output(command: &mut Command) -> Output {
    let mut bounded = Command::new("timeout");
    bounded
        .arg(PATIENCE)
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bounded.env(name, value),
            None => bounded.env_remove(name),
        };
    }
    if let Some(dir) = command.get_current_dir() {
        bounded.current_dir(dir);
    }
    bounded.stdin(std::process::Stdio::null()).output().unwrap()
}

/// The paths a command printed, one a line.
pub(crate) fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

/// How a version spells all outputs of a derivation.
pub(crate) fn all_outputs(version: NixVersion, drv: &str) -> String {
    crate::client::all_outputs(version, drv)
}

/// What nixci remembers that a derivation printed, and how that ended.
pub(crate) fn remembered(nixci: &Service, drv: &str) -> (Vec<String>, Option<Outcome>) {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let mut connection = connect(&nixci.socket()).await;
        log(&mut connection, LogOf::Derivation(drv.to_owned()), false).await
    })
}
