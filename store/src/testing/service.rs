//! A real `nixci-daemon` process in front of real stores.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::process::{poll_until, terminate};

/// A `nixci-daemon` with its own socket, state and log, stopped by process id when dropped.
#[derive(Debug)]
pub struct Service {
    program: PathBuf,
    home: TempDir,
    process: Mutex<Option<Child>>,
    environment: Vec<(String, String)>,
}

impl Service {
    /// Starts the program `nixci-daemon` beside `sibling` (a binary of the same build) on the stores given as
    /// (name, URI, slots). Blocks until it accepts connections.
    pub fn start(sibling: &Path, stores: &[(&str, &str, u32)]) -> Self {
        let mut config = String::new();
        for (name, uri, slots) in stores {
            let _ = write!(config, "[[store]]\nname = {name:?}\nuri = {uri:?}\nslots = {slots}\n");
        }
        Self::with_config(sibling, &config)
    }

    /// As [`start`](Self::start), with these sections in the configuration beside `state_dir` and `listen`.
    pub fn with_config(sibling: &Path, sections: &str) -> Self {
        Self::with_keys(sibling, "", sections)
    }

    /// As [`with_config`](Self::with_config), with these lines more in `listen`.
    pub fn with_settings(sibling: &Path, listen: &str, sections: &str) -> Self {
        Self::with_keys(sibling, "", &format!("{listen}{sections}"))
    }

    /// As [`with_config`](Self::with_config), with these variables more in its environment.
    pub fn with_environment(sibling: &Path, sections: &str, environment: &[(&str, &str)]) -> Self {
        Self::make(sibling, "", sections, environment)
    }

    /// As [`with_config`](Self::with_config), with lines above all tables too. Keys in front of the first section go
    /// to `[listen]`.
    pub fn with_keys(sibling: &Path, keys: &str, sections: &str) -> Self {
        Self::make(sibling, keys, sections, &[])
    }

    fn make(sibling: &Path, keys: &str, sections: &str, environment: &[(&str, &str)]) -> Self {
        let home = tempfile::Builder::new()
            .prefix("nixci-service-")
            .tempdir()
            .expect("a temporary folder can be made");
        let config = format!(
            "{keys}\nstate_dir = \"{}\"\n[listen]\nsocket = \"{}\"\nhttp = \"127.0.0.1:0\"\n{sections}",
            home.path().join("state").display(),
            home.path().join("socket").display(),
        );
        fs::write(home.path().join("nixci.toml"), config).expect("the configuration can be written");
        let program = sibling.with_file_name("nixci-daemon");
        assert!(
            program.exists(),
            "{} is missing: build the whole workspace first (make test does)",
            program.display()
        );
        let service = Self {
            program,
            home,
            process: Mutex::new(None),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        };
        service.start_again();
        service
    }

    /// A folder for files of the test, removed with the service.
    pub fn scratch(&self) -> &Path {
        self.home.path()
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.home.path().join("socket")
    }

    /// Where it answers HTTP. Blocks until it does: its socket is there before its port.
    pub fn http(&self) -> SocketAddr {
        let file = self.home.path().join("state/http-port");
        poll_until("the HTTP port of nixci-daemon", || {
            let port = fs::read_to_string(&file).ok()?.trim().parse().ok()?;
            let address = SocketAddr::from(([127, 0, 0, 1], port));
            TcpStream::connect(address).ok().map(|_| address)
        })
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.home.path().join("nixci.toml")
    }

    /// What it has logged, over all its starts.
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }

    /// A command of the same build, such as `nixci`, that talks to this service and finds no other.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.program.with_file_name(program));
        command
            .env("NIXCI_TO", self.socket())
            .env("XDG_RUNTIME_DIR", self.home.path())
            .env("NO_COLOR", "1")
            .stdin(Stdio::null());
        command
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.process
            .lock()
            .expect("no test panicked with this lock")
            .as_ref()
            .map(Child::id)
    }

    /// The most memory it has had resident since it was started, in MiB; 0 when it does not run.
    pub fn peak_mib(&self) -> u64 {
        let status = self
            .pid()
            .and_then(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok());
        let kib = status.as_deref().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("VmHWM:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        });
        kib.unwrap_or_default() / 1024
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill9(&self) {
        if let Some(mut child) = self.process.lock().expect("no test panicked with this lock").take() {
            let _ = kill_process(Pid::from_child(&child), Signal::KILL);
            child.wait().expect("a killed child can be waited for");
        }
    }

    /// SIGTERM, and waits until it is gone; SIGKILL after a minute.
    pub fn stop(&self) {
        if let Some(mut child) = self.process.lock().expect("no test panicked with this lock").take() {
            terminate(&mut child);
        }
    }

    /// Starts it on the same state. Blocks until it accepts connections; panics with its log when it ends before.
    pub fn start_again(&self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.home.path().join("log"))
            .expect("the log can be opened");
        let mut child = Command::new(&self.program)
            .arg("--config")
            .arg(self.config())
            .env("HOME", self.home.path())
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("nixci-daemon starts");
        let socket = self.socket();
        poll_until("the socket of nixci-daemon", || {
            assert!(
                matches!(child.try_wait(), Ok(None)),
                "nixci-daemon ended at once:\n{}",
                self.log()
            );
            UnixStream::connect(&socket).ok()
        });
        *self.process.lock().expect("no test panicked with this lock") = Some(child);
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.stop();
        // A test that fails says already why.
        if !std::thread::panicking() {
            let leak = super::secrets::leak(&self.log());
            assert!(
                leak.is_none(),
                "the log of nixci-daemon tells a secret: {}",
                leak.unwrap_or_default()
            );
        }
    }
}
