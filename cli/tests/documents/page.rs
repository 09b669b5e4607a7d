//! The documents as text, headings and fenced blocks. `vm-tests/documents.py` reads them by the same rules.
//!
//! | block | what is done with it |
//! |---|---|
//! | `console` | lines after `$ ` are run as a user, after `# ` as root; other lines must be in what is printed, `…` stands for any text |
//! | `toml` | a configuration of the daemon, checked as such |
//! | `nix`, `ini`, `yaml`, `nginx` | read by the program that they are for |
//! | `text` | nothing |
//!
//! A block that begins with a comment of a path, `# /etc/nix/nix.conf`, is written there before what follows is run. A
//! comment of HTML in front of a block says what readers need not see:
//!
//! | comment | |
//! |---|---|
//! | `not run: REASON` | why its commands are not run |
//! | `before: $ COMMAND` or `# COMMAND` | what the test does first, such as a stand-in for another machine |
//! | `ends: NUMBER, REASON` | the exit code of its commands |

use std::path::{Path, PathBuf};

/// Written by a test of its own.
const GENERATED: [&str; 1] = ["docs/nixos-options.md"];

/// One document.
#[derive(Debug)]
pub(crate) struct Page {
    /// From the root of the repository: `docs/github.md`.
    pub(crate) name: String,
    pub(crate) blocks: Vec<Block>,
    /// What is outside of blocks and comments, with line numbers.
    pub(crate) prose: Vec<(usize, String)>,
}

/// A fenced block.
#[derive(Debug)]
pub(crate) struct Block {
    pub(crate) line: usize,
    pub(crate) kind: String,
    pub(crate) lines: Vec<String>,
    /// The comments in front of it.
    pub(crate) marks: Vec<String>,
}

impl Block {
    pub(crate) fn text(&self) -> String {
        self.lines.join("\n") + "\n"
    }

    /// The file that its first line says it is: `# /etc/nix/nix.conf`, also with words after a colon or a blank.
    pub(crate) fn file(&self) -> Option<&str> {
        let word = self.lines.first()?.strip_prefix("# ")?.split([' ', ':']).next()?;
        (word.contains('.') && !word.ends_with('.')).then_some(word)
    }

    /// Commands with the lines that continue them.
    pub(crate) fn commands(&self) -> Vec<String> {
        let mut commands: Vec<String> = Vec::new();
        let mut goes_on = false;
        for line in &self.lines {
            let command = line.strip_prefix("$ ").or_else(|| line.strip_prefix("# "));
            match (goes_on, command, commands.last_mut()) {
                (true, _, Some(last)) => {
                    last.push('\n');
                    last.push_str(line);
                }
                (_, Some(command), _) => commands.push(command.to_owned()),
                (_, None, _) => continue,
            }
            goes_on = line.ends_with('\\');
        }
        commands
    }
}

/// The root of the repository.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// All documents.
pub(crate) fn pages() -> Vec<Page> {
    let folder = std::fs::read_dir(root().join("docs")).unwrap();
    let mut names: Vec<String> = folder
        .map(|entry| format!("docs/{}", entry.unwrap().file_name().into_string().unwrap()))
        .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "md"))
        .collect();
    names.push("README.md".to_owned());
    names.sort();
    names.retain(|name| !GENERATED.contains(&name.as_str()));
    names.iter().map(|name| page(name)).collect()
}

fn page(name: &str) -> Page {
    let text = std::fs::read_to_string(root().join(name)).unwrap();
    let mut page = Page {
        name: name.to_owned(),
        blocks: Vec::new(),
        prose: Vec::new(),
    };
    let mut open: Option<Block> = None;
    let mut comment: Option<String> = None;
    let mut marks: Vec<String> = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        if let Some(mut block) = open.take() {
            if line == "```" {
                page.blocks.push(block);
            } else {
                block.lines.push(line.to_owned());
                open = Some(block);
            }
        } else if let Some(text) = comment.take() {
            match line.split_once("-->") {
                Some((last, _)) => marks.push(format!("{text}\n{last}").trim().to_owned()),
                None => comment = Some(format!("{text}\n{line}")),
            }
        } else if let Some(rest) = line.strip_prefix("<!--") {
            match rest.split_once("-->") {
                Some((all, _)) => marks.push(all.trim().to_owned()),
                None => comment = Some(rest.to_owned()),
            }
        } else if let Some(kind) = line.strip_prefix("```") {
            open = Some(Block {
                line: number,
                kind: kind.to_owned(),
                lines: Vec::new(),
                marks: std::mem::take(&mut marks),
            });
        } else {
            if !line.is_empty() {
                assert!(
                    marks.is_empty(),
                    "{name}:{number}: a comment that belongs to no block: {marks:?}"
                );
            }
            page.prose.push((number, line.to_owned()));
        }
    }
    assert!(open.is_none(), "{name}: a block does not end");
    assert!(
        comment.is_none() && marks.is_empty(),
        "{name}: a comment does not end, or belongs to no block"
    );
    page
}

/// The words in backticks of a line.
pub(crate) fn code_spans(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}
