//! Times and durations.

use jiff::Timestamp;
use nixci_protocol::nixci::control::Millis;

/// The time on the wall.
pub(crate) fn now() -> Millis {
    Timestamp::now().as_millisecond()
}

/// A moment: what a page shows, and what its title says exactly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct When {
    /// `3 min ago`.
    pub(crate) text: String,
    /// `2026-11-21 10:30:54 UTC`.
    pub(crate) exact: String,
}

impl When {
    pub(crate) fn new(at: Millis, now: Millis) -> Self {
        Self {
            text: ago(at, now),
            exact: exact(at),
        }
    }
}

fn exact(at: Millis) -> String {
    match Timestamp::from_millisecond(at) {
        Ok(at) => at.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        Err(_) => format!("{at} ms since 1970"),
    }
}

fn ago(at: Millis, now: Millis) -> String {
    let seconds = now.saturating_sub(at) / 1000;
    match seconds {
        ..5 => "just now".to_owned(),
        5..90 => format!("{seconds} s ago"),
        90..5_400 => format!("{} min ago", (seconds + 30) / 60),
        5_400..129_600 => format!("{} h ago", (seconds + 1_800) / 3_600),
        129_600..5_184_000 => format!("{} days ago", (seconds + 43_200) / 86_400),
        _ => exact(at).chars().take(10).collect(),
    }
}

/// `0.4 s`, `41 s`, `2 min 14 s`, `1 h 3 min`.
pub(crate) fn duration(millis: i64) -> String {
    let millis = millis.max(0);
    let seconds = millis / 1000;
    match seconds {
        ..10 => format!("{}.{} s", seconds, millis % 1000 / 100),
        10..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3_600, seconds % 3_600 / 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_said_as_people_say_them() {
        let now = 1_800_000_000_000;
        for (before_seconds, said) in [
            (-60, "just now"),
            (4, "just now"),
            (89, "89 s ago"),
            (180, "3 min ago"),
            (7_200, "2 h ago"),
            (3 * 86_400, "3 days ago"),
            (90 * 86_400, "2026-10-17"),
        ] {
            assert_eq!(ago(now - before_seconds * 1000, now), said);
        }
        assert_eq!(exact(now), "2027-01-15 08:00:00 UTC");
        assert_eq!(exact(i64::MAX), "9223372036854775807 ms since 1970");
        for (millis, said) in [
            (-5, "0.0 s"),
            (420, "0.4 s"),
            (41_000, "41 s"),
            (134_000, "2 min 14 s"),
            (3_780_000, "1 h 3 min"),
        ] {
            assert_eq!(duration(millis), said);
        }
    }
}
