//! The log of a running attempt: what is not written yet, and how far the file is.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::entry::{push_end, push_line, push_phase, push_truncated, push_unwritten};
use super::plain::plain_text;
use super::{FRAME_BYTES, LAST_LINE_CHARS, LINE_BYTES, Running, frame};

/// Bytes of the last line that are kept for [`Running`]: room for escapes around what is shown.
const LAST_LINE_BYTES: usize = 2048;

#[derive(Debug)]
pub(super) struct Live {
    path: PathBuf,
    log_bytes: u64,
    /// Held for memory work only.
    state: Mutex<State>,
    /// Held while a frame is written, by one thread at a time.
    file: Mutex<Option<File>>,
    changed: watch::Sender<()>,
}

/// Positions count bytes of entries, before compression, from the beginning of the log.
#[derive(Debug, Default)]
pub(super) struct State {
    /// Entries that are not in the file, whole.
    pub(super) waiting: Vec<u8>,
    waiting_lines: u32,
    /// The position where `waiting` begins.
    pub(super) written: u64,
    /// The length of the file that holds what comes before.
    pub(super) file_bytes: u64,
    /// Nothing more will come.
    pub(super) ended: bool,
    line_bytes: u64,
    lines: u64,
    dropped: u64,
    /// The limit was reached; the log says so.
    truncated: bool,
    /// The rest cannot be written; the log says so.
    failed: bool,
    phase: Option<String>,
    last_line: Vec<u8>,
}

/// Numbers at the end of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Counted {
    pub(super) lines: u64,
    pub(super) dropped: u64,
}

impl Live {
    pub(super) fn new(path: PathBuf, log_bytes: u64) -> Self {
        Self {
            path,
            log_bytes,
            state: Mutex::default(),
            file: Mutex::default(),
            changed: watch::Sender::new(()),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes up whenever there is more to read.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    pub(super) fn now(&self) -> Running {
        let state = self.state();
        let last = plain_text(&String::from_utf8_lossy(&state.last_line), LAST_LINE_CHARS);
        Running {
            phase: state.phase.clone(),
            last_line: (!last.is_empty()).then_some(last),
            lines: state.lines,
        }
    }

    pub(super) fn counted(&self) -> Counted {
        let state = self.state();
        Counted {
            lines: state.lines,
            dropped: state.dropped,
        }
    }

    /// Takes a line without its newline; true when it is time to write.
    pub(super) fn line(&self, line: &[u8]) -> bool {
        let mut state = self.state();
        state.lines += 1;
        if line.iter().any(|byte| !byte.is_ascii_whitespace()) {
            state.last_line = line[..line.len().min(LAST_LINE_BYTES)].to_vec();
        }
        if state.failed || state.truncated {
            state.dropped += 1;
            return false;
        }
        state.line_bytes += line.len().min(LINE_BYTES) as u64 + 1;
        if state.line_bytes > self.log_bytes {
            state.truncated = true;
            state.dropped += 1;
            push_truncated(&mut state.waiting, self.log_bytes);
        } else {
            push_line(&mut state.waiting, line);
            state.waiting_lines += 1;
        }
        let full = state.waiting.len() >= FRAME_BYTES;
        drop(state);
        self.changed.send_replace(());
        full
    }

    /// Takes the name of a phase; true when it is time to write.
    pub(super) fn phase(&self, name: &str) -> bool {
        let mut state = self.state();
        state.phase = Some(name.to_owned());
        // Phases count towards the limit, so that a builder cannot get round it by them.
        if state.failed || state.truncated || state.line_bytes >= self.log_bytes {
            return false;
        }
        let before = state.waiting.len();
        push_phase(&mut state.waiting, name);
        state.line_bytes += (state.waiting.len() - before) as u64;
        let full = state.waiting.len() >= FRAME_BYTES;
        drop(state);
        self.changed.send_replace(());
        full
    }

    /// Marks the orderly end, if there is anything to end.
    pub(super) fn end(&self) {
        let mut state = self.state();
        if state.file_bytes > 0 || !state.waiting.is_empty() {
            push_end(&mut state.waiting);
        }
    }

    /// Tells readers that nothing more will come.
    pub(super) fn ended(&self) {
        self.state().ended = true;
        self.changed.send_replace(());
    }

    /// Writes what waits as one frame. Blocks. When it cannot be written the log stays readable up to here, says what
    /// is missing, and takes no more.
    pub(super) fn write(&self) {
        let (content, lines, at) = {
            let state = self.state();
            (state.waiting.clone(), state.waiting_lines, state.file_bytes)
        };
        if content.is_empty() {
            return;
        }
        let written = self.append(&content, lines, at);
        let mut state = self.state();
        state.waiting.drain(..content.len());
        state.waiting_lines -= lines;
        state.written += content.len() as u64;
        match written {
            Ok(bytes) => state.file_bytes += bytes,
            Err(error) => {
                tracing::warn!(%error, path = %self.path.display(), "failed to write a build log; the rest of it is dropped");
                if !state.failed {
                    state.failed = true;
                    // It goes to disk with the end of the log, if there is room by then.
                    push_unwritten(&mut state.waiting);
                }
                state.dropped += u64::from(lines);
            }
        }
        drop(state);
        self.changed.send_replace(());
    }

    fn append(&self, content: &[u8], lines: u32, at: u64) -> io::Result<u64> {
        let frame = frame::pack(content, lines)?;
        let mut slot = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let file = match &mut *slot {
            Some(file) => file,
            None => slot.insert(self.create()?),
        };
        if let Err(error) = file.write_all(&frame) {
            // Half a frame would make the rest unreadable. If even this fails, readers stop there and say so.
            let _ = file.set_len(at);
            return Err(error);
        }
        Ok(frame.len() as u64)
    }

    /// A number is never given twice, so what may be there is from before the index was restored: it is replaced.
    fn create(&self) -> io::Result<File> {
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let mut options = OpenOptions::new();
        options.append(true).create(true);
        let file = options.open(&self.path)?;
        file.set_len(0)?;
        Ok(file)
    }
}
