//! The grammar of NARs, fed with bytes.

/// Deepest nesting of directories, as in Nix since 2.34.7.
const MAX_DEPTH: usize = 64;
/// Longest name of a directory entry.
const MAX_NAME: u64 = 255;
/// Longest target of a symbolic link.
const MAX_TARGET: u64 = 4095;
/// Longest word of the grammar.
const MAX_WORD: u64 = 32;
/// What Nix appends to names on file systems that do not tell upper from lower case.
const CASE_HACK: &[u8] = b"~nix~case~hack~";

/// Why bytes are not a NAR.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NarError {
    /// The grammar wants another word.
    #[error("malformed NAR at byte {offset}: expected {expected}, found {found:?}")]
    Word {
        /// Where.
        offset: u64,
        /// What the grammar allows.
        expected: &'static str,
        /// What there is.
        found: String,
    },
    /// A string is longer than the grammar allows.
    #[error("malformed NAR at byte {offset}: {what} of {length} bytes exceeds {max}")]
    TooLong {
        /// Where.
        offset: u64,
        /// What it is.
        what: &'static str,
        /// Its length.
        length: u64,
        /// The limit.
        max: u64,
    },
    /// A byte between strings is not zero.
    #[error("malformed NAR at byte {offset}: padding is not zero")]
    Padding {
        /// Where.
        offset: u64,
    },
    /// A name that no file may have, or that comes too late.
    #[error("malformed NAR at byte {offset}: bad entry name {name:?}: {why}")]
    Name {
        /// Where.
        offset: u64,
        /// The name.
        name: String,
        /// What is wrong.
        why: &'static str,
    },
    /// A target that no link may have.
    #[error("malformed NAR at byte {offset}: bad link target {target:?}")]
    Target {
        /// Where.
        offset: u64,
        /// The target.
        target: String,
    },
    /// Directories nest too deeply.
    #[error("malformed NAR at byte {offset}: directories nest deeper than {MAX_DEPTH}")]
    Depth {
        /// Where.
        offset: u64,
    },
}

/// What the next bytes of a NAR are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NarPart {
    /// Words, names and padding.
    Structure,
    /// Content of a file.
    Content,
}

/// Finds the end of a NAR while its bytes pass by, and refuses what is none. Keeps no content, does not recurse.
#[derive(Debug, Default)]
pub struct NarScanner {
    /// Bytes seen.
    offset: u64,
    /// The string being read, its length in front, padding behind.
    held: Vec<u8>,
    /// Bytes of content to pass by.
    content: u64,
    /// Zeros to pass by after content.
    padding: u64,
    /// Last entry name of each open directory; none before the first.
    open: Vec<Option<Vec<u8>>>,
    expect: Expect,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Expect {
    #[default]
    Magic,
    /// `(` of a node.
    Node,
    /// `type`.
    Type,
    /// `regular`, `symlink` or `directory`.
    Kind,
    /// `executable` or `contents`.
    File,
    /// The empty string after `executable`.
    Executable,
    /// `contents` after that.
    Contents,
    /// The length of the content.
    Length,
    /// `)` of a file or link.
    CloseNode,
    /// `target`.
    TargetWord,
    Target,
    /// `entry`, or `)` of the directory.
    Entry,
    /// `(` of the entry.
    OpenEntry,
    /// `name`.
    NameWord,
    Name,
    /// `node`.
    NodeWord,
    /// `)` of the entry.
    CloseEntry,
    End,
}

impl NarScanner {
    /// Waits for the first byte.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether the whole NAR was seen.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.expect == Expect::End && self.padding == 0
    }

    /// Bytes seen.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes of content that come next, whatever they are.
    pub(crate) fn content_left(&self) -> u64 {
        self.content
    }

    /// So many of them have passed by unseen.
    pub(crate) fn skip(&mut self, content: u64) {
        let skipped = content.min(self.content);
        self.content -= skipped;
        self.offset += skipped;
    }

    /// Whether what was seen so far may be a single file.
    pub(crate) fn may_be_file(&self) -> bool {
        self.open.is_empty() && !matches!(self.expect, Expect::TargetWord | Expect::Target)
    }

    /// Takes bytes up to the end of the NAR, and says how many of them belong to it.
    pub fn push(&mut self, input: &[u8]) -> Result<usize, NarError> {
        let mut taken = 0;
        while taken < input.len() && !self.is_done() {
            taken += self.advance(&input[taken..])?.0;
        }
        Ok(taken)
    }

    /// Takes the bytes of one part, and says how many and what they are. Zero bytes only at the end of the NAR, or of
    /// the input.
    pub fn advance(&mut self, input: &[u8]) -> Result<(usize, NarPart), NarError> {
        if self.content > 0 {
            let taken = self.content.min(input.len() as u64);
            self.content -= taken;
            self.offset += taken;
            return Ok((taken as usize, NarPart::Content));
        }
        if self.padding > 0 {
            let taken = self.padding.min(input.len() as u64);
            if let Some(bad) = input[..taken as usize].iter().position(|byte| *byte != 0) {
                let offset = self.offset + bad as u64;
                return Err(NarError::Padding { offset });
            }
            self.padding -= taken;
            self.offset += taken;
            return Ok((taken as usize, NarPart::Structure));
        }
        if self.is_done() {
            return Ok((0, NarPart::Structure));
        }
        self.string(input).map(|taken| (taken, NarPart::Structure))
    }

    /// Collects one string, and acts on it when it is whole.
    fn string(&mut self, input: &[u8]) -> Result<usize, NarError> {
        let mut taken = self.hold(8, input);
        let Some(length) = self.held.first_chunk().map(|bytes| u64::from_le_bytes(*bytes)) else {
            return Ok(taken);
        };
        if self.expect == Expect::Length {
            self.held.clear();
            self.content = length;
            self.padding = length.wrapping_neg() % 8;
            self.expect = Expect::CloseNode;
            return Ok(taken);
        }
        let (what, max) = match self.expect {
            Expect::Name => ("entry name", MAX_NAME),
            Expect::Target => ("link target", MAX_TARGET),
            _ => ("word", MAX_WORD),
        };
        if length > max {
            let offset = self.offset;
            return Err(NarError::TooLong {
                offset,
                what,
                length,
                max,
            });
        }
        let whole = 8 + length.next_multiple_of(8) as usize;
        taken += self.hold(whole, &input[taken..]);
        if self.held.len() < whole {
            return Ok(taken);
        }
        let held = std::mem::take(&mut self.held);
        let (text, padding) = held[8..].split_at(length as usize);
        if padding.iter().any(|byte| *byte != 0) {
            return Err(NarError::Padding { offset: self.offset });
        }
        self.expect = self.token(text)?;
        self.held = held;
        self.held.clear();
        Ok(taken)
    }

    /// Holds input until `whole` bytes are held.
    fn hold(&mut self, whole: usize, input: &[u8]) -> usize {
        let taken = whole.saturating_sub(self.held.len()).min(input.len());
        self.held.extend_from_slice(&input[..taken]);
        self.offset += taken as u64;
        taken
    }

    /// What to expect after a string.
    fn token(&mut self, text: &[u8]) -> Result<Expect, NarError> {
        let after_node = if self.open.is_empty() {
            Expect::End
        } else {
            Expect::CloseEntry
        };
        let (expected, next) = match (self.expect, text) {
            (Expect::Node, b"(") => return Ok(Expect::Type),
            (Expect::Type, b"type") => return Ok(Expect::Kind),
            (Expect::Kind, b"regular") => return Ok(Expect::File),
            (Expect::Kind, b"symlink") => return Ok(Expect::TargetWord),
            (Expect::Kind, b"directory") => {
                if self.open.len() == MAX_DEPTH {
                    return Err(NarError::Depth { offset: self.offset });
                }
                self.open.push(None);
                return Ok(Expect::Entry);
            }
            (Expect::File, b"executable") => return Ok(Expect::Executable),
            (Expect::Executable, b"") => return Ok(Expect::Contents),
            (Expect::File | Expect::Contents, b"contents") => return Ok(Expect::Length),
            (Expect::CloseNode, b")") => return Ok(after_node),
            (Expect::TargetWord, b"target") => return Ok(Expect::Target),
            (Expect::Target, target) => return self.target(target),
            (Expect::Entry, b"entry") => return Ok(Expect::OpenEntry),
            (Expect::Entry, b")") => {
                self.open.pop();
                return Ok(if self.open.is_empty() {
                    Expect::End
                } else {
                    Expect::CloseEntry
                });
            }
            (Expect::OpenEntry, b"(") => return Ok(Expect::NameWord),
            (Expect::NameWord, b"name") => return Ok(Expect::Name),
            (Expect::Name, name) => return self.name(name),
            (Expect::Magic, b"nix-archive-1") | (Expect::NodeWord, b"node") => return Ok(Expect::Node),
            (Expect::CloseEntry, b")") => return Ok(Expect::Entry),
            (Expect::Magic, _) => ("\"nix-archive-1\"", text),
            (Expect::Node | Expect::OpenEntry, _) => ("\"(\"", text),
            (Expect::Type, _) => ("\"type\"", text),
            (Expect::Kind, _) => ("\"regular\", \"symlink\" or \"directory\"", text),
            (Expect::File, _) => ("\"executable\" or \"contents\"", text),
            (Expect::Executable, _) => ("an empty string", text),
            (Expect::Contents, _) => ("\"contents\"", text),
            (Expect::CloseNode | Expect::CloseEntry, _) => ("\")\"", text),
            (Expect::TargetWord, _) => ("\"target\"", text),
            (Expect::Entry, _) => ("\"entry\" or \")\"", text),
            (Expect::NameWord, _) => ("\"name\"", text),
            (Expect::NodeWord, _) => ("\"node\"", text),
            (Expect::Length | Expect::End, _) => ("nothing", text),
        };
        Err(NarError::Word {
            offset: self.offset,
            expected,
            found: lossy(next),
        })
    }

    fn target(&self, target: &[u8]) -> Result<Expect, NarError> {
        if target.is_empty() || target.contains(&0) {
            return Err(NarError::Target {
                offset: self.offset,
                target: lossy(target),
            });
        }
        Ok(Expect::CloseNode)
    }

    fn name(&mut self, name: &[u8]) -> Result<Expect, NarError> {
        let last = self.open.last().and_then(Option::as_deref);
        let why = if name.is_empty() {
            Some("it is empty")
        } else if name == b"." || name == b".." || name.contains(&b'/') || name.contains(&0) {
            Some("no file may have it")
        } else if name.windows(CASE_HACK.len()).any(|part| part == CASE_HACK) {
            Some("it contains ~nix~case~hack~")
        } else if last.is_some_and(|last| name <= last) {
            Some("entries are not strictly sorted")
        } else {
            None
        };
        if let Some(why) = why {
            return Err(NarError::Name {
                offset: self.offset,
                name: lossy(name),
                why,
            });
        }
        if let Some(last) = self.open.last_mut() {
            *last = Some(name.to_vec());
        }
        Ok(Expect::NodeWord)
    }
}

fn lossy(text: &[u8]) -> String {
    String::from_utf8_lossy(&text[..text.len().min(100)]).into_owned()
}

#[cfg(test)]
mod tests;
