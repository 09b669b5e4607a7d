//! Evaluations: a line each in a list, or the head of what is said about one.

use std::fmt::Write as _;

use nixci_protocol::nixci::control::{Counts, EvaluationState, EvaluationSummary, Millis};

use super::table::{Grid, cell, dim, number, painted};
use super::{BAD, BUSY, DIM, GOOD, STRONG, WARN, commit, duration, grouped, paint, time};

/// The newest evaluations, a line each.
pub(crate) fn list(evaluations: &[EvaluationSummary], now: Millis) -> String {
    if evaluations.is_empty() {
        return "no evaluations yet: `nixci submit` makes one\n".to_owned();
    }
    let mut grid = Grid::new(&[
        "", "#", "project", "commit", "ref", "state", "jobs", "failed", "left", "when",
    ]);
    for one in evaluations {
        let (glyph, style, word) = state(one);
        let bad = one.counts.failed + one.counts.blocked + one.counts.evaluation_errors;
        grid.row(vec![
            painted(style, glyph),
            number(one.evaluation.0),
            cell(&one.project),
            dim(one.commit.as_deref().map_or("–", commit)),
            cell(one.git_ref.as_deref().unwrap_or("–")),
            painted(style, word),
            number(grouped(one.counts.jobs)),
            number(if bad == 0 { String::new() } else { grouped(bad) }),
            number(match left(&one.counts) {
                0 => String::new(),
                left => grouped(left),
            }),
            dim(time::ago(one.created, now)),
        ]);
    }
    grid.text()
}

/// Glyph, colour and word of where an evaluation stands.
fn state(one: &EvaluationSummary) -> (&'static str, anstyle::Style, &'static str) {
    let counts = &one.counts;
    match one.state {
        EvaluationState::Receiving => ("▸", BUSY, "receiving"),
        EvaluationState::Building => ("▸", BUSY, "building"),
        EvaluationState::Cancelled => ("–", DIM, "cancelled"),
        EvaluationState::Abandoned => ("!", WARN, "abandoned"),
        EvaluationState::Done => {
            if one.error.is_some() {
                ("✕", BAD, "did not evaluate")
            } else if counts.failed + counts.blocked + counts.evaluation_errors > 0 {
                ("✕", BAD, "failed")
            } else if counts.cancelled > 0 {
                ("–", DIM, "cancelled")
            } else {
                ("✓", GOOD, "done")
            }
        }
    }
}

/// Jobs that are not final.
fn left(counts: &Counts) -> u64 {
    counts.queued + counts.building
}

/// What is said first of one evaluation: number, project, commit, source, state.
pub(crate) fn headline(one: &EvaluationSummary, now: Millis) -> String {
    let (glyph, style, word) = state(one);
    let took = one.ended.map_or_else(
        || time::ago(one.created, now),
        |ended| {
            format!(
                "{} · took {}",
                time::ago(one.created, now),
                duration(ended - one.created)
            )
        },
    );
    let mut text = format!(
        "{} {} {}{}{}  {}\n",
        paint(style, glyph),
        paint(STRONG, format!("#{}", one.evaluation.0)),
        one.project,
        one.commit
            .as_deref()
            .map(|full| format!(" @ {}", commit(full)))
            .unwrap_or_default(),
        one.git_ref
            .as_deref()
            .map(|name| format!(" ({name})"))
            .unwrap_or_default(),
        paint(DIM, format!("{} · {took}", one.source)),
    );
    let _ = writeln!(text, "  {}: {}", paint(style, word), counts(&one.counts));
    if let Some(error) = &one.error {
        for line in error.lines() {
            let _ = writeln!(text, "  {}", paint(BAD, super::ansi::plain(line)));
        }
    }
    text
}

/// `128 jobs · 120 ok · 3 failed · 5 building`: what is zero is left out.
pub(crate) fn counts(counts: &Counts) -> String {
    let mut parts = vec![super::plural(counts.jobs, "job")];
    for (count, style, word) in [
        (counts.succeeded, GOOD, "ok"),
        (counts.failed, BAD, "failed"),
        (counts.blocked, BAD, "blocked"),
        (counts.evaluation_errors, BAD, "did not evaluate"),
        (counts.cancelled, DIM, "cancelled"),
        (counts.building, BUSY, "building"),
        (counts.queued, DIM, "queued"),
    ] {
        if count > 0 {
            parts.push(paint(style, format!("{} {word}", grouped(count))));
        }
    }
    parts.join(" · ")
}
