//! A gate in a build: the build says that it started and waits until the test lets it through.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;

/// How long a test waits for a build to start.
const PATIENCE: Duration = Duration::from_mins(2);
/// How many builds one opened gate lets through: each takes one line from the pipe.
const PASSES: usize = 1000;

/// Two named pipes that a slow test derivation reads and writes ([`TestDrv::gate`](super::TestDrv::gate)).
#[derive(Debug)]
pub struct Gate {
    dir: PathBuf,
    open: Mutex<Option<(File, File)>>,
}

impl Gate {
    pub(super) fn new(dir: PathBuf) -> Self {
        std::fs::create_dir_all(&dir).expect("the gate's folder can be made");
        for pipe in ["started", "go"] {
            mknodat(CWD, dir.join(pipe), FileType::Fifo, Mode::from_raw_mode(0o666), 0)
                .expect("a named pipe can be made");
        }
        Self {
            dir,
            open: Mutex::new(None),
        }
    }

    /// The folder with the pipes, as the host sees it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Waits until a build stands at the gate; called again, until the next one does. Panics after two minutes.
    pub async fn started(&self) {
        let mut pipe = pipe::OpenOptions::new()
            .read_write(true)
            .open_receiver(self.dir.join("started"))
            .expect("the gate's pipe can be opened");
        let mut line = [0; 8];
        tokio::time::timeout(PATIENCE, pipe.read_exact(&mut line))
            .await
            .unwrap_or_else(|_| panic!("no build reached the gate {}", self.dir.display()))
            .expect("the gate's pipe can be read");
    }

    /// Lets every build through, now and later.
    pub fn open(&self) {
        let both = |name: &str| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .open(self.dir.join(name))
                .expect("the gate's pipe can be opened")
        };
        let mut go = both("go");
        go.write_all(&b"go\n".repeat(PASSES))
            .expect("the gate's pipe takes its lines");
        // Held open: what is in a pipe is lost when nobody has it open, and a build that says it started waits for
        // somebody who has.
        *self.open.lock().expect("nobody panics while holding this") = Some((go, both("started")));
    }
}
