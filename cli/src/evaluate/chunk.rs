//! One process that visits many attributes, and what it says on the way.

use std::collections::VecDeque;
use std::io;
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::process::Command;

use super::lines::Lines;
use super::process::{Exit, Group};

/// Bytes of messages kept for an error.
const MAX_KEPT: usize = 1 << 20;

/// An attribute path from the root that is walked.
pub(super) type Path = Vec<String>;

/// A derivation that was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) path: Path,
    pub(super) drv_path: String,
    pub(super) name: String,
    pub(super) system: String,
}

/// What became of the attributes a process was given.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Progress {
    /// Derivations.
    pub(super) found: Vec<Found>,
    /// Members of sets that are too large to be visited at once.
    pub(super) more: Vec<Path>,
    /// Neither derivations nor sets that are entered.
    pub(super) others: Vec<Path>,
    /// Sets that were entered.
    pub(super) sets: u64,
    /// The attribute it was at when it ended, when it did not end by itself.
    pub(super) at: Option<Path>,
    /// Those it did not come to.
    pub(super) left: VecDeque<Path>,
}

/// How a process ended, with all it did.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) progress: Progress,
    pub(super) exit: Exit,
    /// Its last messages: those since it began with [`Progress::at`].
    pub(super) messages: Vec<String>,
    pub(super) took: Duration,
}

#[derive(Deserialize)]
struct Drv {
    #[serde(rename = "drvPath")]
    path: String,
    name: String,
    system: String,
}

#[derive(Deserialize)]
struct Set {
    names: Vec<String>,
    enter: bool,
}

impl Progress {
    /// Nothing yet of `paths`.
    pub(super) fn new(paths: &[Path]) -> Self {
        Self {
            left: paths.iter().cloned().collect(),
            ..Self::default()
        }
    }

    /// Whether it came to a conclusion on anything.
    pub(super) fn is_empty(&self) -> bool {
        self.found.is_empty() && self.others.is_empty() && self.sets == 0
    }

    /// Attributes it came to a conclusion on, sets aside.
    pub(super) fn concluded(&self) -> u64 {
        (self.found.len() + self.others.len()) as u64
    }

    /// Takes one line of ours, `KIND JSON`.
    fn take(&mut self, line: &str) -> Result<(), Garbled> {
        let (kind, value) = line.split_once(' ').ok_or(Garbled)?;
        if kind == "begin" {
            let path: Path = serde_json::from_str(value).map_err(|_| Garbled)?;
            if self.at.is_some() || self.left.pop_front().as_ref() != Some(&path) {
                return Err(Garbled);
            }
            self.at = Some(path);
            return Ok(());
        }
        let path = self.at.take().ok_or(Garbled)?;
        match kind {
            "none" => self.others.push(path),
            "drv" => {
                let Drv {
                    path: drv_path,
                    name,
                    system,
                } = serde_json::from_str(value).map_err(|_| Garbled)?;
                self.found.push(Found {
                    path,
                    drv_path,
                    name,
                    system,
                });
            }
            "set" => {
                let Set { names, enter } = serde_json::from_str(value).map_err(|_| Garbled)?;
                self.sets += 1;
                let members = names.into_iter().map(|name| {
                    let mut path = path.clone();
                    path.push(name);
                    path
                });
                if enter {
                    for member in members.rev() {
                        self.left.push_front(member);
                    }
                } else {
                    self.more.extend(members);
                }
            }
            _ => return Err(Garbled),
        }
        Ok(())
    }
}

/// A line of ours that makes no sense; it can only be a fault in the walk.
#[derive(Debug)]
struct Garbled;

/// Runs `command`, which visits `paths` and marks its lines with `mark`, within `memory` MiB.
///
/// # Errors
/// When it does not start or cannot be read.
pub(super) async fn run(command: &mut Command, mark: &str, paths: &[Path], memory: u64) -> io::Result<Ended> {
    let start = Instant::now();
    let mut group = Group::spawn(command, Stdio::null())?;
    let stderr = Lines::new(group.stderr()?);
    let ((progress, messages), exit) = tokio::try_join!(read(stderr, mark, paths), group.wait(Some(memory)))?;
    Ok(Ended {
        progress,
        exit,
        messages,
        took: start.elapsed(),
    })
}

async fn read(
    mut lines: Lines<impl tokio::io::AsyncRead + Unpin>,
    mark: &str,
    paths: &[Path],
) -> io::Result<(Progress, Vec<String>)> {
    let marked = format!("trace: {mark} ");
    let mut progress = Progress::new(paths);
    let mut messages = VecDeque::new();
    let mut kept = 0;
    while let Some(line) = lines.next().await? {
        if let Some(ours) = line.strip_prefix(&marked) {
            messages.clear();
            kept = 0;
            progress
                .take(ours)
                .map_err(|Garbled| io::Error::other(format!("nix printed what the walk cannot have said: {ours}")))?;
            continue;
        }
        kept += line.len();
        messages.push_back(line);
        while kept > MAX_KEPT && messages.len() > 1 {
            kept -= messages.pop_front().map_or(0, |line: String| line.len());
        }
    }
    Ok((progress, messages.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> Path {
        text.split('.').map(str::to_owned).collect()
    }

    async fn walked(lines: &[&str], paths: &[&str]) -> io::Result<(Progress, Vec<String>)> {
        let paths: Vec<_> = paths.iter().map(|text| path(text)).collect();
        read(Lines::new(lines.join("\n").as_bytes()), "M", &paths).await
    }

    #[tokio::test]
    async fn what_was_said_before_an_error_counts_and_the_culprit_is_known() {
        let (progress, messages) = walked(
            &[
                "warning: x",
                "trace: M begin [\"a\"]",
                "trace: M drv {\"drvPath\":\"/nix/store/x-a.drv\",\"name\":\"a\",\"system\":\"s\"}",
                "trace: M begin [\"b\"]",
                "trace: someone else's",
                "error: boom",
            ],
            &["a", "b", "c"],
        )
        .await
        .unwrap();
        assert_eq!(progress.found[0].drv_path, "/nix/store/x-a.drv");
        assert_eq!(progress.at, Some(path("b")));
        assert_eq!(progress.left, [path("c")]);
        assert_eq!(messages, ["trace: someone else's", "error: boom"]);
    }

    #[tokio::test]
    async fn small_sets_are_visited_and_large_ones_are_left_to_others() {
        let (progress, _) = walked(
            &[
                "trace: M begin [\"a\"]",
                "trace: M set {\"enter\":true,\"names\":[\"x\",\"y\"]}",
                "trace: M begin [\"a\",\"x\"]",
                "trace: M none null",
                "trace: M begin [\"a\",\"y\"]",
                "trace: M set {\"enter\":false,\"names\":[\"1\",\"2\"]}",
            ],
            &["a", "b"],
        )
        .await
        .unwrap();
        assert_eq!(progress.others, [path("a.x")]);
        assert_eq!(progress.more, [path("a.y.1"), path("a.y.2")]);
        assert_eq!((progress.at, progress.sets), (None, 2));
        assert_eq!(progress.left, [path("b")]);
    }

    #[tokio::test]
    async fn a_walk_that_contradicts_itself_is_an_error() {
        for lines in [
            &["trace: M begin [\"b\"]"][..],
            &["trace: M none null"],
            &["trace: M begin [\"a\"]", "trace: M what null"],
            &["trace: M begin"],
        ] {
            assert!(walked(lines, &["a", "b"]).await.is_err(), "{lines:?}");
        }
    }
}
