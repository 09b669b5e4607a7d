//! The live table of a watched evaluation: a line per running build, a bar of all jobs below.

use std::fmt::Write as _;

use indicatif::{MultiProgress, ProgressBar};
use nixci_protocol::nixci::control::{Counts, EvaluationState, EvaluationSummary, Millis, RunningBuild};
use nixci_protocol::nixci::verdict::derivation_name;

use super::bars::style;
use crate::render::{self, BUSY, DIM, ansi, grouped, paint, plural};

/// Builds shown at most; the rest is counted.
const ROWS: usize = 12;

/// The lines, and what they show.
pub(super) struct Live {
    lines: MultiProgress,
    colours: bool,
    rows: Vec<ProgressBar>,
    more: Option<ProgressBar>,
    bar: ProgressBar,
    running: Vec<RunningBuild>,
    unseen: usize,
}

impl Live {
    pub(super) fn new(lines: MultiProgress, colours: bool) -> Self {
        let template = if colours {
            "  {bar:32.green/dim} {wide_msg}"
        } else {
            "  {bar:32} {wide_msg}"
        };
        let bar = lines.add(ProgressBar::new(1).with_style(style(template).progress_chars("━━─")));
        Self {
            lines,
            colours,
            rows: Vec::new(),
            more: None,
            bar,
            running: Vec::new(),
            unseen: 0,
        }
    }

    pub(super) fn update(&mut self, summary: &EvaluationSummary, running: &[RunningBuild], builds_left: u64) {
        self.running = running.iter().take(ROWS).cloned().collect();
        self.unseen = running.len().saturating_sub(ROWS);
        self.bar.set_length(summary.counts.jobs.max(1));
        self.bar.set_position(done(&summary.counts));
        self.bar.set_message(self.coloured(bar_text(summary, builds_left)));
        self.draw(render::now());
    }

    /// Draws the rows as of `now`.
    pub(super) fn draw(&mut self, now: Millis) {
        while self.rows.len() > self.running.len() {
            if let Some(row) = self.rows.pop() {
                self.remove(&row);
            }
        }
        while self.rows.len() < self.running.len() {
            let row = self.insert(self.rows.len());
            self.rows.push(row);
        }
        let longest = self.running.iter().map(|build| name(build).chars().count()).max();
        let name_width = longest.unwrap_or(0).min(36);
        for (row, build) in self.rows.iter().zip(&self.running) {
            row.set_message(self.coloured(row_text(build, name_width, now)));
        }
        match (self.unseen, self.more.take()) {
            (0, None) => {}
            (0, Some(more)) => self.remove(&more),
            (unseen, more) => {
                let more = more.unwrap_or_else(|| self.insert(self.rows.len()));
                more.set_message(self.coloured(paint(DIM, format!("  and {unseen} more"))));
                self.more = Some(more);
            }
        }
    }

    fn insert(&self, at: usize) -> ProgressBar {
        self.lines
            .insert(at, ProgressBar::no_length().with_style(style("  {wide_msg}")))
    }

    fn remove(&self, line: &ProgressBar) {
        line.finish_and_clear();
        self.lines.remove(line);
    }

    fn coloured(&self, text: String) -> String {
        if self.colours {
            text
        } else {
            anstream::adapter::strip_str(&text).to_string()
        }
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        for line in self.rows.iter().chain(&self.more).chain([&self.bar]) {
            self.remove(line);
        }
    }
}

fn name(build: &RunningBuild) -> &str {
    derivation_name(&build.drv_path)
}

/// `▸ libfoo-1.2  1m 02s  auto  buildPhase  gcc -c foo.c`
pub(super) fn row_text(build: &RunningBuild, name_width: usize, now: Millis) -> String {
    let name: String = name(build).chars().take(name_width).collect();
    let mut text = format!(
        "{} {name:name_width$}  {:>7}  {}",
        paint(BUSY, "▸"),
        render::duration(now - build.started),
        paint(DIM, &build.store)
    );
    if let Some(phase) = &build.phase {
        let _ = write!(text, "  {}", ansi::plain(phase));
    }
    if let Some(line) = &build.last_line {
        let _ = write!(text, "  {}", paint(DIM, ansi::plain(line).replace('\t', " ")));
    }
    text
}

/// `120/128 jobs · 3 failed · 5 building · 12 builds left`
pub(super) fn bar_text(summary: &EvaluationSummary, builds_left: u64) -> String {
    let counts = &summary.counts;
    let mut text = format!("{}/{}", grouped(done(counts)), plural(counts.jobs, "job"));
    if summary.state == EvaluationState::Receiving {
        text.push_str(" so far");
    }
    let failed = counts.failed + counts.evaluation_errors;
    for (count, style, word) in [
        (failed, render::BAD, "failed"),
        (counts.blocked, render::BAD, "blocked"),
        (counts.cancelled, DIM, "cancelled"),
        (counts.building, BUSY, "building"),
    ] {
        if count > 0 {
            let _ = write!(text, " · {}", paint(style, format!("{} {word}", grouped(count))));
        }
    }
    if builds_left > 0 {
        let _ = write!(
            text,
            " · {}",
            paint(DIM, format!("{} left", plural(builds_left, "build")))
        );
    }
    text
}

/// Jobs that are final.
fn done(counts: &Counts) -> u64 {
    counts.jobs.saturating_sub(counts.queued + counts.building)
}
