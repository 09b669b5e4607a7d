//! How far a copy is: one line that is redrawn on a terminal, lines now and then otherwise.

use std::io::{self, IsTerminal, Write as _};
use std::time::{Duration, Instant};

use indicatif::ProgressBar;

use super::bars::style;
use crate::render::{grouped, plural, size};
use crate::transfer::Step;

/// At most one line in this time where nothing is redrawn.
const PACE: Duration = Duration::from_secs(10);
/// Before that a rate says nothing.
const MOMENT: Duration = Duration::from_millis(200);

/// The progress of one copy, on standard error.
pub(crate) struct Copying {
    screen: Screen,
    pace: Pace,
}

enum Screen {
    Bar(ProgressBar),
    Lines,
    /// What is printed is the result alone.
    Quiet,
}

/// What is known of time.
#[derive(Debug, Default)]
struct Pace {
    /// When it was known what is missing.
    began: Option<Instant>,
    /// When the last line was printed.
    said: Option<Instant>,
}

impl Copying {
    /// Nothing sent yet.
    pub(crate) fn new(quiet: bool) -> Self {
        let is_dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let screen = if quiet {
            Screen::Quiet
        } else if io::stderr().is_terminal() && !is_dumb {
            let template = "  {bar:32} {msg}";
            Screen::Bar(ProgressBar::new(0).with_style(style(template).progress_chars("━━─")))
        } else {
            Screen::Lines
        };
        Self {
            screen,
            pace: Pace::default(),
        }
    }

    /// Shows how far it is.
    pub(crate) fn show(&mut self, step: &Step) -> io::Result<()> {
        let now = Instant::now();
        let took = self.pace.since(step, now);
        match &self.screen {
            Screen::Bar(bar) => {
                bar.set_length(step.missing);
                bar.set_position(step.sent);
                bar.set_message(line(step, took));
                Ok(())
            }
            Screen::Lines if self.pace.is_due(step, now) => {
                writeln!(anstream::stderr().lock(), "{}", line(step, took))
            }
            Screen::Lines | Screen::Quiet => Ok(()),
        }
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        match &self.screen {
            Screen::Bar(bar) => bar.finish_and_clear(),
            Screen::Lines | Screen::Quiet => {}
        }
    }
}

impl Pace {
    /// How long it has been going on.
    fn since(&mut self, step: &Step, now: Instant) -> Duration {
        if step.missing == 0 {
            return Duration::ZERO;
        }
        now.duration_since(*self.began.get_or_insert(now))
    }

    /// Whether a line is to be printed: when it is known what is missing, and from time to time.
    fn is_due(&mut self, step: &Step, now: Instant) -> bool {
        let is_due = step.missing > 0 && self.said.is_none_or(|said| now.duration_since(said) >= PACE);
        if is_due {
            self.said = Some(now);
        }
        is_due
    }
}

/// `12,000 of 28,240 paths · 40.2 MiB · 12.3 MiB/s`
fn line(step: &Step, took: Duration) -> String {
    let paths = format!("{} of {}", grouped(step.sent), plural(step.missing, "path"));
    let bytes = size(step.sent_bytes);
    if took < MOMENT {
        return format!("{paths} · {bytes}");
    }
    let rate = step.sent_bytes as f64 / took.as_secs_f64();
    format!("{paths} · {bytes} · {}/s", size(rate as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(sent: u64, sent_bytes: u64) -> Step {
        Step {
            missing: 28_240,
            sent,
            sent_bytes,
        }
    }

    #[test]
    fn a_line_has_paths_bytes_and_the_rate_once_there_is_one() {
        let seconds = Duration::from_secs;
        assert_eq!(line(&step(0, 0), Duration::ZERO), "0 of 28,240 paths · 0 B");
        assert_eq!(
            line(&step(12_000, 42 << 20), seconds(3)),
            "12,000 of 28,240 paths · 42.0 MiB · 14.0 MiB/s"
        );
        assert_eq!(line(&step(1, 700), seconds(7)), "1 of 28,240 paths · 700 B · 100 B/s");
    }

    #[test]
    fn lines_come_when_the_size_is_known_and_then_from_time_to_time() {
        let start = Instant::now();
        let mut pace = Pace::default();
        // While it is negotiated nothing is known.
        assert!(!pace.is_due(&Step::default(), start));
        assert_eq!(pace.since(&Step::default(), start), Duration::ZERO);
        let due: Vec<bool> = [5, 6, 14, 15, 20, 25]
            .map(|after| pace.is_due(&step(1, 1), start + Duration::from_secs(after)))
            .into();
        assert_eq!(due, [true, false, false, true, false, true]);
        let begins = start + Duration::from_secs(100);
        assert_eq!(pace.since(&step(0, 0), begins), Duration::ZERO);
        assert_eq!(pace.since(&step(5, 5), begins + PACE), PACE);
    }
}
