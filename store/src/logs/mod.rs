//! Build logs: one file per attempt, made when its first lines are written.
//!
//! A file is a sequence of zstd frames that any `zstdcat` prints; what is ours is in skippable frames between them
//! ([`frame`]). Lines collect in memory up to [`FRAME_BYTES`] or [`FLUSH_AFTER`], so a running attempt holds at most
//! `FRAME_BYTES + LINE_BYTES` of its log and a killed daemon loses at most that. Everybody who reads a running log
//! sees what was written up to that moment, whether it is on disk yet or not.
//!
//! A log that cannot be written never fails a build: the rest of it is dropped, and the log says so at that place.
//! A file that was cut off or damaged is read up to there, and then says so ([`Entry::Broken`]).

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nixci_protocol::nixci::control::AttemptId;

mod entry;
mod follow;
mod frame;
mod live;
mod plain;
mod writer;

#[cfg(test)]
mod tests;

pub use entry::Entry;
pub use follow::Follow;
pub use plain::plain_text;
pub use writer::{LogSummary, LogWriter};

use live::Live;

/// Bytes of lines that collect before they are compressed and written.
pub const FRAME_BYTES: usize = 64 * 1024;
/// Lines that collect longer than this are written with the next one, however few they are.
pub const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// A longer line is cut, and says so at its end.
pub const LINE_BYTES: usize = 64 * 1024;
/// Bytes of lines that a log may have unless told otherwise; the rest is dropped and counted.
pub const LOG_BYTES: u64 = 64 * 1024 * 1024;
/// Characters of [`Running::last_line`].
pub const LAST_LINE_CHARS: usize = 200;
/// Attempts whose logs share a folder.
const PER_FOLDER: i64 = 4096;

/// A log could not be opened or read.
#[derive(Debug, thiserror::Error)]
#[error("failed to {doing} {}", path.display())]
pub struct Error {
    doing: &'static str,
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// The logs of all attempts; clones share them.
#[derive(Debug, Clone)]
pub struct Logs {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// Of attempts that begin from now on.
    log_bytes: AtomicU64,
    /// Held to look up, insert or remove.
    running: Mutex<HashMap<AttemptId, Arc<Live>>>,
}

/// What a running attempt does, in short.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Running {
    /// Its phase, where the builder names one.
    pub phase: Option<String>,
    /// The last line it printed that is not blank, without ANSI escapes, at most [`LAST_LINE_CHARS`] characters.
    pub last_line: Option<String>,
    /// Lines it printed so far.
    pub lines: u64,
}

impl Logs {
    /// Opens the folder, or makes it. Blocks.
    pub fn open(dir: &Path) -> Result<Self, Error> {
        Self::with_limit(dir, LOG_BYTES)
    }

    /// As [`open`](Self::open), with another limit than [`LOG_BYTES`] for the lines of one log.
    pub fn with_limit(dir: &Path, log_bytes: u64) -> Result<Self, Error> {
        std::fs::create_dir_all(dir).map_err(|source| Error {
            doing: "make the folder of logs",
            path: dir.to_owned(),
            source,
        })?;
        Ok(Self {
            shared: Arc::new(Shared {
                dir: dir.to_owned(),
                log_bytes: AtomicU64::new(log_bytes),
                running: Mutex::default(),
            }),
        })
    }

    /// Keeps so many bytes of the logs that begin from now on.
    pub fn limit(&self, log_bytes: u64) {
        self.shared.log_bytes.store(log_bytes, Ordering::Relaxed);
    }

    /// Begins the log of an attempt. Nothing is on disk before its first lines are.
    #[must_use]
    pub fn start(&self, attempt: AttemptId) -> LogWriter {
        let live = Arc::new(Live::new(
            self.shared.path(attempt),
            self.shared.log_bytes.load(Ordering::Relaxed),
        ));
        self.shared.running().insert(attempt, Arc::clone(&live));
        LogWriter::new(Arc::clone(&self.shared), attempt, live)
    }

    /// Reads a log from its beginning up to now. A log that does not exist is an empty one.
    #[must_use]
    pub fn read(&self, attempt: AttemptId) -> Follow {
        Follow::new(self.shared.path(attempt), self.shared.live(attempt), follow::At::End)
    }

    /// Reads a log from its beginning, and goes on until a running attempt ends: every line once, in order.
    #[must_use]
    pub fn follow(&self, attempt: AttemptId) -> Follow {
        Follow::new(self.shared.path(attempt), self.shared.live(attempt), follow::At::Wait)
    }

    /// The last `count` lines up to now, oldest first. Only the end of the file is unpacked.
    pub async fn tail(&self, attempt: AttemptId, count: usize) -> Result<Vec<String>, Error> {
        let live = self.shared.live(attempt);
        let path = self.shared.path(attempt);
        let read = move || {
            let tail = follow::tail(&path, live.as_deref(), count);
            tail.map_err(|source| Error {
                doing: "read the log",
                path,
                source,
            })
        };
        blocking(read).await
    }

    /// Removes the logs of attempts that ended, as far as they are there, and returns how many bytes they had. One that
    /// cannot be removed is left.
    pub async fn remove(&self, attempts: Vec<AttemptId>) -> u64 {
        let paths: Vec<PathBuf> = attempts.into_iter().map(|attempt| self.shared.path(attempt)).collect();
        let removing = tokio::task::spawn_blocking(move || {
            let remove = |path: PathBuf| {
                let size = std::fs::metadata(&path).map_or(0, |file| file.len());
                std::fs::remove_file(&path).map_or(0, |()| size)
            };
            paths.into_iter().map(remove).sum()
        });
        removing.await.unwrap_or(0)
    }

    /// What an attempt does now; none when it does not run.
    #[must_use]
    pub fn running(&self, attempt: AttemptId) -> Option<Running> {
        self.shared.live(attempt).map(|live| live.now())
    }
}

impl Shared {
    fn path(&self, attempt: AttemptId) -> PathBuf {
        self.dir.join(file_of(attempt))
    }

    fn running(&self) -> std::sync::MutexGuard<'_, HashMap<AttemptId, Arc<Live>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn live(&self, attempt: AttemptId) -> Option<Arc<Live>> {
        self.running().get(&attempt).cloned()
    }

    /// Takes an attempt from the running ones, unless its number was given to another writer since.
    fn ended(&self, attempt: AttemptId, live: &Arc<Live>) {
        let mut running = self.running();
        if running.get(&attempt).is_some_and(|known| Arc::ptr_eq(known, live)) {
            running.remove(&attempt);
        }
    }
}

/// Where the log of an attempt is in the folder of logs, if it has one.
#[must_use]
pub fn file_of(attempt: AttemptId) -> PathBuf {
    let folder = attempt.0.div_euclid(PER_FOLDER);
    PathBuf::from(folder.to_string()).join(format!("{}.log.zst", attempt.0))
}

/// A file that may not be there.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Runs what blocks on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T, Error> + Send + 'static) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error {
            doing: "wait for the reader of",
            path: PathBuf::from("a log"),
            source: io::Error::other(error),
        }),
    }
}
