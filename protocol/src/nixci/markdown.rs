//! Text from anywhere as GitHub-flavoured Markdown: nothing in it is taken for markup.

use std::fmt::Write as _;

use super::verdict::strip_ansi;

/// Room kept for the line that says what was left out.
const RESERVE: usize = 80;

/// Text in which no character is markup.
#[must_use]
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in strip_ansi(text).chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '#' | '|' | '~' | '@' => {
                out.push('\\');
                out.push(c);
            }
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\n' => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn longest_run_of_backticks(text: &str) -> usize {
    text.split(|c| c != '`').map(str::len).max().unwrap_or(0)
}

/// A code span that holds any text.
#[must_use]
pub fn code(text: &str) -> String {
    let text = strip_ansi(text).replace('\n', " ");
    let ticks = "`".repeat(longest_run_of_backticks(&text) + 1);
    if text.is_empty() || text.starts_with('`') || text.ends_with('`') || text.trim().is_empty() {
        format!("{ticks} {text} {ticks}")
    } else {
        format!("{ticks}{text}{ticks}")
    }
}

/// A fenced block that holds any text.
#[must_use]
pub fn fence(text: &str) -> String {
    let text = strip_ansi(text);
    let ticks = "`".repeat((longest_run_of_backticks(&text) + 1).max(3));
    format!("{ticks}text\n{}\n{ticks}\n", text.trim_end())
}

/// Pieces of Markdown, what matters most first, in at most `limit` bytes: what does not fit is left out whole, and the
/// last line says how much. A limit below what the first needs gives that cut short.
#[must_use]
pub fn fit(pieces: &[String], limit: usize) -> String {
    let mut out = String::new();
    let mut left_out = 0_usize;
    let whole: usize = pieces.iter().map(|piece| piece.len() + 1).sum();
    let room = if whole <= limit {
        limit
    } else {
        limit.saturating_sub(RESERVE)
    };
    for (at, piece) in pieces.iter().enumerate() {
        if at > 0 && out.len() + 1 + piece.len() > room {
            left_out += 1;
            continue;
        }
        if at > 0 {
            out.push('\n');
        }
        out.push_str(piece);
    }
    if left_out > 0 {
        let _ = write!(out, "\n*{left_out} sections left out to fit the space.*\n");
    }
    while out.len() > limit {
        out.pop();
    }
    out
}
