//! A daemon started as a service manager starts it.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nixci_store::testing::{poll_until, terminate};
use rustix::process::{Pid, Signal, kill_process};

/// A folder with a configuration, and perhaps sockets that outlive the daemon.
pub(crate) struct World {
    home: tempfile::TempDir,
    socket: Option<UnixListener>,
    http: Option<TcpListener>,
    environment: Vec<(String, String)>,
}

/// A daemon's process, ended by its id when dropped.
pub(crate) struct Process(pub(crate) Child);

impl World {
    /// With these lines in the configuration behind `socket` in `[listen]`.
    pub(crate) fn new(sections: &str) -> Self {
        let world = Self {
            home: tempfile::tempdir().unwrap(),
            socket: None,
            http: None,
            environment: Vec::new(),
        };
        world.configure(sections);
        world
    }

    /// Holds a Unix socket and one for HTTP, and passes them to every daemon it starts.
    pub(crate) fn holding(mut self) -> Self {
        self.socket = Some(UnixListener::bind(self.socket()).unwrap());
        self.http = Some(TcpListener::bind("127.0.0.1:0").unwrap());
        self
    }

    /// Sets a variable of the daemons it starts.
    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Writes the configuration anew.
    pub(crate) fn configure(&self, sections: &str) {
        let text = format!(
            "state_dir = \"{}\"\n[listen]\nsocket = \"{}\"\n{sections}",
            self.home.path().join("state").display(),
            self.socket().display()
        );
        std::fs::write(self.config(), text).unwrap();
    }

    pub(crate) fn home(&self) -> &Path {
        self.home.path()
    }

    pub(crate) fn config(&self) -> PathBuf {
        self.home.path().join("nixci.toml")
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// Where HTTP is answered: at the socket that is held, else where the daemon wrote it.
    pub(crate) fn http(&self) -> SocketAddr {
        if let Some(http) = &self.http {
            return http.local_addr().unwrap();
        }
        let file = self.home.path().join("state/http-port");
        poll_until("the HTTP port", || {
            let port = std::fs::read_to_string(&file).ok()?.trim().parse().ok()?;
            Some(SocketAddr::from(([127, 0, 0, 1], port)))
        })
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// How often the daemons have said this.
    pub(crate) fn said(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Waits until a daemon has said this so many times over all starts.
    pub(crate) fn wait_for(&self, text: &str, times: usize) {
        poll_until(&format!("`{text}` in {}", self.config().display()), || {
            (self.said(text) >= times).then_some(())
        });
    }

    /// Starts a daemon, with the sockets that are held as file descriptors 3 and 4. Does not wait for it.
    pub(crate) fn spawn(&self) -> Process {
        self.spawn_named("socket:http")
    }

    /// As [`spawn`](Self::spawn), with other names for the sockets.
    pub(crate) fn spawn_named(&self, names: &str) -> Process {
        // A shell moves them into place and becomes the daemon, so that LISTEN_PID is right.
        let passing = r#"LISTEN_PID=$$ LISTEN_FDS=2 exec "$0" "$@" 3<&0 4>&1 0</dev/null 1>/dev/null"#;
        let program = env!("CARGO_BIN_EXE_nixci-daemon");
        let mut command = if let (Some(socket), Some(http)) = (&self.socket, &self.http) {
            let mut command = Command::new("sh");
            command
                .args(["-c", passing, program])
                .stdin(OwnedFd::from(socket.try_clone().unwrap()))
                .stdout(OwnedFd::from(http.try_clone().unwrap()))
                .env("LISTEN_FDNAMES", names);
            command
        } else {
            let mut command = Command::new(program);
            command.stdin(Stdio::null()).stdout(Stdio::null());
            command
        };
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join("log"));
        command
            .arg("--config")
            .arg(self.config())
            .env_remove("NIXCI_CONFIG")
            .env("HOME", self.home.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stderr(log.unwrap());
        Process(command.spawn().unwrap())
    }

    /// Starts a daemon and waits until it listens.
    pub(crate) fn start(&self) -> Process {
        let before = self.said("listening on");
        let process = self.spawn();
        self.wait_for("listening on", before + 1);
        process
    }

    /// Starts a daemon without a configuration, as a user does by hand, and waits until it listens.
    pub(crate) fn start_per_user(&self) -> Process {
        let log = File::create(self.home.path().join("log")).unwrap();
        let process = Command::new(env!("CARGO_BIN_EXE_nixci-daemon"))
            .env_remove("NIXCI_CONFIG")
            .env("HOME", self.home.path())
            .env("XDG_RUNTIME_DIR", self.home.path())
            .env("XDG_STATE_HOME", self.home.path())
            .env("NIX_REMOTE", "unix:///nowhere")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        let process = Process(process.unwrap());
        self.wait_for("listening on", 1);
        process
    }

    /// Starts a daemon that ends by itself: how it ended, and what it said.
    pub(crate) fn refused(&self, names: &str) -> (ExitStatus, String) {
        let before = self.log().len();
        let mut process = self.spawn_named(names);
        let status = poll_until("the end of the daemon", || process.0.try_wait().unwrap());
        (status, self.log()[before..].to_owned())
    }
}

impl Process {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// SIGTERM, and waits for the end.
    pub(crate) fn stop(mut self) {
        terminate(&mut self.0);
    }

    /// `kill -9`, and waits for the end.
    pub(crate) fn kill9(mut self) {
        self.signal(Signal::KILL);
        self.0.wait().unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        terminate(&mut self.0);
    }
}
