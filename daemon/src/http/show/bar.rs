//! A bar split by state. It is SVG whose sizes are attributes, so that no inline style is needed.

use nixci_protocol::nixci::verdict::{Bucket, Verdict};

use super::mark::Mark;

/// The width of a bar in its own units.
pub(crate) const WIDTH: f64 = 1000.0;
/// The least width of a segment that is there at all.
const LEAST: f64 = 4.0;

/// One segment.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Segment {
    pub(crate) class: &'static str,
    pub(crate) label: String,
    pub(crate) x: f64,
    pub(crate) width: f64,
}

/// Segments for these parts, in this order; parts of nothing are left out, small ones stay visible.
pub(crate) fn segments(parts: &[(&'static str, &str, u64)]) -> Vec<Segment> {
    let total: u64 = parts.iter().map(|(_, _, count)| count).sum();
    if total == 0 {
        return Vec::new();
    }
    let wide = |count: u64| (count as f64 / total as f64 * WIDTH).max(LEAST);
    let whole: f64 = parts.iter().filter(|part| part.2 > 0).map(|part| wide(part.2)).sum();
    let mut x = 0.0;
    parts
        .iter()
        .filter(|part| part.2 > 0)
        .map(|(class, words, count)| {
            let width = wide(*count) / whole * WIDTH;
            let label = format!("{} {words} of {}", super::count(*count), super::count(total));
            let segment = Segment {
                class,
                label,
                x: round(x),
                width: round(width),
            };
            x += width;
            segment
        })
        .collect()
}

fn round(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// The bar of a verdict: fine, then what is not, then what is not known yet. Removed jobs are not in it.
pub(crate) fn of_verdict(verdict: &Verdict) -> Vec<Segment> {
    let order = [
        Bucket::Unchanged,
        Bucket::StillOk,
        Bucket::Ok,
        Bucket::AddedOk,
        Bucket::Fixed,
        Bucket::NewlyFailing,
        Bucket::AddedFailing,
        Bucket::Failing,
        Bucket::StillFailing,
        Bucket::NotAnswered,
        Bucket::Running,
    ];
    segments(&order.map(|bucket| (Mark::from(bucket).class, bucket.words(), verdict.count(bucket))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_full_and_shows_the_smallest_part() {
        let bar = segments(&[("ok", "ok", 100_000), ("bad", "failing", 1), ("na", "not answered", 0)]);
        assert_eq!(bar.len(), 2);
        assert!(bar[1].width >= 3.9, "{bar:?}");
        let end = bar[1].x + bar[1].width;
        assert!((end - WIDTH).abs() < 0.5, "{end}");
        assert_eq!(bar[1].label, "1 failing of 100\u{202f}001");
        assert!(segments(&[("ok", "ok", 0)]).is_empty());
    }
}
