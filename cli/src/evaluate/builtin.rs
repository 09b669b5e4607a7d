//! The evaluator for machines without `nix-eval-jobs`: short-lived `nix eval` processes that share out
//! the attributes among themselves.
//!
//! The first process lists the names; then each takes a chunk. An attribute that breaks its process is
//! known by name, so one restart is all it costs. A process that takes too much memory is killed and what
//! it had not come to goes on in a fresh one; only an attribute that is too large by itself is given up.

use std::collections::VecDeque;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::Path as FsPath;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use nixci_protocol::nixci::attr_path::AttrPath;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::batch::{Batch, Shared, batch};
use super::chunk::{Ended, Found, Path};
use super::lines::Lines;
use super::message::{self, OwnFrames};
use super::process::{Exit, Group, Killer};
use super::resources::Share;
use super::script::Nix;
use super::{Event, FatalKind, Options, Source, names};

/// Attributes in the first chunk of each process, before anything is known of their cost.
const FIRST_CHUNK: usize = 8;

/// Attributes in a chunk at most, and bytes of their names: a command line argument has 128 KiB.
const MAX_CHUNK: usize = 500;
const MAX_CHUNK_BYTES: usize = 48 << 10;

/// How long a chunk should take: long against the start of a process, short for a stream of results.
const CHUNK_TIME: Duration = Duration::from_secs(8);

/// Processes in a row that may fail without having begun with any attribute.
const MAX_STRIKES: u32 = 2;

/// Evaluates and sends what it finds; returns after [`Event::Done`] or when nobody listens any more.
pub(super) async fn drive(source: Source, options: Options, folder: &FsPath, events: &mpsc::Sender<Event>) {
    let nix = Nix::new(&options);
    let version = match source {
        Source::Flake { .. } => match version(&nix).await {
            Ok(version) => version,
            Err(error) => return give_up(events, FatalKind::WholeEvaluation, error.to_string()).await,
        },
        Source::File { .. } | Source::Expr { .. } => String::new(),
    };
    let share = Share::of(&options);
    tracing::debug!(workers = share.workers, mib = share.memory, "evaluating with nix eval");
    let shared = Arc::new(Shared {
        mark: format!("nixci-{:016x}", RandomState::new().hash_one(&version)),
        nix,
        version,
        share,
        folder: folder.to_owned(),
        source,
        options,
    });
    let mut driver = Driver {
        queue: VecDeque::from([Vec::new()]),
        tasks: JoinSet::new(),
        started: 0,
        allowed: share.workers,
        strikes: 0,
        per_attribute: None,
        evaluated: 0,
        too_large: Vec::new(),
        largest: 0,
        shared,
        events,
    };
    match driver.run().await {
        Ok(()) => {}
        Err(Stop::NobodyListens) => return,
        Err(Stop::Fatal(kind, message)) => {
            // What still runs dies with the driver's tasks.
            driver.tasks.shutdown().await;
            return give_up(events, kind, message).await;
        }
    }
    drop(events.send(Event::Done).await);
}

async fn give_up(events: &mpsc::Sender<Event>, kind: FatalKind, message: String) {
    let message = message::bounded(&message);
    if events.send(Event::Fatal { kind, message }).await.is_ok() {
        drop(events.send(Event::Done).await);
    }
}

async fn version(nix: &Nix) -> io::Result<String> {
    let mut group = Group::spawn(&mut nix.version(), Stdio::piped())
        .map_err(|error| io::Error::new(error.kind(), format!("{error}; install Nix, or put it on PATH")))?;
    let mut lines = Lines::new(group.stdout()?);
    let (line, _) = tokio::try_join!(lines.next(), group.wait(None))?;
    Ok(line.unwrap_or_default())
}

enum Stop {
    NobodyListens,
    Fatal(FatalKind, String),
}

struct Driver<'e> {
    shared: Arc<Shared>,
    events: &'e mpsc::Sender<Event>,
    /// Attributes no process has.
    queue: VecDeque<Path>,
    tasks: JoinSet<io::Result<Batch>>,
    /// Processes started, which numbers the roots.
    started: u64,
    /// Processes at once; fewer after the kernel has killed one.
    allowed: usize,
    strikes: u32,
    /// Time an attribute takes, as chunks have shown.
    per_attribute: Option<Duration>,
    evaluated: u64,
    /// Attributes that need more memory than there is.
    too_large: Vec<AttrPath>,
    largest: u64,
}

impl Driver<'_> {
    async fn run(&mut self) -> Result<(), Stop> {
        loop {
            while self.tasks.len() < self.allowed && !self.queue.is_empty() {
                let paths = self.next_chunk();
                self.started += 1;
                self.tasks.spawn(batch(Arc::clone(&self.shared), self.started, paths));
            }
            let joined = tokio::select! {
                () = self.events.closed() => return Err(Stop::NobodyListens),
                joined = self.tasks.join_next() => joined,
            };
            match joined {
                None => break,
                Some(Ok(Ok(batch))) => self.settle(batch).await?,
                Some(Ok(Err(error))) => return Err(Stop::Fatal(FatalKind::WholeEvaluation, error.to_string())),
                Some(Err(error)) => {
                    let message = format!("a task of the evaluator ended: {error}");
                    return Err(Stop::Fatal(FatalKind::WholeEvaluation, message));
                }
            }
        }
        if self.too_large.is_empty() {
            return Ok(());
        }
        Err(Stop::Fatal(
            FatalKind::Killed { memory: self.largest },
            self.memory_message(),
        ))
    }

    fn next_chunk(&mut self) -> Vec<Path> {
        let fair = self.queue.len().div_ceil(self.allowed);
        let wanted = match self.per_attribute {
            None => FIRST_CHUNK,
            Some(each) => (CHUNK_TIME.as_micros() / each.as_micros().max(1)) as usize,
        };
        let count = wanted.min(fair).clamp(1, MAX_CHUNK);
        let mut bytes = 0;
        let mut chunk = Vec::new();
        while chunk.len() < count {
            let Some(path) = self.queue.pop_front() else { break };
            bytes += path.iter().map(|name| name.len() + 4).sum::<usize>();
            if bytes > MAX_CHUNK_BYTES && !chunk.is_empty() {
                self.queue.push_front(path);
                break;
            }
            chunk.push(path);
        }
        chunk
    }

    async fn settle(&mut self, batch: Batch) -> Result<(), Stop> {
        let Batch { ended, rooted } = batch;
        let Ended {
            mut progress,
            exit,
            messages,
            took,
        } = ended;
        let concluded = progress.concluded();
        if concluded > 0 {
            self.strikes = 0;
            let each = took / u32::try_from(concluded).unwrap_or(u32::MAX);
            self.per_attribute = Some(self.per_attribute.map_or(each, |before| (before + each) / 2));
        }
        if let Some(root) = progress.others.iter().find(|path| path.is_empty()) {
            let job = names::job(&self.shared.source, &self.shared.options, root);
            let what = if job.names().is_empty() {
                "it".to_owned()
            } else {
                format!("`{job}`")
            };
            let message = format!("{what} is neither a derivation nor a set of derivations");
            return Err(Stop::Fatal(FatalKind::WholeEvaluation, message));
        }
        let found = std::mem::take(&mut progress.found);
        match rooted {
            Ok(()) => {
                self.evaluated += concluded;
                for found in found {
                    self.report(found).await?;
                }
            }
            // A collection came in between. It is rare, and evaluating again is cheap.
            Err(why) => {
                self.strike(FatalKind::WholeEvaluation, || why)?;
                self.evaluated += progress.others.len() as u64;
                progress.left.extend(found.into_iter().map(|found| found.path));
            }
        }
        let culprit = progress.at.take();
        let untouched = progress.is_empty() && concluded == 0;
        // What was begun goes first, so that the end comes from where it is.
        for path in progress.left.into_iter().rev() {
            self.queue.push_front(path);
        }
        self.queue.extend(progress.more);
        match exit {
            // It cannot be, but would go on for ever.
            Exit::Success if untouched => {
                self.strike(FatalKind::WholeEvaluation, || {
                    "nix ended well without visiting any attribute; its messages may be switched off".to_owned()
                })?;
            }
            Exit::Success => {}
            Exit::Failed if runs_out_of_memory(&messages) => {
                self.killed(culprit, untouched, Killer::Limit, 0, self.allowed == 1)
                    .await?;
            }
            Exit::Failed => {
                self.failed(culprit, message::of_nix(&messages, self.own_frames()))
                    .await?;
            }
            Exit::Crashed { signal } => {
                let said = message::of_nix(&messages, self.own_frames());
                let what = format!("nix crashed with signal {signal}; the usual reason is an infinite recursion");
                self.failed(culprit, format!("{what}\n{said}").trim_end().to_owned())
                    .await?;
            }
            Exit::Killed { by, memory } => {
                let alone = self.allowed == 1;
                if by == Killer::Outside {
                    self.allowed = (self.allowed - 1).max(1);
                }
                self.killed(culprit, untouched, by, memory, alone).await?;
            }
        }
        let known = self.evaluated + self.queue.len() as u64;
        self.send(Event::Progress {
            evaluated: self.evaluated,
            known,
        })
        .await
    }

    /// The process failed by itself.
    async fn failed(&mut self, culprit: Option<Path>, message: String) -> Result<(), Stop> {
        match culprit {
            Some(path) if !path.is_empty() => {
                self.strikes = 0;
                self.evaluated += 1;
                self.attribute_error(&path, message).await
            }
            // Without the root there is nothing.
            Some(_) => Err(Stop::Fatal(FatalKind::WholeEvaluation, message)),
            None if self.started == 1 => Err(Stop::Fatal(FatalKind::WholeEvaluation, message)),
            None => self.strike(FatalKind::WholeEvaluation, || message),
        }
    }

    /// The process was killed. `alone` says that nothing else of ours took memory meanwhile.
    async fn killed(
        &mut self,
        culprit: Option<Path>,
        untouched: bool,
        by: Killer,
        memory: u64,
        alone: bool,
    ) -> Result<(), Stop> {
        self.largest = self.largest.max(memory);
        let Some(path) = culprit else {
            return self.strike(FatalKind::Killed { memory }, || {
                "the evaluator was killed before it came to any attribute, with no memory left; \
                 give it more, or fewer workers"
                    .to_owned()
            });
        };
        let own_fault = untouched && (by == Killer::Limit || alone);
        if !own_fault {
            self.queue.push_front(path);
            return Ok(());
        }
        let job = names::job(&self.shared.source, &self.shared.options, &path);
        self.too_large.push(job);
        if path.is_empty() {
            return Err(Stop::Fatal(FatalKind::Killed { memory }, self.memory_message()));
        }
        self.evaluated += 1;
        let limit = self.shared.share.memory;
        let message = format!("the evaluator was killed: this attribute alone needs more than {limit} MiB of memory");
        self.attribute_error(&path, message).await
    }

    fn memory_message(&self) -> String {
        let Share { workers, memory } = self.shared.share;
        let named: Vec<_> = self.too_large.iter().take(5).map(ToString::to_string).collect();
        let more = self.too_large.len().saturating_sub(named.len());
        let more = if more > 0 {
            format!(" and {more} more")
        } else {
            String::new()
        };
        let advice = if workers > 1 {
            format!("set --workers 1 --max-memory {}", memory * workers as u64)
        } else {
            format!("set --max-memory {} on a machine that has as much", memory * 2)
        };
        format!(
            "the evaluator was killed for want of memory: {}{more} needs more than {memory} MiB; {advice}",
            named.join(", ")
        )
    }

    /// Counts a process that failed for no reason an attribute has.
    fn strike(&mut self, kind: FatalKind, message: impl FnOnce() -> String) -> Result<(), Stop> {
        self.strikes += 1;
        if self.strikes > MAX_STRIKES {
            return Err(Stop::Fatal(kind, message()));
        }
        Ok(())
    }

    async fn report(&self, found: Found) -> Result<(), Stop> {
        let Shared { source, options, .. } = &*self.shared;
        if !options.systems.is_empty() && !options.systems.contains(&found.system) {
            return Ok(());
        }
        self.send(Event::Attr {
            attr: names::job(source, options, &found.path),
            drv_path: found.drv_path,
            name: found.name,
            system: found.system,
        })
        .await
    }

    async fn attribute_error(&self, path: &[String], message: String) -> Result<(), Stop> {
        let attr = names::job(&self.shared.source, &self.shared.options, path);
        self.send(Event::AttrError { attr, message }).await
    }

    async fn send(&self, event: Event) -> Result<(), Stop> {
        self.events.send(event).await.map_err(|_| Stop::NobodyListens)
    }

    fn own_frames(&self) -> OwnFrames {
        match self.shared.source {
            Source::Flake { .. } | Source::File { .. } => OwnFrames::Drop,
            Source::Expr { .. } => OwnFrames::Keep,
        }
    }
}

/// Whether Nix itself noticed that there was no memory left.
fn runs_out_of_memory(messages: &[String]) -> bool {
    messages
        .iter()
        .any(|line| line.contains("std::bad_alloc") || line.contains("error: out of memory"))
}
