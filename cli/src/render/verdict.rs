//! A verdict on a terminal: the sentence, the root causes with what they printed, the rest by bucket.

use std::fmt::Write as _;

use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::nixci::verdict::{Bucket, Conclusion, RootCause, Row, Side, Verdict};

use super::{BAD, BUSY, DIM, GOOD, STRONG, WARN, ansi, commit, grouped, jobs, mark, paint, plural};

/// How much to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// The first few of everything; what is left out is counted.
    Short,
    /// All of it.
    Full,
}

impl Detail {
    fn causes(self) -> usize {
        match self {
            Self::Short => 10,
            Self::Full => usize::MAX,
        }
    }

    fn rows(self) -> usize {
        match self {
            Self::Short => 10,
            Self::Full => usize::MAX,
        }
    }

    fn tail(self) -> usize {
        match self {
            Self::Short => 10,
            Self::Full => usize::MAX,
        }
    }
}

/// The verdict as text.
pub(crate) fn verdict(verdict: &Verdict, detail: Detail) -> String {
    let (glyph, style) = match verdict.conclusion {
        Conclusion::Success => ("✓", GOOD),
        Conclusion::Failure => ("✕", BAD),
        Conclusion::Incomplete => ("◌", WARN),
        Conclusion::Running => ("…", BUSY),
    };
    let mut text = format!("{} {}\n", paint(style, glyph), paint(style.bold(), &verdict.sentence));
    let _ = writeln!(text, "  {}", paint(DIM, sides(verdict)));
    if let Some(error) = &verdict.error {
        text.push('\n');
        for line in error.lines() {
            let _ = writeln!(text, "  {}", paint(BAD, ansi::plain(line)));
        }
    }
    let causes = &verdict.root_causes;
    for cause in causes.iter().take(detail.causes()) {
        text.push('\n');
        root_cause(cause, detail, &mut text);
    }
    if let Some(more) = causes.len().checked_sub(detail.causes()).filter(|more| *more > 0) {
        let _ = writeln!(
            text,
            "\n  {}",
            paint(DIM, format!("and {}", plural(more as u64, "more root cause")))
        );
    }
    for (bucket, rows) in by_bucket(&verdict.rows) {
        rows_of(bucket, &rows, detail, &mut text);
    }
    text.push_str(&tally(verdict));
    text
}

fn side(side: &Side) -> String {
    let commit = side
        .commit
        .as_deref()
        .map(|full| format!(" @ {}", commit(full)))
        .unwrap_or_default();
    format!("#{} {}{commit}", side.evaluation.0, side.project)
}

fn sides(verdict: &Verdict) -> String {
    let jobs = plural(verdict.head.jobs, "job");
    match &verdict.base {
        Some(base) => format!("{} against {} · {jobs}", side(&verdict.head), side(base)),
        None => format!("{} · {jobs}", side(&verdict.head)),
    }
}

fn root_cause(cause: &RootCause, detail: Detail, text: &mut String) {
    let mut facts = vec![cause.class.words().to_owned()];
    if cause.blocks > 0 {
        facts.push(format!("blocks {}", plural(cause.blocks, "job")));
    }
    facts.extend(cause.attr.as_ref().map(ToString::to_string));
    if cause.on_base {
        facts.push("failed on base too".to_owned());
    }
    let _ = writeln!(
        text,
        "  {} {}  {}",
        paint(BAD, "✕"),
        paint(STRONG, &cause.name),
        facts.join(" · ")
    );
    if let Some(first) = cause.message.lines().find(|line| !line.trim().is_empty()) {
        let _ = writeln!(text, "    {}", ansi::plain(first.trim()));
    }
    let skipped = cause.log_tail.len().saturating_sub(detail.tail());
    for line in &cause.log_tail[skipped..] {
        let _ = writeln!(text, "    {} {}", paint(DIM, "│"), ansi::colours_only(line));
    }
    let log = match cause.attempt {
        Some(attempt) => format!("nixci log --attempt {}", attempt.0),
        None => format!("nixci log {}", cause.drv_path),
    };
    let _ = writeln!(text, "    {}", paint(DIM, log));
}

/// Rows come sorted by bucket; those of one bucket are neighbours.
fn by_bucket(rows: &[Row]) -> Vec<(Bucket, Vec<&Row>)> {
    let mut groups: Vec<(Bucket, Vec<&Row>)> = Vec::new();
    for row in rows {
        match groups.last_mut() {
            Some((bucket, group)) if *bucket == row.bucket => group.push(row),
            _ => groups.push((row.bucket, vec![row])),
        }
    }
    groups
}

fn rows_of(bucket: Bucket, rows: &[&Row], detail: Detail, text: &mut String) {
    let _ = writeln!(
        text,
        "\n  {} {}",
        paint(STRONG, bucket.words()),
        paint(DIM, grouped(rows.len() as u64))
    );
    let width = rows
        .iter()
        .take(detail.rows())
        .map(|row| row.attr.to_string().chars().count());
    let width = width.max().unwrap_or(0).min(48);
    for row in rows.iter().take(detail.rows()) {
        let (glyph, style) = row.head.as_ref().map_or(("–", DIM), mark);
        let said = match (&row.head, &row.base) {
            (Some(head), _) => jobs::words(head),
            (None, Some(base)) => format!("was {}", jobs::words(base)),
            (None, None) => String::new(),
        };
        let attr = row.attr.to_string();
        let _ = writeln!(text, "    {} {attr:width$}  {}", paint(style, glyph), paint(DIM, said));
    }
    if let Some(more) = rows.len().checked_sub(detail.rows()).filter(|more| *more > 0) {
        let _ = writeln!(text, "    {}", paint(DIM, format!("and {} more", grouped(more as u64))));
    }
}

/// The last line: every bucket and its count.
fn tally(verdict: &Verdict) -> String {
    let parts: Vec<String> = verdict
        .counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(bucket, count)| paint(colour(*bucket), format!("{} {}", grouped(*count), bucket.words())))
        .collect();
    if parts.is_empty() {
        return String::new();
    }
    format!("\n  {}\n", parts.join(" · "))
}

fn colour(bucket: Bucket) -> anstyle::Style {
    match bucket {
        Bucket::NewlyFailing | Bucket::AddedFailing | Bucket::Failing => BAD,
        Bucket::StillFailing | Bucket::NotAnswered => WARN,
        Bucket::Fixed | Bucket::Ok | Bucket::StillOk | Bucket::AddedOk => GOOD,
        Bucket::Running => BUSY,
        Bucket::Unchanged | Bucket::Removed => DIM,
    }
}

/// Whether an outcome belongs in a list of what failed.
pub(crate) fn is_failure(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed { .. } | Outcome::Blocked { .. } | Outcome::EvaluationError { .. } => true,
        Outcome::Queued { .. }
        | Outcome::Forwarding
        | Outcome::Building
        | Outcome::Succeeded { .. }
        | Outcome::Cancelled => false,
    }
}
