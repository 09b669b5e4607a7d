//! The verdict as Markdown, for a check, a comment or a step summary.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::types::{Bucket, Conclusion, RootCause, Row, Verdict};
use super::words::strip_ansi;
use crate::nixci::markdown::{code, escape, fence, fit};
use crate::nixci::outcome::{FailureClass, Outcome};

/// How many causes come with their last lines.
const OPENED_CAUSES: usize = 10;
/// How many derivations that fail for one reason are named.
const NAMED_CAUSES: usize = 5;
/// How many rows a bucket lists.
const LISTED_ROWS: usize = 200;

/// The verdict as GitHub-flavoured Markdown of at most `limit_bytes` bytes.
///
/// What matters most comes first; what does not fit is left out whole, and the last line says how
/// much. Names and log lines are quoted, so that nothing in them is taken for markup. A limit below
/// what the sentence needs gives the sentence cut short.
#[must_use]
pub fn to_markdown(verdict: &Verdict, limit_bytes: usize) -> String {
    let mut pieces = vec![
        format!("### {} {}\n", glyph(verdict.conclusion), escape(&verdict.sentence)),
        counts(verdict),
    ];
    if let Some(error) = &verdict.error {
        pieces.push(format!("**Evaluation error**\n\n{}", fence(error)));
    }
    let (tried, unsupported): (Vec<_>, Vec<_>) = verdict
        .root_causes
        .iter()
        .partition(|cause| cause.class != FailureClass::Unsupported);
    for (at, cause) in tried.into_iter().enumerate() {
        pieces.push(root_cause(cause, at < OPENED_CAUSES));
    }
    pieces.extend(not_offered(&unsupported));
    for bucket in Bucket::ALL {
        pieces.extend(bucket_rows(verdict, bucket));
    }
    fit(&pieces, limit_bytes)
}

fn glyph(conclusion: Conclusion) -> &'static str {
    match conclusion {
        Conclusion::Success => "✓",
        Conclusion::Failure => "✕",
        Conclusion::Incomplete => "◌",
        Conclusion::Running => "…",
    }
}

fn counts(verdict: &Verdict) -> String {
    let mut out = String::from("| | jobs |\n|---|---:|\n");
    for (bucket, count) in &verdict.counts {
        let _ = writeln!(out, "| {} | {count} |", bucket.words());
    }
    let _ = writeln!(out, "| **all on head** | **{}** |", verdict.head.jobs);
    out
}

fn root_cause(cause: &RootCause, opened: bool) -> String {
    let mut out = format!("**{}** {}", code(&cause.name), cause.class.words());
    if cause.blocks > 0 {
        let _ = write!(out, ", blocks {}", cause.blocks);
    }
    if cause.on_base {
        out.push_str(", failed on base too");
    }
    let _ = writeln!(out, "\n{}", code(&cause.drv_path));
    let lines = if cause.log_tail.is_empty() {
        cause.message.clone()
    } else {
        cause.log_tail.join("\n")
    };
    if opened && !lines.trim().is_empty() {
        out.push('\n');
        out.push_str(&fence(&lines));
    }
    out
}

/// Derivations that no store builds, by what is missing: there may be as many as there are jobs, all for one reason.
fn not_offered(causes: &[&RootCause]) -> Vec<String> {
    let mut by_message: BTreeMap<&str, Vec<&RootCause>> = BTreeMap::new();
    for cause in causes {
        by_message.entry(cause.message.trim()).or_default().push(cause);
    }
    let pieces = by_message.into_iter().map(|(message, causes)| match causes.as_slice() {
        [only] => root_cause(only, true),
        causes => {
            let named: Vec<String> = causes
                .iter()
                .take(NAMED_CAUSES)
                .map(|cause| code(&cause.name))
                .collect();
            let more = if causes.len() > named.len() { ", …" } else { "" };
            let said = if message.is_empty() {
                String::new()
            } else {
                fence(message)
            };
            format!(
                "**{} derivations** {}: {}{more}\n\n{said}",
                causes.len(),
                FailureClass::Unsupported.words(),
                named.join(", ")
            )
        }
    });
    pieces.collect()
}

fn bucket_rows(verdict: &Verdict, bucket: Bucket) -> Option<String> {
    let count = verdict.count(bucket);
    let mut rows = verdict.rows.iter().filter(|row| row.bucket == bucket).peekable();
    rows.peek()?;
    let mut out = format!("<details><summary>{} ({count})</summary>\n\n", bucket.words());
    for row in rows.take(LISTED_ROWS) {
        let _ = writeln!(out, "- {}{}", code(&row.attr.to_string()), why(verdict, row));
    }
    if count > LISTED_ROWS as u64 {
        let _ = writeln!(out, "- and {} more", count - LISTED_ROWS as u64);
    }
    out.push_str("\n</details>\n");
    Some(out)
}

fn why(verdict: &Verdict, row: &Row) -> String {
    if let Some(reason) = verdict.reason_not_answered(row) {
        return format!(": {reason}");
    }
    match &row.head {
        Some(Outcome::Blocked { by }) => {
            let names: Vec<String> = by.iter().take(3).map(|drv| code(super::derivation_name(drv))).collect();
            format!(": blocked by {}", names.join(", "))
        }
        Some(Outcome::EvaluationError { message }) => {
            let message = strip_ansi(message);
            format!(": {}", code(message.lines().next().unwrap_or_default()))
        }
        Some(outcome) => format!(": {}", outcome.words()),
        None => String::new(),
    }
}
