//! The NAR of one plain file, which is all that texts and flat objects may be.

/// What stands before the size of the file.
const HEAD: &[u8] = b"\x0d\0\0\0\0\0\0\0nix-archive-1\0\0\0\
    \x01\0\0\0\0\0\0\0(\0\0\0\0\0\0\0\
    \x04\0\0\0\0\0\0\0type\0\0\0\0\
    \x07\0\0\0\0\0\0\0regular\0\
    \x08\0\0\0\0\0\0\0contents";
/// What stands after the padding.
const TAIL: &[u8] = b"\x01\0\0\0\0\0\0\0)\0\0\0\0\0\0\0";
const BEFORE: usize = HEAD.len() + 8;

/// Takes such a NAR in pieces and hands out the content of the file.
#[derive(Debug, Default)]
pub(super) struct FileNar {
    /// What came before the content.
    before: Vec<u8>,
    /// Bytes of the content still to come, once `before` is complete.
    left: u64,
    /// Padding, and what ends the NAR.
    after: Vec<u8>,
    padding: usize,
    wrong: bool,
}

impl FileNar {
    /// Takes the next bytes; `content` gets those of the file. What is no such NAR is noticed and told at the end.
    pub(super) fn push(&mut self, mut bytes: &[u8], mut content: impl FnMut(&[u8])) {
        if self.wrong {
            return;
        }
        if self.before.len() < BEFORE {
            let (head, rest) = bytes.split_at(bytes.len().min(BEFORE - self.before.len()));
            self.before.extend_from_slice(head);
            bytes = rest;
            if self.before.len() < BEFORE {
                return;
            }
            let mut size = [0; 8];
            size.copy_from_slice(&self.before[HEAD.len()..]);
            self.left = u64::from_le_bytes(size);
            self.padding = padding(self.left);
            self.wrong = !self.before.starts_with(HEAD);
        }
        let (data, rest) = bytes.split_at(usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len()));
        self.left -= data.len() as u64;
        content(data);
        if self.after.len() + rest.len() > self.padding + TAIL.len() {
            self.wrong = true;
        } else {
            self.after.extend_from_slice(rest);
        }
    }

    /// Whether all that came is the NAR of one plain file.
    pub(super) fn is_whole(&self) -> bool {
        let (padding, tail) = self.after.split_at(self.padding.min(self.after.len()));
        !self.wrong
            && self.before.len() == BEFORE
            && self.left == 0
            && padding.iter().all(|byte| *byte == 0)
            && tail == TAIL
    }

    /// The content of the file in a whole NAR; none if it is something else.
    pub(super) fn contents(nar: &[u8]) -> Option<&[u8]> {
        let size = nar.strip_prefix(HEAD)?.first_chunk::<8>()?;
        let size = usize::try_from(u64::from_le_bytes(*size)).ok()?;
        let (content, after) = nar[BEFORE..].split_at_checked(size)?;
        let tail = after.get(padding(size as u64)..)?;
        (tail == TAIL).then_some(content)
    }

    /// What stands before the content of a file of that size.
    pub(super) fn before(size: u64) -> Vec<u8> {
        [HEAD, &size.to_le_bytes()].concat()
    }

    /// What stands after it.
    pub(super) fn after(size: u64) -> Vec<u8> {
        let mut after = vec![0; padding(size)];
        after.extend_from_slice(TAIL);
        after
    }

    /// The size of the NAR of a file of that size; none when there is no such number.
    pub(super) fn size(file: u64) -> Option<u64> {
        file.checked_add((BEFORE + padding(file) + TAIL.len()) as u64)
    }
}

fn padding(size: u64) -> usize {
    ((8 - size % 8) % 8) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nar(content: &[u8]) -> Vec<u8> {
        let size = content.len() as u64;
        [&FileNar::before(size), content, &FileNar::after(size)].concat()
    }

    #[test]
    fn a_file_is_found_however_it_is_cut() {
        for content in [&b""[..], b"hello\n", b"12345678", b"123456789"] {
            let nar = nar(content);
            assert_eq!(Some(nar.len() as u64), FileNar::size(content.len() as u64));
            assert_eq!(FileNar::contents(&nar), Some(content));
            for step in [1, 7, 8, 1000] {
                let (mut file, mut seen) = (FileNar::default(), Vec::new());
                for piece in nar.chunks(step) {
                    file.push(piece, |data| seen.extend_from_slice(data));
                }
                assert!(file.is_whole());
                assert_eq!(seen, content);
            }
        }
        assert_eq!(nar(b"hello\n").len(), 120, "as worker-protocol 7.1 says");
    }

    #[test]
    fn anything_else_is_not_whole() {
        let good = nar(b"hello\n");
        let mut padded = good.clone();
        padded[BEFORE + 6] = 1;
        let executable = String::from_utf8_lossy(&good)
            .replace("contents", "executab")
            .into_bytes();
        let longer = [&good[..], b"\0"].concat();
        let mut huge = good.clone();
        huge[HEAD.len()..BEFORE].fill(0xff);
        for bad in [
            &good[..good.len() - 1],
            &good[..BEFORE - 1],
            &padded,
            &executable,
            &longer,
            &huge,
            b"",
        ] {
            let mut file = FileNar::default();
            file.push(bad, |_| {});
            assert!(!file.is_whole(), "{bad:?}");
        }
        assert_eq!(FileNar::contents(&huge), None);
        assert_eq!(FileNar::contents(&longer), None);
    }
}
