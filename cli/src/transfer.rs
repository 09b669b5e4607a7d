//! From the local store to a daemon: what it lacks of a closure, and nothing else.

use std::io;
use std::time::{Duration, Instant};

use nixci_protocol::client;
use nixci_protocol::nixci::RootsDigest;
use nixci_protocol::op::QueryPathInfo;
use nixci_protocol::types::{StoreDir, StorePath};
use nixci_store::negotiate::{NegotiateError, Oracle, negotiate_below};
use nixci_store::spool::Spool;
use nixci_store::upload::{ObjectSource, Progress, UploadError, upload};

use crate::connect::Peer;
use crate::exit::{Problem, chain};

pub(crate) use nixci_store::local::LocalStore;

/// How often a transfer says how far it is.
const PACE: Duration = Duration::from_millis(100);

/// How far a transfer is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Step {
    /// Paths the daemon lacked.
    pub(crate) missing: u64,
    /// Paths sent.
    pub(crate) sent: u64,
    /// Their size as NARs.
    pub(crate) sent_bytes: u64,
}

/// What became of a transfer.
#[derive(Debug, Default)]
pub(crate) struct Moved {
    /// How far it went: to the end.
    pub(crate) step: Step,
    /// Roots that neither side has.
    pub(crate) lost: Vec<StorePath>,
}

/// Where a closure comes from: the local store, or a file that was unpacked.
pub(crate) trait Source: ObjectSource {
    /// The directory of its paths.
    fn store_dir(&self) -> &StoreDir;

    /// Those of the paths that are there, and those that are not.
    fn split(
        &self,
        paths: Vec<StorePath>,
    ) -> impl Future<Output = Result<(Vec<StorePath>, Vec<StorePath>), Problem>> + Send;
}

impl Source for LocalStore {
    fn store_dir(&self) -> &StoreDir {
        self.store_dir()
    }

    async fn split(&self, paths: Vec<StorePath>) -> Result<(Vec<StorePath>, Vec<StorePath>), Problem> {
        if paths.is_empty() {
            return Ok((Vec::new(), Vec::new()));
        }
        let local = self.clone();
        tokio::task::spawn_blocking(move || {
            (paths.into_iter()).partition(|path| local.file(path).symlink_metadata().is_ok())
        })
        .await
        .map_err(|_| Problem::failed("reading the local store was stopped"))
    }
}

impl Source for Spool {
    fn store_dir(&self) -> &StoreDir {
        self.store_dir()
    }

    async fn split(&self, paths: Vec<StorePath>) -> Result<(Vec<StorePath>, Vec<StorePath>), Problem> {
        Ok(paths.into_iter().partition(|path| self.contains(path)))
    }
}

/// The local store that `from` names, or the one that Nix would use here.
pub(crate) fn local_store(from: Option<&str>) -> Result<LocalStore, Problem> {
    LocalStore::open(from).map_err(|error| Problem::usage(chain(&error)))
}

/// Sends what the peer lacks of the closure of `roots`. A root that is not in the source may be at the
/// peer already; one that is nowhere is set aside, so that the others arrive.
///
/// Nothing is asked or read where the peer said in the handshake that it has this very set.
/// A lost connection is a problem with exit code 4; what arrived whole stays there.
pub(crate) async fn closure(
    peer: &mut Peer,
    local: &impl Source,
    roots: &[StorePath],
    each: &mut (dyn FnMut(&Step) -> io::Result<()> + Send),
) -> Result<Moved, Problem> {
    let mut moved = Moved::default();
    if RootsDigest::of(local.store_dir(), roots).is_known(peer.connection().negotiated()) {
        each(&moved.step)?;
        return Ok(moved);
    }
    // All roots in one question, so that the peer can recognise the set when it comes again.
    let valid = peer.connection().valid(roots).await;
    let valid = valid.map_err(|error| peer.refused(&error))?;
    let missing = (roots.iter().enumerate()).filter(|(at, _)| !valid.get(*at));
    let (here, nowhere) = local.split(missing.map(|(_, path)| path.clone()).collect()).await?;
    moved.lost = nowhere;
    let plan = negotiate_below(peer.connection(), local, here)
        .await
        .map_err(|error| match error {
            NegotiateError::Source(error) => {
                Problem::failed(format!("failed to read what is to be sent: {}", chain(&error)))
            }
            NegotiateError::Store(error) => peer.refused(&error),
        })?;
    tracing::debug!(
        asked = plan.asked,
        rounds = plan.rounds,
        missing = plan.missing.len(),
        "negotiated"
    );
    moved.step.missing = plan.missing.len() as u64;
    each(&moved.step)?;
    let mut last = Instant::now();
    let mut shown = Ok(());
    let missing = moved.step.missing;
    let sent = upload(peer.connection(), local, &plan.missing, |progress| {
        if last.elapsed() >= PACE && shown.is_ok() {
            last = Instant::now();
            shown = each(&step(missing, progress));
        }
    })
    .await
    .map_err(|error| match error {
        UploadError::Source(error) => Problem::failed(format!("failed to read what is to be sent: {}", chain(&error))),
        UploadError::Object(error) => Problem::failed(format!("failed to send: {}", chain(&error))),
        UploadError::Store(error) => peer.refused(&error),
    })?;
    shown?;
    moved.step = step(missing, sent);
    each(&moved.step)?;
    Ok(moved)
}

fn step(missing: u64, progress: Progress) -> Step {
    Step {
        missing,
        sent: progress.paths,
        sent_bytes: progress.bytes,
    }
}

/// The derivations that made these paths; derivations stay themselves.
pub(crate) async fn derivers(local: &LocalStore, paths: &[StorePath]) -> Result<Vec<StorePath>, Problem> {
    let (mut found, made): (Vec<_>, Vec<_>) = paths.iter().cloned().partition(StorePath::is_derivation);
    if made.is_empty() {
        return Ok(found);
    }
    let requests: Vec<_> = made.iter().map(|path| QueryPathInfo { path: path.clone() }).collect();
    let mut connection = local
        .remote()
        .acquire()
        .await
        .map_err(|error| Problem::unreachable(chain(&error)))?;
    let replies = connection.call_all(&requests, &mut ()).await;
    let replies = replies
        .map_err(|error: client::Error| Problem::failed(format!("failed to ask the local store: {}", chain(&error))))?;
    for (path, info) in made.iter().zip(replies) {
        let shown = local.store_dir().display(path);
        let info = info.ok_or_else(|| Problem::failed(format!("`{shown}` is not in the local store")))?;
        found.push(info.deriver.ok_or_else(|| {
            Problem::failed(format!("the local store does not know which derivation made `{shown}`"))
        })?);
    }
    Ok(found)
}
