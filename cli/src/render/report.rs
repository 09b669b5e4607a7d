//! What forges have been told.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anstyle::Style;
use nixci_protocol::nixci::control::Millis;
use nixci_protocol::nixci::report::{StatusReport, StatusState};

use super::table::{Grid, cell, dim, painted};
use super::{BAD, BUSY, DIM, GOOD, STRONG, WARN, ansi, commit, grouped, paint, time};

/// How far a status is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// The forge has the newest.
    Sent,
    /// It is to be sent.
    Waiting,
    /// Nothing more is tried until something changes.
    Refused,
}

impl Progress {
    /// Of one status.
    pub(crate) fn of(status: &StatusReport) -> Self {
        if status.is_sent {
            Self::Sent
        } else if status.is_refused {
            Self::Refused
        } else {
            Self::Waiting
        }
    }
}

/// A line per status under the commit it is at, and then what stands in the way.
pub(crate) fn report(statuses: &[StatusReport], now: Millis) -> String {
    let mut places: Vec<(Place<'_>, Vec<&StatusReport>)> = Vec::new();
    for status in statuses {
        let place = Place::of(status);
        match places.iter_mut().find(|(other, _)| *other == place) {
            Some((_, there)) => there.push(status),
            None => places.push((place, vec![status])),
        }
    }
    let mut text = String::new();
    for (nth, (place, statuses)) in places.iter().enumerate() {
        if nth > 0 {
            text.push('\n');
        }
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{} {} @ {}",
            paint(STRONG, place.forge),
            ansi::plain(place.repository),
            commit(place.commit)
        );
        text.push_str(&table(statuses, now));
        text.push_str(&troubles(statuses));
    }
    text
}

#[derive(Debug, PartialEq, Eq)]
struct Place<'a> {
    forge: &'a str,
    repository: &'a str,
    commit: &'a str,
}

impl<'a> Place<'a> {
    fn of(status: &'a StatusReport) -> Self {
        Self {
            forge: &status.forge,
            repository: &status.repository,
            commit: &status.commit,
        }
    }
}

fn table(statuses: &[&StatusReport], now: Millis) -> String {
    let mut grid = Grid::new(&["", "context", "says", "sent", "when", "in words"]);
    for status in statuses {
        let (glyph, style) = mark(status.state);
        let (sent, sent_style) = sent(status);
        grid.row(vec![
            painted(style, glyph),
            cell(ansi::plain(&status.context)),
            painted(style, status.state.word()),
            painted(sent_style, sent),
            dim(status.sent.map_or_else(|| "–".to_owned(), |sent| time::ago(sent, now))),
            dim(ansi::plain(&status.description)),
        ]);
    }
    grid.text()
}

/// What was wrong, each thing once, with the number of statuses it holds up.
fn troubles(statuses: &[&StatusReport]) -> String {
    let mut troubles: BTreeMap<(&str, bool), u64> = BTreeMap::new();
    for status in statuses {
        if let (false, Some(error)) = (status.is_sent, &status.error) {
            *troubles.entry((error, status.is_refused)).or_default() += 1;
        }
    }
    let mut text = String::new();
    for ((error, is_refused), count) in troubles {
        let (glyph, style, until) = if is_refused {
            ("✕", BAD, "refused")
        } else {
            ("!", WARN, "tried again")
        };
        let _ = writeln!(
            text,
            "  {} {} {until}: {}",
            paint(style, glyph),
            plural_statuses(count),
            ansi::plain(error)
        );
    }
    text
}

/// `1 status`, `2 statuses`.
pub(crate) fn plural_statuses(count: u64) -> String {
    match count {
        1 => "1 status".to_owned(),
        _ => format!("{} statuses", grouped(count)),
    }
}

fn sent(status: &StatusReport) -> (String, Style) {
    let shows = |word: &str| match status.sent_state {
        Some(old) if old != status.state => format!("{word}, shows {}", old.word()),
        Some(_) | None => word.to_owned(),
    };
    match Progress::of(status) {
        Progress::Sent => ("yes".to_owned(), GOOD),
        Progress::Waiting => (shows("not yet"), WARN),
        Progress::Refused => (shows("refused"), BAD),
    }
}

fn mark(state: StatusState) -> (&'static str, Style) {
    match state {
        StatusState::Queued => ("·", DIM),
        StatusState::Running => ("▸", BUSY),
        StatusState::Success => ("✓", GOOD),
        StatusState::Failure => ("✕", BAD),
        StatusState::Error | StatusState::ActionRequired => ("!", WARN),
        StatusState::Cancelled | StatusState::Neutral => ("–", DIM),
    }
}

#[cfg(test)]
mod tests {
    use nixci_protocol::nixci::control::EvaluationId;
    use nixci_protocol::nixci::report::StatusRole;

    use super::*;

    const NOW: Millis = 1_800_000_000_000;

    fn status(context: &str, state: StatusState) -> StatusReport {
        StatusReport {
            forge: "github".into(),
            repository: "o/n".into(),
            commit: "1".repeat(40),
            context: context.into(),
            role: StatusRole::Job,
            evaluation: EvaluationId(12),
            attr: None,
            state,
            description: "built in 12s".into(),
            sent_state: Some(state),
            is_sent: true,
            sent: Some(NOW - 130_000),
            writes: 1,
            error: None,
            is_refused: false,
        }
    }

    fn not_sent(context: &str, state: StatusState, old: Option<StatusState>, error: &str) -> StatusReport {
        StatusReport {
            is_sent: false,
            sent_state: old,
            sent: old.map(|_| NOW - 7_200_000),
            error: Some(error.into()),
            ..status(context, state)
        }
    }

    #[test]
    fn what_was_sent_stands_beside_what_was_not_and_reasons_stand_once() {
        let failed = "`github` did not answer: connection refused";
        let refused = |context| StatusReport {
            is_refused: true,
            ..not_sent(
                context,
                StatusState::Failure,
                None,
                "`github` did not take it: \u{1b}[31mtoo long (422)",
            )
        };
        let elsewhere = StatusReport {
            forge: "hook".into(),
            repository: "g/s/n".into(),
            ..status("nixci", StatusState::Success)
        };
        let text = report(
            &[
                not_sent("nixci", StatusState::Failure, Some(StatusState::Running), failed),
                status("nixci / checks.a", StatusState::Success),
                elsewhere,
                not_sent("nixci / checks.b", StatusState::Queued, None, failed),
                refused("nixci / checks.c"),
                refused("nixci / checks.d"),
            ],
            NOW,
        );
        insta::assert_snapshot!(anstream::adapter::strip_str(&text).to_string());
    }

    #[test]
    fn every_state_has_a_glyph_of_its_kind() {
        for state in StatusState::ALL {
            let (glyph, style) = mark(state);
            assert_eq!(
                style == BAD || style == WARN,
                state.is_red() && state != StatusState::Cancelled,
                "{glyph}"
            );
        }
    }
}
