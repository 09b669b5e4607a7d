//! What a command shows while it works: one stream of events, shown in one of three ways.
//!
//! [`bars`] redraws a few lines on a terminal, [`plain`] prints lines (folded where a CI knows how), and
//! JSON is the events themselves, one per line on standard output. Bars and lines go to standard error,
//! so that standard output holds only the result.

mod bars;
mod copying;
mod fold;
mod live;
mod plain;

use std::io::{self, IsTerminal, Write};

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{self, EvaluationId, EvaluationSummary};
use serde::Serialize;

use crate::args::Global;
use crate::context::{Ci, Env};

pub(crate) use copying::Copying;
pub(crate) use fold::Fold;

/// How far a submission is. Counters only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Totals {
    /// Attributes that evaluated to a derivation, or derivations that were given.
    pub(crate) evaluated: u64,
    /// Attributes that did not evaluate.
    pub(crate) errors: u64,
    /// Whether there are no more.
    pub(crate) all_evaluated: bool,
    /// Jobs whose closure the daemon was asked about.
    pub(crate) negotiated: u64,
    /// Store paths the daemon lacked.
    pub(crate) missing: u64,
    /// Store paths sent.
    pub(crate) uploaded: u64,
    /// Their size, as NARs, in bytes.
    pub(crate) uploaded_bytes: u64,
    /// Jobs the daemon has recorded.
    pub(crate) submitted: u64,
}

/// What happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub(crate) enum Event<'a> {
    /// The daemon knows the submission.
    Begun {
        /// Its number.
        evaluation: EvaluationId,
        /// The address of its page.
        page: Option<&'a str>,
        /// Whether it was begun before, by the same key.
        resumed: bool,
    },
    /// The counters moved.
    Sending(Totals),
    /// An attribute did not evaluate.
    AttributeError {
        /// Which.
        attr: &'a AttrPath,
        /// What the evaluator said.
        message: &'a str,
    },
    /// The daemon went away; it is tried again.
    Retrying {
        /// After so many milliseconds.
        after_ms: u64,
        /// Why.
        reason: &'a str,
    },
    /// Everything is sent.
    Sent {
        /// What the daemon says of it.
        summary: &'a EvaluationSummary,
    },
    /// Something happened to the evaluation.
    #[serde(untagged)]
    Watched(&'a control::Event),
}

/// Where events are shown.
pub(crate) enum Screen {
    /// A few lines, redrawn.
    Bars(Box<bars::Bars>),
    /// Lines.
    Plain(plain::Plain),
    /// JSON lines on standard output.
    Json,
}

impl Screen {
    /// The way that suits where the output goes.
    pub(crate) fn choose(global: &Global, env: Env<'_>) -> Self {
        if global.json {
            return Self::Json;
        }
        let ci = Ci::detect(env);
        let dumb = env("TERM").is_some_and(|term| term == "dumb");
        if ci.is_none() && !dumb && io::stderr().is_terminal() {
            Self::Bars(Box::new(bars::Bars::new()))
        } else {
            Self::Plain(plain::Plain::new(Fold::for_ci(ci), global.verbose > 0))
        }
    }

    /// Shows one event.
    pub(crate) fn show(&mut self, event: &Event<'_>) -> io::Result<()> {
        match self {
            Self::Bars(bars) => bars.show(event),
            Self::Plain(plain) => plain.show(event, &mut anstream::stderr().lock()),
            Self::Json => {
                let mut line = serde_json::to_vec(event).map_err(io::Error::other)?;
                line.push(b'\n');
                io::stdout().lock().write_all(&line)
            }
        }
    }

    /// Time passed: what shows a running clock is redrawn.
    pub(crate) fn tick(&mut self) {
        match self {
            Self::Bars(bars) => bars.tick(),
            Self::Plain(_) | Self::Json => {}
        }
    }

    /// Clears what was only there while something moved; open folds are closed.
    pub(crate) fn clear(&mut self) -> io::Result<()> {
        match self {
            Self::Bars(bars) => {
                bars.clear();
                Ok(())
            }
            Self::Plain(plain) => plain.close(&mut anstream::stderr().lock()),
            Self::Json => Ok(()),
        }
    }

    /// Whether the result is JSON too.
    pub(crate) fn is_json(&self) -> bool {
        matches!(self, Self::Json)
    }
}

#[cfg(test)]
mod tests;
