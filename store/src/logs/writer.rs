//! Writing the log of one attempt.

use std::sync::Arc;
use std::time::Instant;

use nixci_protocol::nixci::control::AttemptId;
use tokio::task::JoinHandle;

use super::live::Live;
use super::{FLUSH_AFTER, Shared};

/// Writes the log of one attempt. Dropped without [`finish`](Self::finish) it keeps what was written, and the log says
/// that it ends there.
#[derive(Debug)]
pub struct LogWriter {
    shared: Arc<Shared>,
    attempt: AttemptId,
    live: Arc<Live>,
    /// A frame on its way to disk. There is at most one.
    writing: Option<JoinHandle<()>>,
    flushed: Instant,
    finished: bool,
}

/// What a log came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSummary {
    /// Lines that the builder printed.
    pub lines: u64,
    /// Lines of these that the log does not have: it reached its limit, or the disk failed.
    pub dropped: u64,
}

impl LogWriter {
    pub(super) fn new(shared: Arc<Shared>, attempt: AttemptId, live: Arc<Live>) -> Self {
        Self {
            shared,
            attempt,
            live,
            writing: None,
            flushed: Instant::now(),
            finished: false,
        }
    }

    /// Takes a line, or several that are separated by newlines. Waits only when enough has collected to be written;
    /// a call that is cancelled there has taken the lines up to that point, each once.
    pub async fn line(&mut self, text: &[u8]) {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        for line in text.split(|byte| *byte == b'\n') {
            if self.live.line(line) {
                self.write().await;
            }
        }
        if self.flushed.elapsed() >= FLUSH_AFTER {
            self.write().await;
        }
    }

    /// Takes the name of the phase that the builder enters.
    pub async fn phase(&mut self, name: &str) {
        if self.live.phase(name) || self.flushed.elapsed() >= FLUSH_AFTER {
            self.write().await;
        }
    }

    /// Writes the rest and ends the log. Those who follow it see its end once everything is written.
    pub async fn finish(mut self) -> LogSummary {
        self.settle().await;
        self.live.end();
        self.write().await;
        self.finished = true;
        self.shared.ended(self.attempt, &self.live);
        self.live.ended();
        let counted = self.live.counted();
        LogSummary {
            lines: counted.lines,
            dropped: counted.dropped,
        }
    }

    async fn write(&mut self) {
        self.settle().await;
        let live = Arc::clone(&self.live);
        self.writing = Some(tokio::task::spawn_blocking(move || live.write()));
        self.flushed = Instant::now();
        self.settle().await;
    }

    /// Waits for the frame on its way.
    async fn settle(&mut self) {
        if let Some(writing) = &mut self.writing {
            // It ends by itself; when the runtime goes down there is nobody to tell.
            let _ = writing.await;
            self.writing = None;
        }
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        if self.finished {
            return;
        }
        // At most one frame, and only where a task was cut off: a short block is better than lost lines.
        if self.writing.is_none() {
            self.live.write();
        }
        self.shared.ended(self.attempt, &self.live);
        self.live.ended();
    }
}
