//! One process of the built-in evaluator, and the root for what it found.

use std::collections::VecDeque;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

use super::chunk::{self, Ended, Found, Path};
use super::lines::Lines;
use super::message::{self, OwnFrames};
use super::process::{Exit, Group};
use super::resources::Share;
use super::script::{self, Nix, Visit};
use super::{Options, Source};

/// Sets with at most so many names are visited by the process that finds them, so that the smallest
/// sources need no second one.
const SMALL_SET: usize = 2;

/// What all tasks of an evaluation share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) source: Source,
    pub(super) options: Options,
    pub(super) nix: Nix,
    pub(super) version: String,
    pub(super) mark: String,
    pub(super) share: Share,
    pub(super) folder: PathBuf,
}

/// What a task hands back.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) ended: Ended,
    /// Whether its derivations have a root; if not, why.
    pub(super) rooted: Result<(), String>,
}

/// One process, and the root for what it found.
pub(super) async fn batch(shared: Arc<Shared>, number: u64, paths: Vec<Path>) -> io::Result<Batch> {
    let Shared { source, options, .. } = &*shared;
    let visit = Visit {
        mark: &shared.mark,
        paths: &paths,
        force: script::is_forced(source, options),
        // The first process also lists the members of each system.
        depth: usize::from(script::is_per_system(source) && options.apply.is_none()),
        small: SMALL_SET,
    };
    let mut command = script::eval(&shared.nix, source, options, &shared.version, &visit);
    let ended = chunk::run(&mut command, &shared.mark, &paths, shared.share.memory).await?;
    let rooted = root(&shared, number, &ended.progress.found).await?;
    Ok(Batch { ended, rooted })
}

/// Makes one root for all that was found.
async fn root(shared: &Shared, number: u64, found: &[Found]) -> io::Result<Result<(), String>> {
    if found.is_empty() {
        return Ok(Ok(()));
    }
    let drvs: Vec<_> = found.iter().map(|found| found.drv_path.as_str()).collect();
    let file = shared.folder.join(format!("batch-{number}.nix"));
    tokio::fs::write(&file, script::roots(&drvs)).await?;
    let mut command = shared.nix.program("nix-instantiate");
    command
        .arg("--add-root")
        .arg(shared.folder.join(format!("batch-{number}")))
        .arg(&file);
    let mut group = Group::spawn(&mut command, Stdio::null())?;
    let mut lines = Lines::new(group.stderr()?);
    let read = async {
        let mut kept = VecDeque::new();
        while let Some(line) = lines.next().await? {
            kept.push_back(line);
            if kept.len() > 50 {
                kept.pop_front();
            }
        }
        io::Result::Ok(Vec::from(kept))
    };
    let (messages, exit) = tokio::try_join!(read, group.wait(None))?;
    Ok(match exit {
        Exit::Success => Ok(()),
        Exit::Failed | Exit::Crashed { .. } | Exit::Killed { .. } => Err(format!(
            "cannot keep what was evaluated from being collected: {}",
            message::of_nix(&messages, OwnFrames::Keep)
        )),
    })
}
