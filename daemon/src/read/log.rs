//! Parts of logs, for pages and causes.

use std::collections::VecDeque;

use nixci_protocol::nixci::control::{AttemptId, AttemptSummary, RunningBuild};
use nixci_store::index::{attempts, derivations};
use nixci_store::logs::{self, Entry, Follow, plain_text};

use super::cause::TAIL_LINES;
use super::{ReadError, Reader, attempt_summary};

/// Lines of a log that a page shows at most.
const PAGE_LINES: usize = 400;
/// Bytes of HTML that the lines of a page may come to.
const PAGE_BYTES: usize = 60 * 1024;
/// Characters of a line that a page shows.
pub(crate) const LINE_CHARS: usize = 400;

/// A part of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogPart {
    /// Lines of the whole log so far.
    pub(crate) lines: u64,
    /// The phase that the first entry is in, where it began before.
    pub(crate) phase: Option<String>,
    /// The entries, each with the number of its line; a phase has that of the line after it.
    pub(crate) entries: Vec<(u64, Entry)>,
    /// The first line that looks like an error.
    pub(crate) first_error: Option<u64>,
}

impl LogPart {
    /// The number of the first and of the last line in it; `None` where it has no line.
    pub(crate) fn range(&self) -> Option<(u64, u64)> {
        let mut numbers = self
            .entries
            .iter()
            .filter(|(_, entry)| matches!(entry, Entry::Line(_)))
            .map(|(number, _)| *number);
        let first = numbers.next()?;
        Some((first, numbers.next_back().unwrap_or(first)))
    }
}

impl Reader {
    /// The last lines of a log. One that cannot be read is logged and has none: the verdict does not depend on it.
    pub(super) async fn tail(&self, attempt: AttemptId) -> Vec<String> {
        match self.logs.tail(attempt, TAIL_LINES).await {
            Ok(lines) => lines,
            Err(error) => {
                tracing::warn!(
                    attempt = attempt.0,
                    error = &error as &dyn std::error::Error,
                    "a log cannot be read"
                );
                Vec::new()
            }
        }
    }

    pub(super) fn add_last_lines(&self, builds: &mut [RunningBuild]) {
        for build in builds {
            if let Some(running) = self.logs.running(build.attempt) {
                build.phase = running.phase;
                build.last_line = running.last_line;
            }
        }
    }

    /// One attempt, and the full path of its derivation.
    pub(crate) async fn attempt(&self, id: AttemptId) -> Result<(AttemptSummary, String), ReadError> {
        let found = self
            .index
            .read(move |conn| match attempts::get(conn, id)? {
                Some(row) => Ok(derivations::paths(conn, &[row.drv])?.pop().map(|path| (row, path))),
                None => Ok(None),
            })
            .await?;
        let (row, path) = found.ok_or_else(|| ReadError::NotFound(format!("attempt {}", id.0)))?;
        Ok((attempt_summary(row), self.store_dir.display(&path).to_string()))
    }

    /// The log of an attempt from its beginning, also of a running one to its end.
    pub(crate) fn follow_log(&self, attempt: AttemptId) -> Follow {
        self.logs.follow(attempt)
    }

    /// The log of an attempt from its beginning up to now.
    pub(crate) fn read_log(&self, attempt: AttemptId) -> Follow {
        self.logs.read(attempt)
    }

    /// The part of a log that begins at this line, or its end.
    pub(crate) async fn log_part(&self, attempt: AttemptId, from: Option<u64>) -> Result<LogPart, logs::Error> {
        let mut follow = self.logs.read(attempt);
        let mut part = LogPart::default();
        let mut shown: VecDeque<(u64, Entry)> = VecDeque::new();
        let mut bytes = 0;
        let mut full = false;
        while let Some(entry) = follow.next().await? {
            let number = part.lines + 1;
            if let Entry::Line(line) = &entry {
                part.lines = number;
                if part.first_error.is_none() && looks_like_an_error(line) {
                    part.first_error = Some(number);
                }
            }
            if from.is_some_and(|from| number < from) {
                if let Entry::Phase(name) = entry {
                    part.phase = Some(name);
                }
                continue;
            }
            if full {
                continue;
            }
            bytes += cost(&entry);
            shown.push_back((number, entry));
            while shown.len() > PAGE_LINES || (bytes > PAGE_BYTES && shown.len() > 1) {
                if from.is_some() {
                    shown.pop_back();
                    full = true;
                    break;
                }
                if let Some((_, dropped)) = shown.pop_front() {
                    bytes -= cost(&dropped);
                    if let Entry::Phase(name) = dropped {
                        part.phase = Some(name);
                    }
                }
            }
        }
        part.entries = shown.into();
        Ok(part)
    }

    /// Where the part begins that ends just before this line.
    pub(crate) fn before(line: u64) -> u64 {
        line.saturating_sub(PAGE_LINES as u64).max(1)
    }
}

fn cost(entry: &Entry) -> usize {
    match entry {
        // What escaping, colours and the line's own link make of it.
        Entry::Line(line) => {
            let grown = |c: char| match c {
                '<' | '>' | '&' | '"' | '\'' => 6,
                '\u{1b}' => 30,
                c => c.len_utf8(),
            };
            line.chars()
                .take(LINE_CHARS * 4)
                .map(grown)
                .sum::<usize>()
                .min(LINE_CHARS * 6)
                + 90
        }
        Entry::Phase(name) => name.len() + 60,
        Entry::Truncated { .. } | Entry::Unwritten | Entry::Broken => 120,
    }
}

fn looks_like_an_error(line: &str) -> bool {
    let text = plain_text(line, LINE_CHARS);
    let lower = text.to_ascii_lowercase();
    ["error:", "fatal:", "error ["].iter().any(|word| lower.contains(word))
        || text.starts_with("FAILED")
        || lower.contains("*** [")
        || lower.contains("panicked at")
}
