//! Durations as people write them in a configuration: `90s`, `10m`, `12h`, `7d`.

use std::time::Duration;

/// Reads one. A number alone has no unit and is refused, because nobody remembers which it was.
pub(crate) fn parse(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let unit_at = text
        .find(|c: char| !c.is_ascii_digit())
        .ok_or_else(|| format!("`{text}` has no unit; write it like 90s, 10m, 12h or 7d"))?;
    let (number, unit) = text.split_at(unit_at);
    let seconds: u64 = match unit.trim() {
        "s" => 1,
        "m" | "min" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(format!("`{text}` is not a duration; write it like 90s, 10m, 12h or 7d")),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|n| n.checked_mul(seconds))
        .filter(|s| *s <= 3_650 * 86_400)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is not a duration of at most 3650d"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_need_a_number_and_a_unit() {
        assert_eq!(parse("90s"), Ok(Duration::from_secs(90)));
        assert_eq!(parse("10 m"), Ok(Duration::from_mins(10)));
        assert_eq!(parse("7d"), Ok(Duration::from_hours(168)));
        for bad in ["", "7", "d", "7w", "-1s", "99999999999999999999d", "9999d"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
