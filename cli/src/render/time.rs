//! Times and durations as people say them.

use jiff::{Timestamp, tz::TimeZone};
use nixci_protocol::nixci::control::Millis;

/// Now, in milliseconds since the Unix epoch.
pub(crate) fn now() -> Millis {
    Timestamp::now().as_millisecond()
}

/// `0.4s`, `12s`, `3m 05s`, `2h 10m`.
pub(crate) fn duration(millis: i64) -> String {
    let millis = millis.max(0);
    let seconds = millis / 1000;
    match seconds {
        0..10 => format!("{}.{}s", seconds, millis % 1000 / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {:02}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

/// `just now`, `5 min ago`, `3 h ago`, and the day from two days on.
pub(crate) fn ago(then: Millis, now: Millis) -> String {
    let seconds = (now - then) / 1000;
    match seconds {
        ..60 => "just now".to_owned(),
        60..3600 => format!("{} min ago", seconds / 60),
        3600..172_800 => format!("{} h ago", seconds / 3600),
        _ => Timestamp::from_millisecond(then).map_or_else(
            |_| "?".to_owned(),
            |then| then.to_zoned(TimeZone::system()).strftime("%Y-%m-%d").to_string(),
        ),
    }
}
