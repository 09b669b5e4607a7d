//! How values look on a page: times, sizes, outcomes, log lines. Pure functions without state.

pub(crate) mod ansi;
pub(crate) mod bar;
pub(crate) mod mark;
pub(crate) mod time;

/// Bytes as people read them: `812 B`, `1.2 MiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if value < 1024.0 {
            return if unit == "B" {
                format!("{bytes} B")
            } else {
                format!("{value:.1} {unit}")
            };
        }
        value /= 1024.0;
    }
    format!("{value:.1} TiB")
}

/// A whole number with thin groups: `6 858`.
pub(crate) fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 * 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// At most `limit` characters, the middle replaced by an ellipsis.
pub(crate) fn shorten(text: &str, limit: usize) -> String {
    let length = text.chars().count();
    if length <= limit {
        return text.to_owned();
    }
    let tail = limit / 3;
    let head = limit.saturating_sub(tail + 1);
    let mut out: String = text.chars().take(head).collect();
    out.push('…');
    out.extend(text.chars().skip(length - tail));
    out
}

/// The first seven digits of a commit.
pub(crate) fn commit(commit: &str) -> &str {
    commit.get(..7).filter(|_| commit.len() == 40).unwrap_or(commit)
}

/// `HASH-NAME.drv` of a full path: what the address of a build's page ends in.
pub(crate) fn base_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Text for one segment of an address.
pub(crate) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~' | b'+' | b'=' | b'@' | b':') {
            out.push(byte as char);
        } else {
            out.push('%');
            out.push(char::from(HEX[usize::from(byte >> 4)]));
            out.push(char::from(HEX[usize::from(byte & 15)]));
        }
    }
    out
}

/// As [`segment`], with slashes left alone: a project's name in an address.
pub(crate) fn segments(text: &str) -> String {
    text.split('/').map(segment).collect::<Vec<_>>().join("/")
}

const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_texts() {
        assert_eq!(bytes(812), "812 B");
        assert_eq!(bytes(1_258_291), "1.2 MiB");
        assert_eq!(bytes(u64::MAX), "16777216.0 TiB");
        assert_eq!(count(7), "7");
        assert_eq!(count(140_000), "140\u{202f}000");
        assert_eq!(shorten("abcdefghij", 7), "abcd…ij");
        assert_eq!(shorten("äöü", 3), "äöü");
        assert_eq!(commit("0123456789012345678901234567890123456789"), "0123456");
        assert_eq!(commit("näher"), "näher");
        assert_eq!(segments("owner/na me?#<b>"), "owner/na%20me%3F%23%3Cb%3E");
    }
}
