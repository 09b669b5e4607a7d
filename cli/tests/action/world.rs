//! A real nix-daemon, a nixci daemon on it, and a flake to submit.

#![expect(clippy::expect_used, reason = "a test harness reports by panicking")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use nixci_store::testing::{NixVersion, Service, TestDaemon};
use tempfile::TempDir;

pub(crate) use crate::ran::Ran;

pub(crate) const NIXCI: &str = env!("CARGO_BIN_EXE_nixci");

/// Jobs that differ by the name of their world, whose builder needs nothing but /bin/sh.
const FLAKE: &str = r#"{
  outputs = { self }:
    let
      job = name: script: derivation {
        inherit name;
        system = "x86_64-linux";
        builder = "/bin/sh";
        args = [ "-c" "echo of @SALT@; ${script}" ];
      };
    in {
      checks.x86_64-linux = { a = job "a" "echo a > $out"; b = job "b" "echo b > $out"; };
      packages.x86_64-linux = { c = job "c" "echo c is broken; exit 1"; };
    };
}
"#;

/// One machine with everything on it.
pub(crate) struct World {
    pub(crate) nix: TestDaemon,
    pub(crate) service: Service,
    dir: TempDir,
}

impl World {
    /// A machine with these sections in the daemon's configuration.
    pub(crate) fn new(sections: &str) -> Self {
        Self::on(TestDaemon::start(NixVersion::NEWEST), "", sections)
    }

    /// A machine whose store paths are where they say, so that what was built can be run.
    pub(crate) fn in_place() -> Self {
        let nix = TestDaemon::builder(NixVersion::NEWEST).own_store_dir().start();
        let keys = format!("store_dir = \"{}\"", nix.store_dir());
        Self::on(nix, &keys, "")
    }

    fn on(nix: TestDaemon, keys: &str, sections: &str) -> Self {
        let store = format!("[[store]]\nname = \"near\"\nuri = \"{}\"\nslots = 2\n", nix.uri());
        let service = Service::with_keys(Path::new(NIXCI), keys, &format!("{store}{sections}"));
        let dir = tempfile::Builder::new()
            .prefix("nixci-action-")
            .tempdir()
            .expect("a temporary folder can be made");
        let world = Self { nix, service, dir };
        let salt = world
            .dir()
            .file_name()
            .expect("it has a name")
            .to_string_lossy()
            .into_owned();
        world.write("flake/flake.nix", &FLAKE.replace("@SALT@", &salt));
        world
    }

    /// A folder for files of the test: the workspace of its jobs.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Writes a file below it.
    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir().join(name);
        std::fs::create_dir_all(path.parent().expect("it is below a folder")).expect("a folder can be made");
        std::fs::write(&path, text).expect("a file can be written");
        path
    }

    /// The daemon's address.
    pub(crate) fn to(&self) -> String {
        format!("unix://{}", self.service.socket().display())
    }

    /// What a job of a CI finds in its environment, without what its CI says.
    pub(crate) fn environment(&self) -> BTreeMap<String, String> {
        let mut environment = self.nix.environment(&self.nix.uri());
        environment.insert("NO_COLOR".into(), "1".into());
        environment.insert("XDG_RUNTIME_DIR".into(), self.dir().join("run").display().to_string());
        environment
    }

    /// Runs the program.
    pub(crate) fn nixci(&self, args: &[&str]) -> Ran {
        let mut command = Command::new(NIXCI);
        command.args(args).current_dir(self.dir()).env_clear();
        command.envs(self.environment()).env("NIXCI_TO", self.to());
        command.stdin(Stdio::null()).output().expect("nixci starts").into()
    }
}
