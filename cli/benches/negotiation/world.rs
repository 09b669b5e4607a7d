//! The recorded graph at the client, and daemons that have nothing or the base of it.

use std::cell::OnceCell;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nixci_store::testing::recorded::{self, Recorded, Set};
use nixci_store::testing::{NixVersion, Service, TestDaemon};
use serde_json::Value;
use tempfile::TempDir;

use crate::Outcome;
use crate::proxy::{Link, Proxy};
use crate::wire::Figures;

const STOCK: NixVersion = NixVersion::V2_34;
/// Paths in the closure of the base's roots.
pub(crate) const BASE: u64 = 28_240;
/// Paths in the closure of the head's roots that are not in that of the base's.
pub(crate) const NEW: u64 = 1_478;

/// Who receives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Stock,
    Nixci,
}

/// What a daemon has at first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Holds {
    Nothing,
    /// The closure of the base, copied as two sets of roots, so that it has not seen the whole set.
    Base,
}

/// A receiving daemon.
pub(crate) enum Peer {
    Stock(TestDaemon),
    Nixci(Service),
}

impl Peer {
    pub(crate) fn socket(&self) -> PathBuf {
        match self {
            Self::Stock(daemon) => daemon.socket(),
            Self::Nixci(service) => service.socket(),
        }
    }

    /// Counts what a client sends over this link, and times it. The client is given the socket it is to use.
    pub(crate) fn measure(&self, link: Link, client: impl FnOnce(&Path) -> Outcome<()>) -> Outcome<Figures> {
        let proxy = Proxy::start(&self.socket(), link)?;
        let began = Instant::now();
        client(&proxy.socket())?;
        let wall = began.elapsed().as_secs_f64();
        Ok(Figures::new(&proxy.finish()?, wall))
    }
}

/// The client's side, and what daemons begin with.
pub(crate) struct World {
    pub(crate) recorded: Recorded,
    /// For its programs, its settings and its variables.
    pub(crate) client: TestDaemon,
    /// Roots, one a line.
    pub(crate) base: String,
    pub(crate) head: String,
    /// Below it the folders of daemons that have the base: `stock` and `nixci`.
    saved: TempDir,
    unchanging: OnceCell<Peer>,
}

impl World {
    pub(crate) fn new() -> Outcome<Self> {
        let recorded = recorded::whole();
        let lines = |set| recorded.roots(set).join("\n") + "\n";
        let world = Self {
            base: lines(Set::Base),
            head: lines(Set::Head),
            client: TestDaemon::start(STOCK),
            saved: tempfile::Builder::new().prefix("nixci-bench-").tempdir()?,
            unchanging: OnceCell::new(),
            recorded,
        };
        for side in [Side::Stock, Side::Nixci] {
            let peer = world.peer(side, Holds::Nothing)?;
            peer.measure(Link::Loopback, |socket| {
                let (half, rest) = halves(&world.base);
                let first = world.copy(side, &unix(socket), half)?;
                let second = world.copy(side, &unix(socket), rest)?;
                expect(first.zip(second).map(|(a, b)| a + b), BASE)
            })?;
            world.save(&peer)?;
        }
        Ok(world)
    }

    /// A running daemon on state of its own.
    pub(crate) fn peer(&self, side: Side, holds: Holds) -> Outcome<Peer> {
        match side {
            Side::Stock => {
                let daemon = TestDaemon::start(STOCK);
                if holds == Holds::Base {
                    daemon.kill9();
                    // Nix never writes to the objects themselves, so that links will do for them.
                    replace(
                        &self.saved.path().join("stock"),
                        daemon.root(),
                        &["--link"],
                        "nix/store",
                    )?;
                    replace(&self.saved.path().join("stock"), daemon.root(), &[], "nix/var")?;
                    daemon.start_again();
                }
                Ok(Peer::Stock(daemon))
            }
            Side::Nixci => {
                let uri = self.client.uri();
                let sections = format!("[[store]]\nname = \"bench\"\nuri = {uri:?}\nslots = 4\n");
                let service = Service::with_config(Path::new(env!("CARGO_BIN_EXE_nixci")), &sections);
                if holds == Holds::Base {
                    service.stop();
                    replace(&self.saved.path().join("nixci"), service.scratch(), &[], "state")?;
                    service.start_again();
                }
                Ok(Peer::Nixci(service))
            }
        }
    }

    /// A nix-daemon that has the base, for those who do not change it: making one takes longer than what they do.
    pub(crate) fn unchanging(&self) -> Outcome<&Peer> {
        if let Some(peer) = self.unchanging.get() {
            return Ok(peer);
        }
        let peer = self.peer(Side::Stock, Holds::Base)?;
        Ok(self.unchanging.get_or_init(|| peer))
    }

    /// Keeps what a daemon has for those that are to begin with it. The daemon is stopped.
    fn save(&self, peer: &Peer) -> Outcome<()> {
        match peer {
            Peer::Stock(daemon) => {
                daemon.kill9();
                replace(daemon.root(), &self.saved.path().join("stock"), &[], "nix")
            }
            Peer::Nixci(service) => {
                service.stop();
                replace(service.scratch(), &self.saved.path().join("nixci"), &[], "state")
            }
        }
    }

    /// A program of Nix on the client's store.
    pub(crate) fn nix(&self, program: &str) -> Command {
        self.client.command_at(program, &self.recorded.uri())
    }

    /// The copying of a side, of these roots (one a line) to a store: how many paths it sent, where it says so.
    pub(crate) fn copy(&self, side: Side, to: &str, roots: &str) -> Outcome<Option<u64>> {
        let mut command = match side {
            Side::Stock => {
                let mut command = self.nix("nix");
                command.args(["copy", "--derivation", "--stdin", "--to", to]);
                command
            }
            Side::Nixci => {
                let mut command = Command::new(env!("CARGO_BIN_EXE_nixci"));
                command.envs(self.client.environment(&self.recorded.uri()));
                command.args(["copy", "--stdin", "--json", "--to", to]);
                command
            }
        };
        let output = fed(&mut command, roots)?;
        match side {
            Side::Stock => Ok(None),
            Side::Nixci => {
                let done: Value = serde_json::from_slice(&output)?;
                Ok(done["copied"].as_u64())
            }
        }
    }
}

/// How a client names a socket.
pub(crate) fn unix(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}

/// Fails where other than so many paths were sent; a count that is not told is taken on trust.
pub(crate) fn expect(sent: Option<u64>, expected: u64) -> Outcome<()> {
    match sent {
        Some(sent) if sent != expected => Err(format!("{sent} paths were sent, and {expected} are expected").into()),
        Some(_) | None => Ok(()),
    }
}

/// Runs a program with this on its standard input, and returns what it prints. Fails where it does, with its words.
pub(crate) fn fed(command: &mut Command, input: &str) -> Outcome<Vec<u8>> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{} failed, {}: {said}", command.get_program().display(), output.status).into())
}

/// Lines in two parts.
fn halves(lines: &str) -> (&str, &str) {
    let middle = lines.len() / 2;
    let end = lines[middle..].find('\n').map_or(lines.len(), |at| middle + at + 1);
    lines.split_at(end)
}

/// Puts a folder in the place of its namesake below another one.
fn replace(from: &Path, to: &Path, how: &[&str], name: &str) -> Outcome<()> {
    let target = to.join(name);
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let above = target.parent().ok_or("a folder is below another")?;
    fs::create_dir_all(above)?;
    let mut copy = Command::new("cp");
    let status = copy.arg("-a").args(how).arg(from.join(name)).arg(above).status()?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("cp of {} failed: {status}", from.display()).into())
    }
}
