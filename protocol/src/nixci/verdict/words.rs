//! The words of a verdict.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;

use super::types::{Bucket, Conclusion, RootCause, Row, Verdict};
use crate::nixci::control::EvaluationState;
use crate::nixci::outcome::Outcome;

/// How many causes a sentence names.
const NAMED_CAUSES: usize = 3;
/// How many characters of an evaluator's message a sentence quotes.
const QUOTED_CHARS: usize = 160;

impl Bucket {
    /// Every bucket, in the order of the reader's interest.
    pub const ALL: [Self; 12] = [
        Self::NewlyFailing,
        Self::AddedFailing,
        Self::Failing,
        Self::StillFailing,
        Self::Fixed,
        Self::NotAnswered,
        Self::Running,
        Self::Ok,
        Self::StillOk,
        Self::AddedOk,
        Self::Unchanged,
        Self::Removed,
    ];

    /// The words of a heading or a table cell.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::NewlyFailing => "newly failing",
            Self::AddedFailing => "added, failing",
            Self::Failing => "failing",
            Self::StillFailing => "still failing",
            Self::Fixed => "fixed",
            Self::NotAnswered => "not answered",
            Self::Running => "unfinished",
            Self::Ok => "ok",
            Self::StillOk => "still ok",
            Self::AddedOk => "added, ok",
            Self::Unchanged => "unchanged",
            Self::Removed => "removed",
        }
    }

    /// Whether its jobs count against head.
    #[must_use]
    pub fn counts_against_head(self) -> bool {
        match self {
            Self::NewlyFailing | Self::AddedFailing | Self::Failing => true,
            Self::StillFailing
            | Self::Fixed
            | Self::NotAnswered
            | Self::Running
            | Self::Ok
            | Self::StillOk
            | Self::AddedOk
            | Self::Unchanged
            | Self::Removed => false,
        }
    }

    /// Whether its jobs are fine on head.
    #[must_use]
    pub fn is_fine(self) -> bool {
        match self {
            Self::Fixed | Self::Ok | Self::StillOk | Self::AddedOk | Self::Unchanged => true,
            Self::NewlyFailing
            | Self::AddedFailing
            | Self::Failing
            | Self::StillFailing
            | Self::NotAnswered
            | Self::Running
            | Self::Removed => false,
        }
    }
}

impl Conclusion {
    /// One word for a table cell.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Incomplete => "incomplete",
            Self::Running => "running",
        }
    }
}

impl Verdict {
    /// How many jobs are in a bucket.
    #[must_use]
    pub fn count(&self, bucket: Bucket) -> u64 {
        self.counts.get(&bucket).copied().unwrap_or(0)
    }

    /// How many jobs of head are fine.
    #[must_use]
    pub fn fine(&self) -> u64 {
        self.counts
            .iter()
            .filter(|(bucket, _)| bucket.is_fine())
            .map(|(_, count)| count)
            .sum()
    }

    /// Why a job has no answer, in words; `None` where it has one.
    #[must_use]
    pub fn reason_not_answered(&self, row: &Row) -> Option<&'static str> {
        let find = |drv: &str| self.root_causes.iter().find(|cause| cause.drv_path == drv);
        (row.bucket == Bucket::NotAnswered).then(|| reason(row, find))
    }

    /// The rows without an answer, grouped by the reason in words, commonest first.
    #[must_use]
    pub fn not_answered(&self) -> Vec<(&'static str, Vec<&Row>)> {
        let causes: HashMap<&str, &RootCause> = self
            .root_causes
            .iter()
            .map(|cause| (cause.drv_path.as_str(), cause))
            .collect();
        let mut reasons: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
        for row in self.rows.iter().filter(|row| row.bucket == Bucket::NotAnswered) {
            reasons
                .entry(reason(row, |drv| causes.get(drv).copied()))
                .or_default()
                .push(row);
        }
        let mut reasons: Vec<_> = reasons.into_iter().collect();
        reasons.sort_by_key(|(_, rows)| std::cmp::Reverse(rows.len()));
        reasons
    }
}

fn reason<'a>(row: &Row, find: impl Fn(&str) -> Option<&'a RootCause>) -> &'static str {
    match &row.head {
        Some(Outcome::Failed { class }) => class.words(),
        Some(Outcome::Blocked { by }) => by
            .iter()
            .find_map(|drv| find(drv))
            .map_or("blocked", |cause| cause.class.words()),
        Some(other) => other.words(),
        None => "removed",
    }
}

/// `libfoo-1.2` of `/nix/store/…-libfoo-1.2.drv`; the text itself where it is not such a path.
#[must_use]
pub fn derivation_name(drv_path: &str) -> &str {
    let base = drv_path.rsplit('/').next().unwrap_or(drv_path);
    let name = match base.split_once('-') {
        Some((digest, name)) if digest.len() == 32 => name,
        _ => base,
    };
    name.strip_suffix(".drv").unwrap_or(name)
}

/// The text without terminal escapes and other control characters (tabs and newlines stay).
#[must_use]
pub fn strip_ansi(text: &str) -> Cow<'_, str> {
    if !text.chars().any(|c| c.is_control() && !matches!(c, '\t' | '\n')) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                // CSI: parameters, then one final byte.
                Some('[') => while chars.next().is_some_and(|c| !matches!(c, '\u{40}'..='\u{7e}')) {},
                // OSC and the other strings: up to BEL or ESC \.
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                // A character set: one more byte.
                Some('(' | ')' | '*' | '+') => {
                    chars.next();
                }
                Some(_) | None => {}
            },
            '\t' | '\n' => out.push(c),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    Cow::Owned(out)
}

/// The verdict in one sentence.
pub(super) fn sentence(verdict: &Verdict, state: EvaluationState) -> String {
    let total = verdict.head.jobs;
    let fine = verdict.fine();
    let running = verdict.count(Bucket::Running);
    let newly = verdict.count(Bucket::NewlyFailing) + verdict.count(Bucket::AddedFailing);
    let failing = verdict.count(Bucket::Failing);
    let mut parts = Vec::new();
    match verdict.conclusion {
        Conclusion::Failure if verdict.error.is_some() => {
            let quoted = quote(verdict.error.as_deref().unwrap_or_default());
            parts.push(format!("Evaluation failed: {quoted}"));
            if total > 0 {
                parts.push(format!("{fine} of the {total} known so far ok"));
            }
            if newly + failing > 0 {
                parts.push(format!("{} failing", newly + failing));
            }
            if running > 0 {
                parts.push(format!("{running} running"));
            }
        }
        Conclusion::Running => {
            let done = total - running;
            let (word, count) = match verdict.base {
                Some(_) => ("newly failing", newly),
                None => ("failing", failing),
            };
            let count = if count == 0 {
                "none".to_owned()
            } else {
                count.to_string()
            };
            let more = match state {
                EvaluationState::Receiving => ", more jobs arriving",
                EvaluationState::Building
                | EvaluationState::Done
                | EvaluationState::Cancelled
                | EvaluationState::Abandoned => "",
            };
            parts.push(format!("Still working: {done} of {total} done{more}, {count} {word}"));
            if verdict.base.is_some() && failing > 0 {
                parts.push(format!("{failing} failing, unknown on base"));
            }
        }
        Conclusion::Failure if newly > 0 => {
            let causes = causes(verdict, &[Bucket::NewlyFailing, Bucket::AddedFailing]);
            parts.push(format!("Breaks {newly} of {total}: {causes}"));
            if failing > 0 {
                parts.push(format!("{failing} failing, unknown on base"));
            }
        }
        Conclusion::Failure => {
            let causes = causes(verdict, &[Bucket::Failing]);
            let unknown = if verdict.base.is_some() {
                ", unknown on base"
            } else {
                ""
            };
            parts.push(format!("Fails {failing} of {total}{unknown}: {causes}"));
        }
        Conclusion::Incomplete if verdict.count(Bucket::NotAnswered) == 0 => {
            parts.push(format!(
                "Abandoned: the client left before all jobs were known; {fine} of {total} ok"
            ));
        }
        Conclusion::Incomplete => parts.push(format!("Not all answered: {fine} of {total} ok")),
        Conclusion::Success if total == 0 => parts.push("No jobs: nothing was checked".to_owned()),
        Conclusion::Success => parts.push(format!("Safe: {fine} ok")),
    }
    let not_answered = verdict.count(Bucket::NotAnswered);
    if not_answered > 0 {
        parts.push(format!("{not_answered} not answered ({})", reasons(verdict)));
    }
    for bucket in [Bucket::Fixed, Bucket::StillFailing, Bucket::Removed] {
        let count = verdict.count(bucket);
        if count > 0 {
            parts.push(format!("{count} {}", bucket.words()));
        }
    }
    // The head of the sentence is set off from what qualifies it only where there is a list of causes in it.
    let separator = if verdict.conclusion == Conclusion::Failure {
        "; "
    } else {
        ", "
    };
    let mut sentence = parts.join(separator);
    if !sentence.ends_with(['.', '…']) {
        sentence.push('.');
    }
    sentence
}

fn quote(message: &str) -> String {
    let message = strip_ansi(message);
    let line = message
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .unwrap_or("without a message");
    let line = line.strip_prefix("error:").map_or(line, str::trim_start);
    let mut short: String = line.chars().take(QUOTED_CHARS).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

fn reasons(verdict: &Verdict) -> String {
    let reasons = verdict.not_answered();
    if let [(only, _)] = reasons[..] {
        return only.to_owned();
    }
    reasons
        .iter()
        .map(|(reason, rows)| format!("{} {reason}", rows.len()))
        .collect::<Vec<_>>()
        .join(", ")
}

/// Names what the rows of these buckets fail by.
fn causes(verdict: &Verdict, buckets: &[Bucket]) -> String {
    let mut at_fault: HashSet<&str> = HashSet::new();
    let mut errors = Vec::new();
    for row in verdict.rows.iter().filter(|row| buckets.contains(&row.bucket)) {
        match &row.head {
            Some(Outcome::Blocked { by }) => at_fault.extend(by.iter().map(String::as_str)),
            Some(Outcome::Failed { .. }) => at_fault.extend(row.drv_path.as_deref()),
            Some(Outcome::EvaluationError { .. }) => errors.push(&row.attr),
            Some(
                Outcome::Queued { .. }
                | Outcome::Forwarding
                | Outcome::Building
                | Outcome::Succeeded { .. }
                | Outcome::Cancelled,
            )
            | None => {}
        }
    }
    let roots: Vec<&RootCause> = verdict
        .root_causes
        .iter()
        .filter(|cause| at_fault.contains(cause.drv_path.as_str()))
        .collect();
    let mut named: Vec<String> = roots.iter().take(NAMED_CAUSES).map(|cause| name_cause(cause)).collect();
    if roots.len() > NAMED_CAUSES {
        named.push(format!("{} more causes", roots.len() - NAMED_CAUSES));
    }
    match errors[..] {
        [] => {}
        [attr] => {
            let attr = strip_ansi(&attr.to_string()).replace('\n', " ");
            named.push(format!("{attr} (evaluation error)"));
        }
        _ => named.push(format!("{} evaluation errors", errors.len())),
    }
    if named.is_empty() {
        named.push("cause unknown".to_owned());
    }
    named.join(", ")
}

fn name_cause(cause: &RootCause) -> String {
    let mut text = format!("{} ({})", cause.name, cause.class.words());
    if cause.blocks > 0 {
        let more = if cause.attr.is_some() { " more" } else { "" };
        let _ = write!(text, " blocks {}{more}", cause.blocks);
    }
    text
}
