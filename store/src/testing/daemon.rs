//! A real `nix-daemon` on a store of its own.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use super::gate::Gate;
use super::process::{poll_until, stop};
use super::{NixVersion, TestDrv, expression};

/// How a [`TestDaemon`] is to be started.
#[derive(Debug)]
pub struct TestDaemonBuilder {
    version: NixVersion,
    root: Option<PathBuf>,
    own_store_dir: bool,
    store_dir: Option<String>,
    max_jobs: u32,
    config: String,
}

impl TestDaemonBuilder {
    /// How many builds each connection may run at once; 4 unless told.
    #[must_use]
    pub fn max_jobs(mut self, max_jobs: u32) -> Self {
        self.max_jobs = max_jobs;
        self
    }

    /// More lines for the daemon's `nix.conf`.
    #[must_use]
    pub fn config(mut self, lines: &str) -> Self {
        self.config.push_str(lines);
        self.config.push('\n');
        self
    }

    /// Serves the store below this folder, which is kept at the end, in place of a fresh one.
    #[must_use]
    pub fn root(mut self, root: &Path) -> Self {
        self.root = Some(root.to_owned());
        self
    }

    /// Gives it a store directory of its own in place of `/nix/store`, at its real place: no path of it is below
    /// a root.
    #[must_use]
    pub fn own_store_dir(mut self) -> Self {
        self.own_store_dir = true;
        self
    }

    /// Calls its store directory so in place of `/nix/store`. The objects stay below the root, in `nix/store`.
    #[must_use]
    pub fn store_dir(mut self, dir: &str) -> Self {
        self.store_dir = Some(dir.to_owned());
        self
    }

    /// Starts it and waits until it accepts connections.
    pub fn start(self) -> TestDaemon {
        let home = tempfile::Builder::new()
            .prefix("nixci-")
            .tempdir()
            .expect("a temporary folder can be made");
        let root = self.root.unwrap_or_else(|| home.path().join("root"));
        for dir in [&root, &home.path().join("gates"), &home.path().join("home")] {
            fs::create_dir_all(dir).expect("a folder can be made in the temporary folder");
        }
        fs::write(home.path().join("ssh_config"), "").expect("a file can be made in the temporary folder");
        let config = format!(
            "build-users-group =\nsubstituters =\nexperimental-features = nix-command flakes\nsandbox = true\n\
             sandbox-paths = /bin/sh=/usr/bin/busybox /gates={}\nsandbox-fallback = false\nmax-jobs = {}\n{}",
            home.path().join("gates").display(),
            self.max_jobs,
            self.config
        );
        let own = self.own_store_dir.then(|| home.path().join("own/store"));
        let store_dir = match (&own, self.store_dir) {
            (Some(own), _) => Some(own.display().to_string()),
            (None, given) => given,
        };
        let daemon = TestDaemon {
            version: self.version,
            home,
            root,
            store_dir,
            is_in_place: own.is_some(),
            config,
            process: Mutex::new(None),
        };
        daemon.start_again();
        daemon
    }
}

/// A real `nix-daemon` with its own store root, socket and log, stopped by process id when dropped.
#[derive(Debug)]
pub struct TestDaemon {
    version: NixVersion,
    home: TempDir,
    root: PathBuf,
    /// Where it is not `/nix/store`.
    store_dir: Option<String>,
    /// Whether objects are where their paths say, and not below the root.
    is_in_place: bool,
    config: String,
    process: Mutex<Option<Child>>,
}

impl TestDaemon {
    /// Starts a daemon of this version on a fresh store. Blocks until it accepts connections.
    pub fn start(version: NixVersion) -> Self {
        Self::builder(version).start()
    }

    /// Like [`start`](Self::start), with settings.
    pub fn builder(version: NixVersion) -> TestDaemonBuilder {
        TestDaemonBuilder {
            version,
            root: None,
            own_store_dir: false,
            store_dir: None,
            max_jobs: 4,
            config: String::new(),
        }
    }

    /// Its version.
    pub fn version(&self) -> NixVersion {
        self.version
    }

    /// The root of its store: the objects are in `nix/store` below it.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A folder for files of the test, removed with the daemon.
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// Its store directory, as it is written in paths.
    pub fn store_dir(&self) -> &str {
        self.store_dir.as_deref().unwrap_or("/nix/store")
    }

    /// The store URI by which stock Nix and [`StoreUri`](crate::remote::StoreUri) reach it.
    pub fn uri(&self) -> String {
        self.uri_at(&self.socket())
    }

    /// The store URI for somebody else's socket in front of the same files: how a client that shares the disk
    /// names a daemon that fronts this one.
    pub fn uri_at(&self, socket: &Path) -> String {
        let socket = socket.display();
        if self.is_in_place {
            return format!("unix://{socket}");
        }
        format!("unix://{socket}?root={}", self.root.display())
    }

    /// The URI of the same store without the daemon: `local?root=…`.
    pub fn local_uri(&self) -> String {
        if self.is_in_place {
            return "local".to_owned();
        }
        format!("local?root={}", self.root.display())
    }

    /// The file that corresponds to a path in the store directory.
    pub fn physical(&self, store_path: &str) -> PathBuf {
        if self.is_in_place {
            return PathBuf::from(store_path);
        }
        match store_path.strip_prefix(self.store_dir()) {
            Some(rest) => self.root.join("nix/store").join(rest.trim_start_matches('/')),
            None => self.root.join(store_path.trim_start_matches('/')),
        }
    }

    /// The file that this daemon and its commands have in place of a user's `~/.ssh/config`.
    pub fn ssh_config(&self) -> PathBuf {
        self.home.path().join("ssh_config")
    }

    /// What the daemon printed so far.
    pub fn log(&self) -> String {
        fs::read(self.home.path().join("log"))
            .map(|log| String::from_utf8_lossy(&log).into_owned())
            .unwrap_or_default()
    }

    /// The settings it runs with, as a `NIX_CONFIG`.
    pub fn config(&self) -> &str {
        &self.config
    }

    /// The variables a stock client or a further daemon of this version needs; variables of Nix that are not listed
    /// must be absent.
    pub fn environment(&self, remote: &str) -> BTreeMap<String, String> {
        let path = std::env::var("PATH").unwrap_or_default();
        let home = self.home.path().join("home").display().to_string();
        let own = self.home.path().join("own");
        let store_dir = self.store_dir.iter().map(|dir| ("NIX_STORE_DIR", dir.clone()));
        let state = [("NIX_STATE_DIR", "state"), ("NIX_LOG_DIR", "log")];
        let state = state.map(|(name, dir)| (name, own.join(dir).display().to_string()));
        let state = state.into_iter().filter(|_| self.is_in_place);
        [
            ("PATH", format!("{}:{path}", self.version.bin_dir().display())),
            ("HOME", home.clone()),
            ("XDG_CACHE_HOME", format!("{home}/.cache")),
            ("XDG_CONFIG_HOME", format!("{home}/.config")),
            ("XDG_DATA_HOME", format!("{home}/.local/share")),
            ("XDG_STATE_HOME", format!("{home}/.local/state")),
            ("NIX_CONFIG", self.config.clone()),
            ("NIX_REMOTE", remote.to_owned()),
            // What the user of this machine has in the home does not matter here.
            ("NIX_SSHOPTS", format!("-F{}", self.ssh_config().display())),
        ]
        .into_iter()
        .chain(store_dir)
        .chain(state)
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
    }

    /// A stock program of the same version, with this daemon's settings, whose store is the one named.
    pub fn command_at(&self, program: &str, remote: &str) -> Command {
        let mut command = Command::new(self.version.program(program));
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("NIX_") {
                command.env_remove(name);
            }
        }
        command.envs(self.environment(remote)).stdin(Stdio::null());
        command
    }

    /// A stock program (`nix`, `nix-store`, …) of the same version that talks to this daemon.
    pub fn command(&self, program: &str) -> Command {
        self.command_at(program, &self.uri())
    }

    /// A stock program of the same version that opens the same store without the daemon.
    pub fn local_command(&self, program: &str) -> Command {
        self.command_at(program, &self.local_uri())
    }

    /// Runs a stock program against this daemon and returns what it printed; panics with its errors when it fails.
    pub fn run(&self, program: &str, arguments: &[&str]) -> String {
        let output = self.output(program, arguments);
        assert!(
            output.status.success(),
            "{program} {arguments:?} of Nix {} failed: {}\n{}",
            self.version,
            String::from_utf8_lossy(&output.stderr),
            self.log()
        );
        String::from_utf8(output.stdout).expect("Nix prints UTF-8")
    }

    /// Runs a stock program against this daemon, whatever comes of it.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Output {
        self.command(program)
            .args(arguments)
            .output()
            .expect("the program starts")
    }

    /// Instantiates derivations in this daemon's store: name to full path of the `.drv`.
    pub fn instantiate(&self, salt: &str, derivations: &[TestDrv]) -> BTreeMap<String, String> {
        self.instantiate_text(&expression(salt, derivations))
    }

    /// Instantiates an expression whose value is a set of derivations: attribute to full path of the `.drv`.
    pub fn instantiate_text(&self, text: &str) -> BTreeMap<String, String> {
        let file = self.home.path().join("expression.nix");
        fs::write(&file, text).expect("the expression can be written");
        let apply = format!(
            "builtins.mapAttrs (_: d: builtins.unsafeDiscardStringContext d.drvPath) (import {})",
            file.display()
        );
        let printed = self.run(
            "nix-instantiate",
            &["--eval", "--strict", "--json", "--read-write-mode", "--expr", &apply],
        );
        serde_json::from_str(&printed).expect("nix-instantiate prints a JSON object of paths")
    }

    /// A gate for derivations that [wait at it](TestDrv::gate).
    pub fn gate(&self, name: &str) -> Gate {
        Gate::new(self.home.path().join("gates").join(name))
    }

    /// Kills the daemon, all its connections and all its builds, at once and without warning.
    pub fn kill9(&self) {
        if let Some(mut child) = self.process.lock().expect("nobody panics while holding this").take() {
            stop(&mut child);
        }
    }

    /// Starts it on the same store and socket, after [`kill9`](Self::kill9). Blocks until it accepts connections.
    pub fn start_again(&self) {
        self.kill9();
        let _ = fs::remove_file(self.socket());
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join("log"))
            .expect("the daemon's log can be opened");
        let child = self
            .local_command("nix-daemon")
            .env("NIX_DAEMON_SOCKET_PATH", self.socket())
            .stdout(log.try_clone().expect("a file can be opened twice"))
            .stderr(log)
            .spawn()
            .expect("nix-daemon starts");
        let process = &mut *self.process.lock().expect("nobody panics while holding this");
        let child = process.insert(child);
        let stream = poll_until(&format!("nix-daemon {} to accept connections", self.version), || {
            if let Ok(Some(status)) = child.try_wait() {
                panic!("nix-daemon {} ended at once, {status}: {}", self.version, self.log());
            }
            UnixStream::connect(self.socket()).ok()
        });
        let greeted = greet(stream);
        greeted.unwrap_or_else(|error| panic!("nix-daemon {}: {error}: {}", self.version, self.log()));
    }

    /// The process id of the listening daemon, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process
            .lock()
            .expect("nobody panics while holding this")
            .as_ref()
            .map(Child::id)
    }
}

/// A handshake of protocol 1.21 to its end, at which the store is open: the first connections to a fresh store, when they come
/// at the same time, may find its database busy.
fn greet(mut stream: UnixStream) -> io::Result<()> {
    let word = |number: u64| number.to_le_bytes();
    let mut magic_and_version = [0; 16];
    stream.write_all(&word(0x6e69_7863))?;
    stream.read_exact(&mut magic_and_version)?;
    stream.write_all(&[word(0x115), word(0), word(0)].concat())?;
    let mut last = [0; 8];
    stream.read_exact(&mut last)?;
    if last == word(0x616c_7473) {
        Ok(())
    } else {
        Err(io::Error::other("the handshake ended in an error"))
    }
}

impl Drop for TestDaemon {
    fn drop(&mut self) {
        // A poisoned lock means a panic on the way here; the process must end all the same.
        let process = self
            .process
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(mut child) = process.take() {
            stop(&mut child);
        }
        remove_tree(self.home.path());
    }
}

/// Removes a folder with what a Nix store makes of it: read-only folders.
pub(super) fn remove_tree(dir: &Path) {
    make_writable(dir);
    let _ = fs::remove_dir_all(dir);
}

fn make_writable(dir: &Path) {
    use std::os::unix::fs::PermissionsExt;
    let _ = fs::set_permissions(dir, fs::Permissions::from_mode(0o755));
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            make_writable(&entry.path());
        }
    }
}
