//! Texts within GitHub's limits.
//!
//! What is too long loses, in this order: annotations beyond [`super::checks`]'s bound, the end of the text, the end of the
//! summary. Each says that it was cut.

use std::fmt::Write as _;

/// The longest summary, and the longest text, of a check run. GitHub's reference says characters; they are counted as bytes
/// here, of which there are never fewer, because it does not say which characters.
pub(super) const MARKDOWN_BYTES: usize = 65_535;

/// One line of plain text of at most so many characters: names and titles are shown as they are, not as Markdown. Control
/// characters become spaces; those that turn the direction of writing, which can make a name look like another, go.
pub(super) fn line(text: &str, chars: usize) -> String {
    let mut line = text
        .chars()
        .filter(
            |c| !matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}'),
        )
        .map(|c| {
            if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') {
                ' '
            } else {
                c
            }
        });
    let mut kept: String = line.by_ref().take(chars).collect();
    if line.next().is_some() {
        kept.pop();
        kept.push('…');
    }
    kept.trim().to_owned()
}

/// Plain text of at most so many bytes, cut between characters.
pub(super) fn plain(text: &str, bytes: usize) -> String {
    const CUT: &str = "\n… (cut)";
    if text.len() <= bytes {
        return text.to_owned();
    }
    format!("{}{CUT}", &text[..text.floor_char_boundary(bytes - CUT.len())])
}

/// Markdown of at most [`MARKDOWN_BYTES`]: cut behind a line, with what is open there closed, and a last line that says so
/// and where the whole is.
pub(super) fn markdown(text: &str, url: Option<&str>) -> String {
    within(text, url, MARKDOWN_BYTES)
}

fn within(text: &str, url: Option<&str>, bytes: usize) -> String {
    if text.len() <= bytes {
        return text.to_owned();
    }
    let mut note = String::from("\n\n… cut here, as GitHub shows no more");
    if let Some(url) = url.filter(|url| url.len() < 2_000) {
        let _ = write!(note, "; the whole: <{url}>");
    }
    let room = bytes.saturating_sub(note.len());
    let mut open = Open::default();
    let (mut end, mut ending) = (0, String::new());
    for line in text.split_inclusive('\n') {
        let before = open.closing();
        open.read(line);
        let closing = open.closing();
        if end + line.len() + closing.len() > room {
            // A line that is most of the text, a log without line ends for one, is cut itself.
            let left = room.saturating_sub(end + before.len() + 1);
            if left > room / 2 && !line.trim_start().starts_with(['`', '~', '<']) {
                end += line.floor_char_boundary(left);
                ending = if before.is_empty() {
                    before
                } else {
                    format!("\n{before}")
                };
            }
            break;
        }
        end += line.len();
        ending = closing;
    }
    format!("{}{ending}{note}", &text[..end])
}

/// What is open in Markdown at the end of a line: a fence of code, and `<details>`.
#[derive(Default)]
struct Open {
    fence: Option<(char, usize)>,
    details: usize,
}

impl Open {
    fn read(&mut self, line: &str) {
        let text = line.trim_start();
        let mark = text.chars().next().filter(|c| matches!(c, '`' | '~'));
        let length = mark.map_or(0, |mark| text.chars().take_while(|c| *c == mark).count());
        match self.fence {
            Some((fence, least)) => {
                if mark == Some(fence) && length >= least && text[length..].trim().is_empty() {
                    self.fence = None;
                }
            }
            None => match mark {
                // Three in one line with others behind them are code in a line.
                Some(mark) if length >= 3 && (mark == '~' || !text[length..].contains('`')) => {
                    self.fence = Some((mark, length));
                }
                _ => {
                    self.details += text.matches("<details").count();
                    self.details = self.details.saturating_sub(text.matches("</details>").count());
                }
            },
        }
    }

    /// What closes it, on lines of its own.
    fn closing(&self) -> String {
        let mut closing = String::new();
        if let Some((mark, length)) = self.fence {
            closing.extend(std::iter::repeat_n(mark, length));
            closing.push('\n');
        }
        for _ in 0..self.details {
            closing.push_str("\n</details>\n");
        }
        closing
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_is_one_line_without_tricks() {
        assert_eq!(line("a\nb\u{202e}c\u{1b}[31m", 100), "a bc [31m");
        assert_eq!(line("<b>`x`</b>", 100), "<b>`x`</b>", "shown as it is");
        assert_eq!(line("äöüß", 4), "äöüß");
        assert_eq!(line("äöüßx", 4), "äöü…");
    }

    #[test]
    fn what_fits_is_left_alone_and_what_is_cut_is_closed() {
        assert_eq!(within("```\na\n", None, 6), "```\na\n");
        let text = format!("<details>\n\n~~~~text\n{}", "0123456789\n".repeat(100));
        let cut = within(&text, Some("https://ci.example.org/e/1"), 400);
        assert!(cut.len() <= 400);
        let (kept, note) = cut
            .rsplit_once("9\n~~~~\n\n</details>\n")
            .expect("fence and details are closed in order");
        assert!(text.starts_with(kept));
        assert_eq!(
            note,
            "\n\n… cut here, as GitHub shows no more; the whole: <https://ci.example.org/e/1>"
        );
    }

    #[test]
    fn one_endless_line_is_cut_between_characters() {
        let text = format!("```\n{}", "ä".repeat(1_000));
        let cut = within(&text, None, 301);
        assert!(cut.len() <= 301 && cut.len() > 290, "{}", cut.len());
        assert!(cut.contains("ä\n```\n"), "{cut}");
    }

    #[test]
    fn code_in_a_line_opens_nothing() {
        let cut = within(&"```a``` b\n".repeat(100), None, 300);
        assert!(
            cut.ends_with("```a``` b\n\n\n… cut here, as GitHub shows no more"),
            "{cut}"
        );
    }

    proptest! {
        #[test]
        fn cut_markdown_fits_and_closes_every_fence(
            parts in proptest::collection::vec(
                prop_oneof![
                    Just("```\n".to_owned()), Just("~~~~\n".to_owned()), Just("````nix\n".to_owned()),
                    Just("<details><summary>x</summary>\n".to_owned()), Just("</details>\n".to_owned()),
                    "[a-zä€ ]{0,40}\n", "[^`~<\n]{0,400}",
                ],
                0..60,
            ),
            bytes in 200_usize..2_000,
        ) {
            let text = parts.concat();
            let cut = within(&text, Some("https://ci.example.org"), bytes);
            prop_assert!(cut.len() <= bytes);
            if text.len() > bytes {
                let mut open = Open::default();
                cut.split_inclusive('\n').for_each(|line| open.read(line));
                prop_assert!(open.fence.is_none(), "{cut}");
                prop_assert!(cut.contains("… cut here"));
            }
        }
    }
}
