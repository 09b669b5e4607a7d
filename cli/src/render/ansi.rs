//! Text that builders printed, made safe for a terminal.
//!
//! A build log may hold anything. Colours (CSI … `m`) are kept; every other escape sequence and control
//! character would move the cursor, set titles or answer queries, and is taken out.

/// The line with colours kept and everything else that commands a terminal taken out.
pub(crate) fn colours_only(line: &str) -> String {
    filter(line, true)
}

/// The line without any escape or control character.
pub(crate) fn plain(line: &str) -> String {
    filter(line, false)
}

fn filter(line: &str, keep_colours: bool) -> String {
    // A carriage return rewrites the line on a terminal: what a reader would have seen is its last part.
    let line = line.trim_end_matches('\r');
    let line = line.rsplit('\r').next().unwrap_or(line);
    let mut text = String::with_capacity(line.len());
    let mut coloured = false;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\t' => text.push('\t'),
            '\x1b' => match chars.peek() {
                Some('[') => {
                    chars.next();
                    let mut sequence = String::from("\x1b[");
                    while let Some(c) = chars.next_if(|c| ('\x20'..='\x3f').contains(c)) {
                        sequence.push(c);
                    }
                    if chars.next_if_eq(&'m').is_some() {
                        if keep_colours {
                            coloured = true;
                            text.push_str(&sequence);
                            text.push('m');
                        }
                    } else {
                        chars.next_if(|c| ('\x40'..='\x7e').contains(c));
                    }
                }
                // String sequences (titles, hyperlinks) end with BEL or ESC \.
                Some(']' | 'P' | '^' | '_' | 'X') => {
                    while let Some(c) = chars.next() {
                        if c == '\x07' || (c == '\x1b' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                Some(_) => {
                    chars.next();
                }
                None => {}
            },
            c if c.is_control() => {}
            c => text.push(c),
        }
    }
    if coloured {
        text.push_str("\x1b[0m");
    }
    text
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("plain", "plain", "plain")]
    #[case("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m\x1b[0m", "red")]
    #[case("a\x1b[2Kb\x1b[1;1Hc", "abc", "abc")]
    #[case("\x1b]0;title\x07text", "text", "text")]
    #[case("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link", "link")]
    #[case("10%\r50%\r100%", "100%", "100%")]
    #[case("line\r", "line", "line")]
    #[case("bell\x07\u{9b}", "bell", "bell")]
    #[case("\x1b", "", "")]
    #[case("\x1b[", "", "")]
    #[case("tab\tstays", "tab\tstays", "tab\tstays")]
    fn only_colours_survive(#[case] line: &str, #[case] coloured: &str, #[case] bare: &str) {
        assert_eq!(colours_only(line), coloured);
        assert_eq!(plain(line), bare);
    }
}
