//! What the tests run in: a real nix-daemon, a nixci daemon on it, and the program with a clean environment.

#![expect(clippy::expect_used, reason = "a test harness reports by panicking")]

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(crate) use crate::ran::Ran;

const NIXCI: &str = env!("CARGO_BIN_EXE_nixci");

/// One machine with everything on it.
pub(crate) struct World {
    pub(crate) nix: TestDaemon,
    runtime: Runtime,
    service: Option<Service>,
    dir: TempDir,
}

impl World {
    /// A machine without a running nixci daemon.
    pub(crate) fn quiet() -> Self {
        Self::quiet_on(TestDaemon::start(NixVersion::NEWEST))
    }

    /// A machine with this Nix and without a running nixci daemon.
    pub(crate) fn quiet_on(nix: TestDaemon) -> Self {
        Self {
            nix,
            runtime: Runtime::new().expect("a runtime can be made"),
            service: None,
            dir: tempfile::Builder::new()
                .prefix("nixci-cli-")
                .tempdir()
                .expect("a temporary folder can be made"),
        }
    }

    /// A machine with one, with four slots on that Nix.
    pub(crate) fn new() -> Self {
        let mut world = Self::quiet();
        world.service = Some(Service::start(Path::new(NIXCI), &[("near", &world.nix.uri(), 4)]));
        world
    }

    /// A machine with one, with these lines more in `listen` and these sections.
    pub(crate) fn with_settings(listen: &str, sections: &str) -> Self {
        let mut world = Self::quiet();
        let store = format!("[[store]]\nname = \"near\"\nuri = \"{}\"\nslots = 4\n", world.nix.uri());
        let sections = format!("{sections}{store}");
        world.service = Some(Service::with_settings(Path::new(NIXCI), listen, &sections));
        world
    }

    /// A machine whose store directory is another one.
    pub(crate) fn with_store_dir(nix: TestDaemon) -> Self {
        let keys = format!("store_dir = \"{}\"", nix.store_dir());
        let store = format!("[[store]]\nname = \"near\"\nuri = \"{}\"\nslots = 4\n", nix.uri());
        let mut world = Self::quiet_on(nix);
        world.service = Some(Service::with_keys(Path::new(NIXCI), &keys, &store));
        world
    }

    /// The daemon.
    pub(crate) fn service(&self) -> &Service {
        self.service.as_ref().expect("this world was made with a daemon")
    }

    /// A folder for files of the test, and the program's own.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The program, ready to run with these arguments.
    pub(crate) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(NIXCI);
        command.args(args).current_dir(self.dir()).env_clear();
        command.envs(self.nix.environment(&self.nix.uri()));
        command.env("NO_COLOR", "1").env("NIXCI_TO", self.socket());
        command.env("XDG_STATE_HOME", self.dir().join("state"));
        command.env("XDG_RUNTIME_DIR", self.dir().join("run"));
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// Where the daemon listens.
    pub(crate) fn socket(&self) -> PathBuf {
        match &self.service {
            Some(service) => service.socket(),
            None => self.dir().join("nobody/socket"),
        }
    }

    /// Runs the program to its end.
    pub(crate) fn nixci(&self, args: &[&str]) -> Ran {
        self.command(args).output().expect("nixci starts").into()
    }

    /// Runs it with something on standard input.
    pub(crate) fn nixci_with(&self, args: &[&str], input: &str) -> Ran {
        let mut child = self.command(args).stdin(Stdio::piped()).spawn().expect("nixci starts");
        if let Some(mut stdin) = child.stdin.take() {
            // A program that ends before it has read all says why on its own.
            let _ = stdin.write_all(input.as_bytes());
        }
        child.wait_with_output().expect("nixci ends").into()
    }

    /// Starts it and leaves it running.
    pub(crate) fn spawn(&self, args: &[&str]) -> Child {
        self.command(args).spawn().expect("nixci starts")
    }

    /// Waits for something asynchronous.
    pub(crate) fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Makes derivations, and a list of jobs with them.
    pub(crate) fn jobs(&self, salt: &str, derivations: &[TestDrv]) -> (String, BTreeMap<String, String>) {
        let paths = self.nix.instantiate(salt, derivations);
        let lines: Vec<String> = paths.iter().map(|(name, path)| format!("{name}\t{path}")).collect();
        let list = lines.join("\n") + "\n";
        (list, paths)
    }
}
