//! What forges are told of an evaluation, and what they have of it.

use nixci_protocol::nixci::control::Millis;
use nixci_protocol::nixci::report::StatusReport;

use crate::http::show::mark::Mark;
use crate::http::show::shorten;
use crate::http::show::time::When;

/// Statuses that are shown; what is not as it should be comes first.
const SHOWN: usize = 60;

pub(in crate::http) struct ToldView {
    pub(super) mark: Mark,
    pub(super) forge: String,
    pub(super) context: String,
    pub(super) description: String,
    /// Since when the forge has it.
    pub(super) sent: Option<When>,
    /// Why it has not.
    pub(super) error: Option<String>,
    pub(super) refused: bool,
}

/// The statuses that are shown, and how many there are.
pub(super) fn views(mut reports: Vec<StatusReport>, now: Millis) -> (Vec<ToldView>, usize) {
    let total = reports.len();
    reports.sort_by_key(|report| (!report.is_refused, report.is_sent));
    let shown = reports.into_iter().take(SHOWN).map(|report| ToldView {
        mark: report.state.into(),
        sent: report.sent.filter(|_| report.is_sent).map(|sent| When::new(sent, now)),
        error: report
            .error
            .filter(|_| !report.is_sent)
            .map(|error| shorten(&error, 300)),
        forge: shorten(&report.forge, 40),
        context: shorten(&report.context, 140),
        description: shorten(&report.description, 140),
        refused: report.is_refused,
    });
    (shown.collect(), total)
}
