//! The one line of a copy on a terminal.

use std::io::{self, IsTerminal};

use indicatif::ProgressBar;

use super::bars::style;
use crate::render::size;
use crate::transfer::Step;

/// A bar of paths; drawn only on a terminal, and gone at the end.
pub(crate) struct Copying(ProgressBar);

impl Copying {
    /// Nothing sent yet.
    pub(crate) fn new(quiet: bool) -> Self {
        let bar = if quiet || !io::stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            ProgressBar::new(0)
        };
        Self(bar.with_style(style("  {bar:32} {human_pos}/{human_len} paths · {msg}").progress_chars("━━─")))
    }

    /// Draws how far it is.
    pub(crate) fn show(&self, step: &Step) {
        self.0.set_length(step.missing);
        self.0.set_position(step.sent);
        self.0.set_message(size(step.sent_bytes));
    }
}

impl Drop for Copying {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}
