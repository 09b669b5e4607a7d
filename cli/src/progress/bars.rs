//! Progress on a terminal: the phases of a submission, then the builds that run.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::io;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control;

use super::live::Live;
use super::plain::{is_root_of_trouble, job_line};
use super::{Event, Totals};
use crate::render::{self, DIM, WARN, grouped, paint, plural, size};

/// How often spinners turn by themselves.
const TURN: Duration = Duration::from_millis(120);

/// The lines on the terminal; they are cleared when they have served.
pub(crate) struct Bars {
    lines: MultiProgress,
    colours: bool,
    phases: Option<Phases>,
    live: Option<Live>,
    /// How far the submission was when it was last heard of.
    totals: Totals,
    /// Attributes whose error was shown: the daemon tells it again.
    told: HashSet<AttrPath>,
}

/// One line per phase of a submission.
struct Phases {
    evaluated: ProgressBar,
    negotiated: ProgressBar,
    uploaded: ProgressBar,
}

impl Bars {
    /// Nothing drawn yet.
    pub(crate) fn new() -> Self {
        let choice = anstream::AutoStream::choice(&io::stderr());
        Self {
            lines: MultiProgress::new(),
            colours: choice != anstream::ColorChoice::Never,
            phases: None,
            live: None,
            totals: Totals::default(),
            told: HashSet::new(),
        }
    }

    /// Draws one event.
    pub(crate) fn show(&mut self, event: &Event<'_>) -> io::Result<()> {
        match event {
            Event::Begun {
                evaluation,
                page,
                resumed,
            } => {
                if !resumed {
                    let page = page.map(|page| paint(DIM, format!("  {page}"))).unwrap_or_default();
                    self.above(&format!("evaluation #{}{page}", evaluation.0))?;
                }
            }
            Event::Sending(totals) => {
                self.totals = *totals;
                self.phases().update(totals);
            }
            Event::AttributeError { attr, message } => {
                self.told.insert((*attr).clone());
                let first = render::first_line(message);
                self.above(&format!("{} {attr}  {}", paint(render::BAD, "✕"), paint(DIM, first)))?;
            }
            Event::Retrying { after_ms, reason } => {
                let after = render::duration(i64::try_from(*after_ms).unwrap_or(i64::MAX));
                self.above(&paint(WARN, format!("{reason}; trying again in {after}")))?;
            }
            Event::Sent { .. } => {
                self.phases = None;
                self.above(&format!("{} {}", paint(render::GOOD, "✓"), sent(&self.totals)))?;
            }
            Event::Watched(control::Event::Progress {
                summary,
                running,
                builds_left,
            }) => {
                let (lines, colours) = (&self.lines, self.colours);
                let live = self.live.get_or_insert_with(|| Live::new(lines.clone(), colours));
                live.update(summary, running, *builds_left);
            }
            Event::Watched(control::Event::Job(job)) => {
                if is_root_of_trouble(&job.outcome) && !self.told.contains(&job.attr) {
                    self.above(&job_line(job))?;
                }
            }
            Event::Watched(control::Event::Done { .. }) => self.clear(),
        }
        Ok(())
    }

    /// Redraws running clocks.
    pub(crate) fn tick(&mut self) {
        if let Some(live) = &mut self.live {
            live.draw(render::now());
        }
    }

    /// Takes away every line that moves.
    pub(crate) fn clear(&mut self) {
        self.phases = None;
        self.live = None;
    }

    /// A line that stays, above those that move.
    fn above(&self, line: &str) -> io::Result<()> {
        if self.colours {
            self.lines.println(line)
        } else {
            self.lines.println(anstream::adapter::strip_str(line).to_string())
        }
    }

    fn phases(&mut self) -> &Phases {
        let (lines, colours) = (&self.lines, self.colours);
        self.phases.get_or_insert_with(|| Phases::new(lines, colours))
    }
}

impl Phases {
    fn new(lines: &MultiProgress, colours: bool) -> Self {
        let template = if colours {
            "  {spinner:.cyan} {prefix:10} {msg}"
        } else {
            "  {spinner} {prefix:10} {msg}"
        };
        let line = |name: &'static str| {
            let bar = lines.add(ProgressBar::no_length().with_style(style(template).tick_chars("⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏✓")));
            bar.set_prefix(name);
            bar.enable_steady_tick(TURN);
            bar
        };
        Self {
            evaluated: line("evaluated"),
            negotiated: line("negotiated"),
            uploaded: line("uploaded"),
        }
    }

    fn update(&self, totals: &Totals) {
        let mut evaluated = plural(totals.evaluated, "job");
        if totals.errors > 0 {
            let _ = write!(evaluated, ", {}", plural(totals.errors, "error"));
        }
        self.evaluated.set_message(evaluated);
        if totals.all_evaluated && !self.evaluated.is_finished() {
            self.evaluated.finish();
        }
        self.negotiated
            .set_message(if totals.missing == 0 && totals.negotiated > 0 {
                format!("{}, nothing missing", grouped(totals.negotiated))
            } else {
                format!(
                    "{}, {} missing",
                    grouped(totals.negotiated),
                    plural(totals.missing, "path")
                )
            });
        self.uploaded.set_message(format!(
            "{}, {}",
            plural(totals.uploaded, "path"),
            size(totals.uploaded_bytes)
        ));
    }
}

impl Drop for Phases {
    fn drop(&mut self) {
        for bar in [&self.evaluated, &self.negotiated, &self.uploaded] {
            bar.finish_and_clear();
        }
    }
}

/// `12 jobs submitted, 40 paths sent (68.4 KiB)`
fn sent(totals: &Totals) -> String {
    let jobs = plural(totals.submitted, "job");
    if totals.uploaded == 0 {
        format!("{jobs} submitted, nothing had to be sent")
    } else {
        let paths = plural(totals.uploaded, "path");
        format!("{jobs} submitted, {paths} sent ({})", size(totals.uploaded_bytes))
    }
}

/// A style whose template is known to be right; a wrong one falls back to indicatif's own.
pub(super) fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}
