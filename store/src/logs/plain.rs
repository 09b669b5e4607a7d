//! Lines as plain text.

/// A line without ANSI escapes and other control characters, at most `limit` characters; tabs become spaces, and of
/// what was overwritten by carriage returns only the last stays.
#[must_use]
pub fn plain_text(line: &str, limit: usize) -> String {
    let visible = line.trim_end_matches('\r').rsplit('\r').next().unwrap_or(line);
    let mut plain = String::new();
    let mut length = 0;
    let mut chars = visible.chars();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\t' => push(&mut plain, ' ', &mut length, limit),
            c if c.is_control() => {}
            c => push(&mut plain, c, &mut length, limit),
        }
        if length >= limit {
            break;
        }
    }
    plain.truncate(plain.trim_end().len());
    plain
}

fn push(text: &mut String, c: char, length: &mut usize, limit: usize) {
    if *length < limit {
        text.push(c);
        *length += 1;
    }
}

/// Skips what follows an escape character: a control sequence up to its final letter, an operating system command up
/// to its terminator, else one character.
fn skip_escape(chars: &mut std::str::Chars<'_>) {
    match chars.next() {
        Some('[') => {
            chars.find(|c| ('@'..='~').contains(c));
        }
        Some(']') => {
            while let Some(c) = chars.next() {
                if c == '\u{7}' {
                    break;
                }
                if c == '\u{1b}' {
                    chars.next();
                    break;
                }
            }
        }
        Some(_) | None => {}
    }
}
