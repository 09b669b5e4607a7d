//! Build logs on standard output.

use std::io::{self, Write};

use nixci_protocol::nixci::control::LogEvent;
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::nixci::verdict::derivation_name;

use super::{DIM, ansi, jobs, mark, paint};

/// Prints the pieces of one log as they come.
///
/// On a terminal the frame (whose log, phases, how it ended) is printed around the lines; elsewhere only
/// the lines are, so that `nixci log x | grep` sees what the builder printed.
pub(crate) struct LogPrinter {
    frame: bool,
}

impl LogPrinter {
    /// A printer; `frame` says whether people read it.
    pub(crate) fn new(frame: bool) -> Self {
        Self { frame }
    }

    /// Prints one piece.
    pub(crate) fn print(&mut self, event: &LogEvent, out: &mut impl Write) -> io::Result<()> {
        match event {
            LogEvent::Line { text } => writeln!(out, "{}", ansi::colours_only(text)),
            LogEvent::Attempt {
                attempt,
                drv_path,
                store,
                ..
            } if self.frame => {
                let rule = format!("── {} · attempt {} on {store}", derivation_name(drv_path), attempt.0);
                writeln!(out, "{}", paint(DIM, rule))
            }
            LogEvent::Phase { name } if self.frame => {
                writeln!(out, "{}", paint(DIM, format!("── {}", ansi::plain(name))))
            }
            LogEvent::End { outcome } if self.frame => writeln!(out, "{}", end(outcome)),
            LogEvent::Attempt { .. } | LogEvent::Phase { .. } | LogEvent::End { .. } => Ok(()),
        }
    }
}

fn end(outcome: &Outcome) -> String {
    let (glyph, style) = mark(outcome);
    format!(
        "{} {}",
        paint(DIM, "──"),
        paint(style, format!("{glyph} {}", jobs::words(outcome)))
    )
}
