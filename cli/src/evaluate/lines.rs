//! Lines of a child process, with a limit on their length.

use std::io;

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, BufReader};

/// Bytes that one line of an evaluator may have. The names of all attributes of a set are one line, and
/// so is a derivation with its `meta`, which takes megabytes in real sets.
pub(super) const MAX_LINE: usize = 64 << 20;

/// Reads lines.
#[derive(Debug)]
pub(super) struct Lines<R> {
    from: BufReader<R>,
    line: Vec<u8>,
    limit: usize,
}

impl<R: AsyncRead + Unpin> Lines<R> {
    /// Reads from `from`, no line longer than [`MAX_LINE`].
    pub(super) fn new(from: R) -> Self {
        Self::with_limit(from, MAX_LINE)
    }

    fn with_limit(from: R, limit: usize) -> Self {
        Self {
            from: BufReader::with_capacity(64 << 10, from),
            line: Vec::new(),
            limit,
        }
    }

    /// The next line without its end, or `None` at the end of the stream. A last line without an end
    /// counts. What is not UTF-8 is replaced: it can only be part of a message to people.
    ///
    /// # Errors
    /// When reading fails or a line is longer than the limit.
    pub(super) async fn next(&mut self) -> io::Result<Option<String>> {
        self.line.clear();
        loop {
            let (taken, whole) = {
                let chunk = self.from.fill_buf().await?;
                if chunk.is_empty() {
                    break;
                }
                let end = chunk.iter().position(|&byte| byte == b'\n');
                let part = &chunk[..end.unwrap_or(chunk.len())];
                if self.line.len() + part.len() > self.limit {
                    return Err(io::Error::other(format!(
                        "the evaluator printed a line of over {} bytes (limit MAX_LINE)",
                        self.limit
                    )));
                }
                self.line.extend_from_slice(part);
                (part.len() + usize::from(end.is_some()), end.is_some())
            };
            AsyncBufRead::consume(std::pin::Pin::new(&mut self.from), taken);
            if whole {
                return Ok(Some(text(&self.line)));
            }
        }
        Ok((!self.line.is_empty()).then(|| text(&self.line)))
    }
}

fn text(line: &[u8]) -> String {
    match std::str::from_utf8(line) {
        Ok(line) => line.to_owned(),
        Err(_) => line
            .utf8_chunks()
            .fold(String::with_capacity(line.len()), |mut text, chunk| {
                text.push_str(chunk.valid());
                if !chunk.invalid().is_empty() {
                    text.push(char::REPLACEMENT_CHARACTER);
                }
                text
            }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_come_whole_whatever_the_reads_were() {
        let long = "x".repeat(200_000);
        let input = format!("a\n\n{long}\nno end");
        let mut lines = Lines::new(input.as_bytes());
        for expected in ["a", "", &long, "no end"] {
            assert_eq!(lines.next().await.unwrap().as_deref(), Some(expected));
        }
        assert_eq!(lines.next().await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_line_over_the_limit_is_refused_by_the_name_of_the_limit() {
        let mut lines = Lines::with_limit(&b"1234\n12345\n"[..], 4);
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("1234"));
        assert!(lines.next().await.unwrap_err().to_string().contains("MAX_LINE"));
    }

    #[tokio::test]
    async fn bytes_that_are_not_text_are_replaced() {
        let mut lines = Lines::new(&b"a\xffb\n"[..]);
        assert_eq!(lines.next().await.unwrap().as_deref(), Some("a\u{fffd}b"));
    }
}
