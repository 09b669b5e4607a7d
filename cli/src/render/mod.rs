//! How things look on a terminal and in a plain log.
//!
//! Everything here returns text with ANSI styles in it, whoever reads it: the stream it is written to
//! (`anstream`) takes the styles out where they are not wanted. Colour is never the only carrier of a
//! meaning; every state has a glyph and a word.

pub(crate) mod ansi;
mod evaluations;
mod jobs;
mod log;
mod names;
mod report;
mod table;
mod time;
mod verdict;

pub(crate) use evaluations::{counts, headline, list};
pub(crate) use jobs::{jobs, words as outcome_words};
pub(crate) use log::LogPrinter;
pub(crate) use names::{commit, mark};
pub(crate) use report::{Progress, plural_statuses, report};
pub(crate) use time::{ago, duration, now};
pub(crate) use verdict::{Detail, is_failure, verdict};

use anstyle::{AnsiColor, Style};

/// Good.
pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
/// Bad.
pub(crate) const BAD: Style = AnsiColor::Red.on_default();
/// Wants attention, or moves.
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
/// Moves.
pub(crate) const BUSY: Style = AnsiColor::Cyan.on_default();
/// What matters in a line.
pub(crate) const STRONG: Style = Style::new().bold();
/// What may be overlooked.
pub(crate) const DIM: Style = Style::new().dimmed();

/// `text` in `style`.
pub(crate) fn paint(style: Style, text: impl std::fmt::Display) -> String {
    format!("{style}{text}{style:#}")
}

/// What an error message says first, without `error: ` and control characters.
pub(crate) fn first_line(message: &str) -> String {
    let lines = message.lines().map(|line| ansi::plain(line.trim()));
    let first = lines.map(|line| line.strip_prefix("error:").unwrap_or(&line).trim().to_owned());
    first.into_iter().find(|line| !line.is_empty()).unwrap_or_default()
}

/// `1 job`, `2 jobs`.
pub(crate) fn plural(count: u64, noun: &str) -> String {
    if count == 1 {
        format!("1 {noun}")
    } else {
        format!("{} {noun}s", grouped(count))
    }
}

/// `6,858`.
pub(crate) fn grouped(count: u64) -> String {
    let digits = count.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `1.2 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {unit}")
    }
}

#[cfg(test)]
mod tests;
