//! Requests that depend on what the client has already: `If-None-Match`, `Range`, `If-Range`.

use std::ops::Range;

use axum::http::HeaderMap;
use axum::http::header::{IF_NONE_MATCH, IF_RANGE, RANGE};

/// What a client wants of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Wanted {
    Whole,
    /// These bytes; there is at least one.
    Part(Range<u64>),
    /// A part that the body does not have.
    Beyond,
}

/// One range as it is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    From(u64),
    /// Both ends included.
    Between(u64, u64),
    Last(u64),
}

impl Part {
    /// What is asked for; none where the whole is to be sent: without a range, with several, with one that makes no
    /// sense, and where `If-Range` names another content than this one.
    pub(super) fn of(headers: &HeaderMap, etag: &str) -> Option<Self> {
        let mut ranges = headers.get_all(RANGE).iter();
        let range = ranges.next()?;
        if ranges.next().is_some() {
            return None;
        }
        // A date is never ours: nothing here has one.
        if headers
            .get(IF_RANGE)
            .is_some_and(|only| only.as_bytes() != etag.as_bytes())
        {
            return None;
        }
        Self::parse(range.to_str().ok()?)
    }

    fn parse(text: &str) -> Option<Self> {
        let (unit, range) = text.split_once('=')?;
        if !unit.trim().eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (first, last) = range.trim().split_once('-')?;
        match (number(first), number(last)) {
            (Some(first), Some(last)) if first <= last => Some(Self::Between(first, last)),
            (Some(first), None) if last.is_empty() => Some(Self::From(first)),
            (None, Some(last)) if first.is_empty() => Some(Self::Last(last)),
            _ => None,
        }
    }

    fn within(self, length: u64) -> Wanted {
        let (first, end) = match self {
            Self::From(first) => (first, length),
            Self::Between(first, last) => (first, last.saturating_add(1).min(length)),
            Self::Last(count) => (length.saturating_sub(count), length),
        };
        if first < end {
            Wanted::Part(first..end)
        } else {
            Wanted::Beyond
        }
    }
}

/// Digits only: `+1` is not a number here.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    // More than there can be is as good as the largest number.
    Some(text.parse().unwrap_or(u64::MAX))
}

/// What of a body of this length is to be sent.
pub(super) fn wanted(part: Option<Part>, length: u64) -> Wanted {
    part.map_or(Wanted::Whole, |part| part.within(length))
}

/// Whether the client has this content already.
pub(super) fn has_it(headers: &HeaderMap, etag: &str) -> bool {
    headers
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;

    use super::*;

    const ETAG: &str = "\"abc\"";

    fn asked(headers: &[(HeaderName, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(name.clone(), value.parse().unwrap());
        }
        map
    }

    #[test]
    fn single_ranges_are_parts_and_everything_else_is_the_whole() {
        for (range, expected) in [
            ("bytes=0-", Wanted::Part(0..100)),
            ("bytes=0-0", Wanted::Part(0..1)),
            ("Bytes = 10-19", Wanted::Part(10..20)),
            ("bytes=90-1000", Wanted::Part(90..100)),
            ("bytes=99-", Wanted::Part(99..100)),
            ("bytes=-1", Wanted::Part(99..100)),
            ("bytes=-1000", Wanted::Part(0..100)),
            ("bytes=0-99999999999999999999999", Wanted::Part(0..100)),
            ("bytes=100-", Wanted::Beyond),
            ("bytes=100-200", Wanted::Beyond),
            ("bytes=-0", Wanted::Beyond),
            ("bytes=99999999999999999999999-", Wanted::Beyond),
            ("bytes=2-1", Wanted::Whole),
            ("bytes=-", Wanted::Whole),
            ("bytes=", Wanted::Whole),
            ("bytes=0-1,5-6", Wanted::Whole),
            ("bytes=+1-2", Wanted::Whole),
            ("bytes=a-b", Wanted::Whole),
            ("bytes=1--2", Wanted::Whole),
            ("lines=0-1", Wanted::Whole),
            ("0-1", Wanted::Whole),
            ("", Wanted::Whole),
        ] {
            let headers = asked(&[(RANGE, range)]);
            assert_eq!(wanted(Part::of(&headers, ETAG), 100), expected, "{range}");
        }
        assert_eq!(wanted(Some(Part::From(0)), 0), Wanted::Beyond);
        assert_eq!(wanted(Part::of(&asked(&[]), ETAG), 0), Wanted::Whole);
        let twice = asked(&[(RANGE, "bytes=0-1"), (RANGE, "bytes=2-3")]);
        assert_eq!(Part::of(&twice, ETAG), None);
    }

    #[test]
    fn a_range_of_another_content_is_not_given() {
        for (only, expected) in [
            (ETAG, true),
            ("\"other\"", false),
            ("W/\"abc\"", false),
            ("Sat, 21 Nov 2026 13:26:42 GMT", false),
        ] {
            let headers = asked(&[(RANGE, "bytes=1-"), (IF_RANGE, only)]);
            assert_eq!(Part::of(&headers, ETAG).is_some(), expected, "{only}");
        }
    }

    #[test]
    fn what_the_client_has_is_told_by_any_of_its_tags() {
        for (tags, expected) in [
            (ETAG, true),
            ("W/\"abc\"", true),
            ("\"x\", \"abc\"", true),
            ("*", true),
            ("\"x\"", false),
            ("abc", false),
            ("", false),
        ] {
            assert_eq!(has_it(&asked(&[(IF_NONE_MATCH, tags)]), ETAG), expected, "{tags}");
        }
    }
}
