//! One line of a build log as HTML.
//!
//! Colours become classes, not styles, so that the page's content security policy can forbid styles and
//! a dark page can have other colours than a light one. Everything that could move the cursor, retitle a
//! window or reorder text is dropped.

use std::fmt::Write as _;

#[derive(Clone, Copy, PartialEq, Eq, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a terminal has just these independent switches"
)]
struct Style {
    fore: Option<u8>,
    back: Option<u8>,
    bold: bool,
    dim: bool,
    italic: bool,
    underline: bool,
    strike: bool,
    reverse: bool,
}

/// The line, escaped, with its colours; at most `limit` characters of it, and how many were left out.
pub(crate) fn line(text: &str, limit: usize) -> String {
    let text = last_overwrite(text);
    let mut out = String::with_capacity(text.len() + 16);
    let mut style = Style::default();
    let mut open = Style::default();
    let mut shown = 0;
    let mut left_out = 0;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => match chars.next() {
                Some('[') => {
                    let mut parameters = String::new();
                    let end = loop {
                        match chars.next() {
                            Some(c @ '\u{40}'..='\u{7e}') => break Some(c),
                            Some(c) if parameters.len() < 64 => parameters.push(c),
                            Some(_) => {}
                            None => break None,
                        }
                    };
                    if end == Some('m') {
                        style.apply(&parameters);
                    }
                }
                Some(']' | 'P' | 'X' | '^' | '_') => {
                    while let Some(c) = chars.next() {
                        if c == '\u{7}' || (c == '\u{1b}' && chars.next_if_eq(&'\\').is_some()) {
                            break;
                        }
                    }
                }
                Some('(' | ')' | '*' | '+') => {
                    chars.next();
                }
                Some(_) | None => {}
            },
            c if c.is_control() && c != '\t' => {}
            _ if shown == limit => left_out += 1,
            c => {
                if style != open {
                    close(&mut out, open);
                    style.open(&mut out);
                    open = style;
                }
                push(&mut out, c);
                shown += 1;
            }
        }
    }
    close(&mut out, open);
    if left_out > 0 {
        let _ = write!(out, "<i>… {left_out} more characters</i>");
    }
    out
}

/// What a terminal would show of a line that returns to its beginning: the last non-empty part.
fn last_overwrite(text: &str) -> &str {
    text.rsplit('\r').find(|part| !part.is_empty()).unwrap_or("")
}

fn push(out: &mut String, c: char) {
    match c {
        '<' => out.push_str("&lt;"),
        '>' => out.push_str("&gt;"),
        '&' => out.push_str("&amp;"),
        '"' => out.push_str("&quot;"),
        '\'' => out.push_str("&#39;"),
        // Marks that reorder what follows could make a line read as another one.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
        c => out.push(c),
    }
}

fn close(out: &mut String, style: Style) {
    if style != Style::default() {
        out.push_str("</span>");
    }
}

impl Style {
    fn open(self, out: &mut String) {
        if self == Self::default() {
            return;
        }
        out.push_str("<span class=\"");
        let (fore, back) = if self.reverse {
            (self.back, self.fore)
        } else {
            (self.fore, self.back)
        };
        let mut first = true;
        let mut class = |out: &mut String, name: std::fmt::Arguments<'_>| {
            if !std::mem::take(&mut first) {
                out.push(' ');
            }
            let _ = out.write_fmt(name);
        };
        if let Some(fore) = fore {
            class(out, format_args!("f{fore}"));
        }
        if let Some(back) = back {
            class(out, format_args!("g{back}"));
        }
        for (on, name) in [
            (self.bold, "b"),
            (self.dim, "d"),
            (self.italic, "i"),
            (self.underline, "u"),
            (self.strike, "s"),
            (self.reverse && fore.is_none() && back.is_none(), "r"),
        ] {
            if on {
                class(out, format_args!("{name}"));
            }
        }
        out.push_str("\">");
    }

    fn apply(&mut self, parameters: &str) {
        let mut codes = parameters
            .split([';', ':'])
            .map(|code| if code.is_empty() { Some(0) } else { code.parse().ok() });
        while let Some(code) = codes.next() {
            match code {
                Some(0) => *self = Self::default(),
                Some(1) => self.bold = true,
                Some(2) => self.dim = true,
                Some(3) => self.italic = true,
                Some(4) => self.underline = true,
                Some(7) => self.reverse = true,
                Some(9) => self.strike = true,
                Some(22) => (self.bold, self.dim) = (false, false),
                Some(23) => self.italic = false,
                Some(24) => self.underline = false,
                Some(27) => self.reverse = false,
                Some(29) => self.strike = false,
                Some(code @ 30..=37) => self.fore = Some(code as u8 - 30),
                Some(code @ 90..=97) => self.fore = Some(code as u8 - 82),
                Some(39) => self.fore = None,
                Some(code @ 40..=47) => self.back = Some(code as u8 - 40),
                Some(code @ 100..=107) => self.back = Some(code as u8 - 92),
                Some(49) => self.back = None,
                Some(38) => self.fore = extended(&mut codes),
                Some(48) => self.back = extended(&mut codes),
                Some(_) | None => {}
            }
        }
    }
}

/// One of the sixteen colours for what follows 38 or 48.
fn extended(codes: &mut impl Iterator<Item = Option<u16>>) -> Option<u8> {
    match codes.next()?? {
        5 => {
            let colour = codes.next()??;
            match colour {
                0..16 => Some(colour as u8),
                16..232 => {
                    let part = |of: u16| if of == 0 { 0 } else { i32::from(of) * 40 + 55 };
                    let colour = colour - 16;
                    Some(nearest([part(colour / 36), part(colour / 6 % 6), part(colour % 6)]))
                }
                232..256 => Some(nearest([i32::from(colour - 232) * 10 + 8; 3])),
                _ => None,
            }
        }
        2 => {
            let mut part = || codes.next().flatten().map(|part| i32::from(part.min(255)));
            Some(nearest([part()?, part()?, part()?]))
        }
        _ => None,
    }
}

fn nearest(rgb: [i32; 3]) -> u8 {
    const COLOURS: [[i32; 3]; 16] = [
        [0, 0, 0],
        [170, 0, 0],
        [0, 170, 0],
        [170, 130, 0],
        [0, 0, 170],
        [170, 0, 170],
        [0, 170, 170],
        [190, 190, 190],
        [110, 110, 110],
        [255, 85, 85],
        [85, 255, 85],
        [255, 255, 85],
        [85, 85, 255],
        [255, 85, 255],
        [85, 255, 255],
        [255, 255, 255],
    ];
    let distance = |colour: &[i32; 3]| -> i32 { colour.iter().zip(rgb).map(|(a, b)| (a - b) * (a - b)).sum() };
    let best = COLOURS.iter().enumerate().min_by_key(|(_, colour)| distance(colour));
    best.map_or(7, |(at, _)| at as u8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lines() {
        for (text, html) in [
            ("plain", "plain"),
            (
                "<script>alert('x')</script>&\"",
                "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&amp;&quot;",
            ),
            (
                "\u{1b}[1;31merror:\u{1b}[0m no",
                "<span class=\"f1 b\">error:</span> no",
            ),
            (
                "\u{1b}[31mred\u{1b}[32mgreen",
                "<span class=\"f1\">red</span><span class=\"f2\">green</span>",
            ),
            (
                "\u{1b}[38;5;9ma\u{1b}[48;2;255;255;255mb",
                "<span class=\"f9\">a</span><span class=\"f9 g15\">b</span>",
            ),
            ("\u{1b}[7mr\u{1b}[27m", "<span class=\"r\">r</span>"),
            ("\u{1b}[31\"onmouseover=x;mstill", "nmouseover=x;mstill"),
            ("\u{1b}]0;title\u{7}after", "after"),
            ("\u{1b}]8;;javascript:alert(1)\u{1b}\\link\u{1b}]8;;\u{1b}\\", "link"),
            ("\u{1b}[2J\u{1b}[Hcleared\u{1b}(B", "cleared"),
            ("10%\r50%\r100%\r", "100%"),
            ("a\u{202e}b\u{0}c\u{8}\td", "a\u{fffd}bc\td"),
            ("\u{1b}", ""),
            ("\u{1b}[", ""),
            ("\u{1b}[38;5m\u{1b}[38;2;1mx", "x"),
        ] {
            assert_eq!(line(text, 1_000), html, "{text:?}");
        }
        assert_eq!(line("abcdef", 4), "abcd<i>… 2 more characters</i>");
    }

    proptest! {
        #[test]
        fn no_line_makes_markup_of_its_own(text in "[\\x1b\\[\\];:0-9mHJa<>&\"'\\r\\x07 ]{0,80}") {
            let html = line(&text, 60);
            let mut rest = html.as_str();
            let mut depth = 0;
            while let Some(at) = rest.find(['<', '>']) {
                let tag = &rest[at..];
                if let Some(after) = tag.strip_prefix("</span>") {
                    depth -= 1;
                    rest = after;
                } else if let Some(after) = tag.strip_prefix("<i>… ") {
                    rest = &after[after.find("</i>").unwrap() + 4..];
                } else {
                    let after = tag.strip_prefix("<span class=\"").unwrap();
                    let end = after.find("\">").unwrap();
                    prop_assert!(after[..end].bytes().all(|b| b.is_ascii_alphanumeric() || b == b' '));
                    depth += 1;
                    rest = &after[end + 2..];
                }
            }
            prop_assert_eq!(depth, 0);
        }
    }
}
