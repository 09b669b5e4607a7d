//! The lines of a log and what stands between them, as text.
//!
//! A line is itself. What is no line begins with a zero byte and a letter; a line that begins with a zero byte gets
//! one of these in front.

use super::LINE_BYTES;

const LINE: u8 = b'l';
const PHASE: u8 = b'p';
const TRUNCATED: u8 = b't';
const UNWRITTEN: u8 = b'u';
const END: u8 = b'e';

/// Bytes of a phase's name.
const PHASE_BYTES: usize = 200;

/// One piece of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// A line without its newline, ANSI escapes kept; what is not UTF-8 is replaced.
    Line(String),
    /// The builder entered a phase.
    Phase(String),
    /// The log reached its limit of so many bytes; what follows was dropped.
    Truncated {
        /// The limit.
        limit: u64,
    },
    /// Lines are missing here, because they could not be written: the disk was full or failed.
    Unwritten,
    /// The log ends here although its attempt went on: the daemon was stopped, or the file is damaged.
    Broken,
}

impl Entry {
    /// A sentence for what is no line of the builder and no phase, for surfaces that show only text.
    #[must_use]
    pub fn remark(&self) -> Option<String> {
        match self {
            Self::Line(_) | Self::Phase(_) => None,
            Self::Truncated { limit } => Some(format!("the log is cut here: it reached its limit of {limit} bytes")),
            Self::Unwritten => Some("lines are missing here: they could not be written to disk".to_owned()),
            Self::Broken => Some("the log ends here: the daemon stopped before its attempt ended".to_owned()),
        }
    }
}

/// What is in a file: an entry, or its orderly end.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Written {
    Entry(Entry),
    End,
}

/// Appends a line that has no newline in it.
pub(super) fn push_line(out: &mut Vec<u8>, line: &[u8]) {
    if line.first() == Some(&0) {
        out.extend_from_slice(&[0, LINE]);
    }
    if line.len() > LINE_BYTES {
        out.extend_from_slice(&line[..LINE_BYTES]);
        out.extend_from_slice(format!(" [cut: the line had {} bytes]", line.len()).as_bytes());
    } else {
        out.extend_from_slice(line);
    }
    out.push(b'\n');
}

pub(super) fn push_phase(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(&[0, PHASE]);
    out.extend(
        name.bytes()
            .take(PHASE_BYTES)
            .map(|byte| if byte == b'\n' { b' ' } else { byte }),
    );
    out.push(b'\n');
}

pub(super) fn push_truncated(out: &mut Vec<u8>, limit: u64) {
    out.extend_from_slice(&[0, TRUNCATED]);
    out.extend_from_slice(limit.to_string().as_bytes());
    out.push(b'\n');
}

pub(super) fn push_unwritten(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, UNWRITTEN, b'\n']);
}

pub(super) fn push_end(out: &mut Vec<u8>) {
    out.extend_from_slice(&[0, END, b'\n']);
}

/// Takes the first entry and the bytes it took; none at the end. What has no newline at its end is no entry.
pub(super) fn first(content: &[u8]) -> Option<(Written, usize)> {
    let end = content.iter().position(|byte| *byte == b'\n')?;
    Some((parse(&content[..end]), end + 1))
}

fn parse(text: &[u8]) -> Written {
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Written::Entry(match text {
        [0, LINE, rest @ ..] => Entry::Line(lossy(rest)),
        [0, PHASE, rest @ ..] => Entry::Phase(lossy(rest)),
        [0, TRUNCATED, rest @ ..] => match lossy(rest).parse() {
            Ok(limit) => Entry::Truncated { limit },
            Err(_) => Entry::Broken,
        },
        [0, UNWRITTEN] => Entry::Unwritten,
        [0, END] => return Written::End,
        [0, ..] => Entry::Broken,
        line => Entry::Line(lossy(line)),
    })
}
