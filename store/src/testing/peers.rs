//! Servers that others wrote: emulators of forges and of issuers of tokens, as `.ci/setup` installs them.

use std::fs::File;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::process::{poll_until, terminate};

/// A server on a loopback port of its own, stopped by process id when dropped.
#[derive(Debug)]
pub struct Peer {
    child: Child,
    port: u16,
    log: PathBuf,
}

/// The folder that `.ci/setup` installs these programs into, `node_modules` of the tests.
///
/// Panics when it is not there.
pub fn node_modules() -> PathBuf {
    let dir = super::cache_dir().join("peers/node_modules");
    assert!(dir.is_dir(), "{} is not there: run .ci/setup", dir.display());
    dir
}

/// Forgejo's own description of its API, as `.ci/setup` puts it there.
///
/// Panics when it is not there.
pub fn forgejo_contract() -> PathBuf {
    let file = super::cache_dir().join("forgejo-api.json");
    assert!(file.is_file(), "{} is not there: run .ci/setup", file.display());
    file
}

/// A loopback port that nobody uses now.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a loopback port is free");
    listener.local_addr().expect("it was bound").port()
}

/// A Node program of these, `emulate` for instance, to be given arguments.
pub fn node_program(name: &str) -> Command {
    let bin = node_modules().join(".bin");
    let mut command = Command::new(bin.join("node"));
    command.arg(bin.join(name));
    command
}

impl Peer {
    /// Starts a command that is to listen on `port`, with its output in a file of `folder`. Blocks until it accepts
    /// connections; panics with what it said when it ends before.
    pub fn start(mut command: Command, port: u16, folder: &Path) -> Self {
        let log = folder.join(format!("peer-{port}.log"));
        let file = File::create(&log).expect("the log can be made");
        let errors = file.try_clone().expect("a file can be opened twice");
        let mut child = command
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(errors)
            .spawn()
            .expect("the program starts: run .ci/setup");
        poll_until("a server of others", || {
            if let Ok(Some(status)) = child.try_wait() {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                panic!("{command:?} ended at once ({status}):\n{said}");
            }
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { child, port, log }
    }

    /// Where it listens, without a trailing slash.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it has said.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        terminate(&mut self.child);
    }
}
