//! Texts as forges take them: in the paths of requests, and no longer than they keep.

/// A text as one segment of a path: RFC 3986's unreserved characters stay, every other byte becomes `%XX`.
pub(super) fn segment(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(char::from(byte)),
            _ => {
                out.push('%');
                out.push_str(&data_encoding::HEXUPPER.encode(&[byte]));
            }
        }
    }
    out
}

/// One line of at most this many characters; a longer one ends in `…`.
pub(super) fn line(text: &str, chars: usize) -> String {
    let mut line: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if let Some((end, _)) = line.char_indices().nth(chars) {
        let kept = line
            .char_indices()
            .nth(chars.saturating_sub(1))
            .map_or(end, |(at, _)| at);
        line.truncate(kept);
        line.push('…');
    }
    line.trim().to_owned()
}

/// A name in Markdown, between so many backticks that nothing in it is markup or mentions anybody.
pub(super) fn code(text: &str) -> String {
    let text = line(text, usize::MAX);
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or_default();
    let fence = "`".repeat(longest + 1);
    if text.starts_with('`') || text.ends_with('`') {
        format!("{fence} {text} {fence}")
    } else {
        format!("{fence}{text}{fence}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_hold_nothing_that_ends_them() {
        assert_eq!(segment("group/sub/name"), "group%2Fsub%2Fname");
        assert_eq!(segment("a b?c#d%é~"), "a%20b%3Fc%23d%25%C3%A9~");
    }

    #[test]
    fn lines_are_cut_between_characters() {
        assert_eq!(line("a\nb", 10), "a b");
        assert_eq!(line("ééééé", 5), "ééééé");
        assert_eq!(line("éééééé", 5), "éééé…");
        assert_eq!(line("x", 0), "…");
    }

    #[test]
    fn code_ends_where_the_text_ends() {
        for (text, expected) in [
            ("a", "`a`"),
            ("a`b", "``a`b``"),
            ("`a``", "``` `a`` ```"),
            ("@all <b>", "`@all <b>`"),
        ] {
            assert_eq!(code(text), expected);
        }
    }
}
