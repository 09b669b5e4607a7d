//! What Nix says of an error, made fit to be kept and shown.

/// Bytes of an error message that are kept; a deep trace has megabytes.
pub(super) const MAX_MESSAGE: usize = 16 << 10;

/// Takes ANSI escapes away.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, chars.peek()) {
            // CSI: parameters up to a final byte.
            ('\x1b', Some('[')) => {
                chars.next();
                for c in chars.by_ref() {
                    if ('\x40'..='\x7e').contains(&c) {
                        break;
                    }
                }
            }
            // OSC, such as a hyperlink: up to BEL or ESC \.
            ('\x1b', Some(']')) => {
                let mut before = ' ';
                for c in chars.by_ref() {
                    if c == '\x07' || (before == '\x1b' && c == '\\') {
                        break;
                    }
                    before = c;
                }
            }
            ('\x1b', _) => {
                chars.next();
            }
            ('\r', _) => {}
            _ => out.push(c),
        }
    }
    out
}

/// A message of at most [`MAX_MESSAGE`] bytes; what is left out is the middle, since the head says what
/// failed and the tail why.
pub(super) fn bounded(text: &str) -> String {
    if text.len() <= MAX_MESSAGE {
        return text.to_owned();
    }
    let head = text.floor_char_boundary(MAX_MESSAGE / 2);
    let tail = text.ceil_char_boundary(text.len() - MAX_MESSAGE / 2);
    format!(
        "{}\n… {} bytes left out …\n{}",
        &text[..head],
        tail - head,
        &text[tail..]
    )
}

/// The error among the lines a process printed: from the first that begins with `error:`, without the
/// frames of our own walk (`at «string»`), without hints at flags that `nixci` lacks.
pub(super) fn of_nix(lines: &[String], own_frames: OwnFrames) -> String {
    let lines: Vec<_> = lines.iter().map(|line| plain(line)).collect();
    let start = lines.iter().rposition(|line| line.starts_with("error:")).unwrap_or(0);
    let mut kept: Vec<&str> = Vec::new();
    let mut frame: Vec<&str> = Vec::new();
    for line in &lines[start..] {
        let line = line.trim_end();
        let trimmed = line.trim_start();
        if trimmed.starts_with("(use '--show-trace'") || trimmed.starts_with("(stack trace truncated;") {
            continue;
        }
        if trimmed.starts_with('…') || trimmed.starts_with("error:") {
            keep(&mut kept, &mut frame, own_frames);
        }
        frame.push(line);
    }
    keep(&mut kept, &mut frame, own_frames);
    bounded(kept.join("\n").trim())
}

/// What becomes of frames that lie in an expression given on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OwnFrames {
    /// They are ours.
    Drop,
    /// They may be the user's own.
    Keep,
}

fn keep<'l>(kept: &mut Vec<&'l str>, frame: &mut Vec<&'l str>, own_frames: OwnFrames) {
    if own_frames == OwnFrames::Drop
        && let Some(at) = frame
            .iter()
            .position(|line| line.trim_start().starts_with("at «string»:"))
    {
        // A step on the way goes whole; of the error itself only the place goes, with the lines shown there.
        if frame[0].trim_start().starts_with('…') {
            frame.clear();
            return;
        }
        let shown = frame[at + 1..].iter().take_while(|line| is_excerpt(line)).count();
        frame.drain(at..=at + shown);
    }
    kept.append(frame);
}

/// Whether a line shows source: `    12| text`, or the mark below it.
fn is_excerpt(line: &str) -> bool {
    line.trim_start()
        .trim_start_matches(|c: char| c.is_ascii_digit())
        .starts_with('|')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn escapes_go_and_text_stays() {
        for (text, expected) in [
            ("\x1b[31;1merror:\x1b[0m no", "error: no"),
            ("\x1b]8;;file://x\x1b\\link\x1b]8;;\x07!", "link!"),
            ("a\r\nb", "a\nb"),
            ("\x1b", ""),
            ("… über", "… über"),
        ] {
            assert_eq!(plain(text), expected);
        }
    }

    #[test]
    fn a_long_message_keeps_head_and_tail() {
        let text = format!("head{}tail", "ü".repeat(MAX_MESSAGE));
        let short = bounded(&text);
        assert!(short.len() < MAX_MESSAGE + 100);
        assert!(short.starts_with("head") && short.ends_with("tail") && short.contains("bytes left out"));
    }

    #[test]
    fn frames_of_the_walk_are_not_the_users_business() {
        let lines: Vec<String> = "warning: x\nerror:\n       … while calling the 'trace' builtin\n         at «string»:1:4:\n            1| r\n\
            \x20      … while evaluating the attribute 'b'\n         at /nix/store/x-source/flake.nix:3:53:\n\
            \x20      (stack trace truncated; use '--show-trace' to show the full, detailed trace)\n       error: boom"
            .lines()
            .map(str::to_owned)
            .collect();
        let message = of_nix(&lines, OwnFrames::Drop);
        assert_eq!(
            message,
            "error:\n       … while evaluating the attribute 'b'\n         at /nix/store/x-source/flake.nix:3:53:\n       error: boom"
        );
        assert!(of_nix(&lines, OwnFrames::Keep).contains("«string»"));

        let lines = [
            "error: not a string",
            "       at «string»:4:1:",
            "            3| x",
            "             | ^",
            "       why",
        ];
        let message = of_nix(&lines.map(str::to_owned), OwnFrames::Drop);
        assert_eq!(message, "error: not a string\n       why");
    }
}
