//! Progress as lines, for logs.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::{Duration, Instant};

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{self, JobStatus};
use nixci_protocol::nixci::outcome::Outcome;

use super::{Event, Fold, Totals};
use crate::render::{self, ansi, grouped, plural, size};

/// At most one line about counters in this time; the last one is always printed.
const PACE: Duration = Duration::from_secs(10);

/// Prints events as lines.
pub(crate) struct Plain {
    fold: Fold,
    /// Every job is worth a line, not only those that failed.
    every_job: bool,
    open: Option<&'static str>,
    last_line: Option<Instant>,
    last_counts: String,
    /// Attributes whose error was printed: the daemon tells it again.
    told: HashSet<AttrPath>,
}

impl Plain {
    /// Nothing printed yet.
    pub(crate) fn new(fold: Fold, every_job: bool) -> Self {
        Self {
            fold,
            // What is folded away may be long.
            every_job: every_job || fold != Fold::None,
            open: None,
            last_line: None,
            last_counts: String::new(),
            told: HashSet::new(),
        }
    }

    /// Prints one event.
    pub(crate) fn show(&mut self, event: &Event<'_>, out: &mut impl Write) -> io::Result<()> {
        match event {
            Event::Begun {
                evaluation,
                page,
                resumed,
            } => {
                if !resumed {
                    self.open("nixci_submit", &format!("Submitting evaluation #{}", evaluation.0), out)?;
                }
                let again = if *resumed { "resumed" } else { "begun" };
                let page = page.map(|page| format!(": {page}")).unwrap_or_default();
                writeln!(out, "evaluation #{} {again}{page}", evaluation.0)
            }
            Event::Sending(totals) => self.paced(&sending(totals), out),
            Event::AttributeError { attr, message } => {
                self.told.insert((*attr).clone());
                writeln!(out, "{attr} does not evaluate:")?;
                // The bar keeps a CI from taking what an evaluator printed for a workflow command.
                for line in message.lines() {
                    writeln!(out, "  │ {}", ansi::plain(line))?;
                }
                Ok(())
            }
            Event::Retrying { after_ms, reason } => {
                let after = render::duration(i64::try_from(*after_ms).unwrap_or(i64::MAX));
                writeln!(out, "{reason}; trying again in {after}")
            }
            Event::Sent { summary } => {
                writeln!(out, "submitted: {}", render::counts(&summary.counts))?;
                self.close(out)
            }
            Event::Watched(event) => self.watched(event, out),
        }
    }

    fn watched(&mut self, event: &control::Event, out: &mut impl Write) -> io::Result<()> {
        match event {
            control::Event::Progress {
                summary, builds_left, ..
            } => {
                if self.open.is_none() {
                    self.open(
                        "nixci_build",
                        &format!("Building evaluation #{}", summary.evaluation.0),
                        out,
                    )?;
                }
                let mut line = render::counts(&summary.counts);
                if *builds_left > 0 {
                    let _ = write!(line, " · {} left", plural(*builds_left, "build"));
                }
                self.paced(&line, out)
            }
            control::Event::Job(job) => {
                if (self.every_job || is_root_of_trouble(&job.outcome)) && !self.told.contains(&job.attr) {
                    writeln!(out, "{}", job_line(job))?;
                }
                Ok(())
            }
            control::Event::Done { summary, .. } => {
                writeln!(out, "{}", render::counts(&summary.counts))?;
                self.close(out)
            }
        }
    }

    /// Prints the line if it says something new and the last one is old enough.
    fn paced(&mut self, line: &str, out: &mut impl Write) -> io::Result<()> {
        if line == self.last_counts || self.last_line.is_some_and(|last| last.elapsed() < PACE) {
            return Ok(());
        }
        self.last_line = Some(Instant::now());
        line.clone_into(&mut self.last_counts);
        writeln!(out, "{line}")
    }

    fn open(&mut self, id: &'static str, title: &str, out: &mut impl Write) -> io::Result<()> {
        self.close(out)?;
        self.open = Some(id);
        out.write_all(self.fold.open(id, title).as_bytes())
    }

    /// Closes the open fold, if one is.
    pub(crate) fn close(&mut self, out: &mut impl Write) -> io::Result<()> {
        self.last_line = None;
        match self.open.take() {
            Some(id) => out.write_all(self.fold.close(id).as_bytes()),
            None => Ok(()),
        }
    }
}

/// The counters of a submission in a line.
fn sending(totals: &Totals) -> String {
    let mut line = format!("{} evaluated", plural(totals.evaluated, "job"));
    if totals.errors > 0 {
        let _ = write!(line, ", {}", plural(totals.errors, "error"));
    }
    let _ = write!(line, " · {} negotiated", grouped(totals.negotiated));
    if totals.missing > 0 {
        let _ = write!(
            line,
            " · {} of {} sent ({})",
            grouped(totals.uploaded),
            plural(totals.missing, "path"),
            size(totals.uploaded_bytes)
        );
    }
    let _ = write!(line, " · {} submitted", grouped(totals.submitted));
    line
}

/// Whether a job's end is worth a line where only trouble is: what is merely blocked is counted.
pub(super) fn is_root_of_trouble(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed { .. } | Outcome::EvaluationError { .. } => true,
        Outcome::Queued { .. }
        | Outcome::Forwarding
        | Outcome::Building
        | Outcome::Succeeded { .. }
        | Outcome::Blocked { .. }
        | Outcome::Cancelled => false,
    }
}

/// `✕ checks.a  build failed  12s`
pub(super) fn job_line(job: &JobStatus) -> String {
    let (glyph, style) = render::mark(&job.outcome);
    let mut line = format!(
        "{} {}  {}",
        render::paint(style, glyph),
        job.attr,
        render::paint(style, render::outcome_words(&job.outcome))
    );
    if let Some(time) = job.duration_ms {
        let _ = write!(line, "  {}", render::paint(render::DIM, render::duration(time)));
    }
    line
}
