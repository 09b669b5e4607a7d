//! Clients that wait for builds: what they want, and how they hear of it.
//!
//! A client's request to build is a wish beside those of evaluations: the scheduler shares builds between all of them,
//! one attempt runs for all who want a derivation. What the attempt says goes into a [`Stream`], which keeps what a
//! client that joins later has to hear first, and from there into the [`Mailbox`] of each request that waits for it.
//! Nobody who posts ever waits for a client: a mailbox has bounds, and a client that does not read loses log lines and
//! is told how many, but never the beginning or end of a build.
//!
//! A [`Request`] ends when it is dropped: its wish is taken back, which stops only what nobody else wants. Nothing of
//! it is recorded, so that nothing of it comes back after a crash.

mod activities;
mod builds;
mod mailbox;
mod stream;
mod words;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use nixci_protocol::log::RemoteError;
use nixci_protocol::op;
use nixci_protocol::types::{BuildResult, DerivedPath, StorePath};
use nixci_store::index::DrvId;

pub(crate) use activities::Activities;
pub(crate) use builds::Builds;
pub(crate) use mailbox::{Mailbox, Post};
pub(crate) use stream::Stream;
pub(crate) use words::{Manner, error_line};

use crate::core::Core;
use crate::scheduler::{RequestId, StoreId};

/// How an attempt ended, for those who waited for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    /// With the store's own result.
    Result(Box<BuildResult>),
    /// The store said no to the request itself.
    Refused(RemoteError),
    /// Nobody knows, because the store was lost, for this reason; or it was stopped. The scheduler decides what follows.
    Lost(Option<String>),
}

/// What a client asked for.
#[derive(Debug)]
pub(crate) enum Asked {
    /// Outputs of derivations by path.
    Paths {
        /// The derived paths of each root.
        paths: HashMap<DrvId, Vec<DerivedPath>>,
        /// What the store that the request is pinned to has said must be done, if it was asked.
        missing: Option<op::Missing>,
    },
    /// A derivation that need not be anywhere.
    Derivation(Arc<op::BuildDerivation>),
}

/// One derivation of a plan, as who waits for it needs it.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    /// Its number.
    pub(crate) drv: DrvId,
    /// Its path.
    pub(crate) path: StorePath,
    /// Those of its inputs that must be built too.
    pub(crate) inputs: Vec<DrvId>,
}

/// Everything a request can be told.
#[derive(Debug, Clone)]
pub(crate) struct Outline {
    /// The store that will build.
    pub(crate) store: StoreId,
    /// What will be built.
    pub(crate) builds: Vec<Planned>,
    /// Roots for which nothing has to be built: there, or to be fetched.
    pub(crate) passed: Vec<DrvId>,
}

/// The requests that are open, and the attempts that somebody may listen to.
#[derive(Debug, Default)]
pub(crate) struct Requests {
    numbers: AtomicU64,
    /// Held for look-ups and posts, which do not wait.
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    open: HashMap<RequestId, Open>,
    builds: HashMap<(StoreId, DrvId), Build>,
    /// Derivations that were sent whole, as long as who sent them waits.
    sent: HashMap<DrvId, Vec<(RequestId, Arc<op::BuildDerivation>)>>,
}

#[derive(Debug)]
struct Open {
    mailbox: Arc<Mailbox>,
    asked: Arc<Asked>,
    listens: Vec<(StoreId, DrvId)>,
}

#[derive(Debug, Default)]
struct Build {
    listeners: Vec<RequestId>,
    stream: Option<Arc<Stream>>,
}

impl Requests {
    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A number nobody else has in this run of the daemon.
    pub(crate) fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// A number for an activity that clients are told of: unique among those of this process, and as far from those of
    /// others on this host as stock programs keep theirs.
    pub(crate) fn activity(&self) -> u64 {
        (u64::from(std::process::id()) << 32) | (self.number() & 0xffff_ffff)
    }

    /// What a request asked for.
    pub(crate) fn asked(&self, request: RequestId) -> Option<Arc<Asked>> {
        self.with(|known| known.open.get(&request).map(|open| open.asked.clone()))
    }

    /// Whether somebody still waits.
    pub(crate) fn is_open(&self, request: RequestId) -> bool {
        self.with(|known| known.open.contains_key(&request))
    }

    /// Puts something into the mailbox of a request, if it is still there.
    pub(crate) fn post(&self, request: RequestId, post: Post) {
        self.with(|known| {
            if let Some(open) = known.open.get(&request) {
                open.mailbox.post(post);
            }
        });
    }

    /// Tells a request what will be built for it, and lets it hear all that these builds say, from their beginning.
    pub(crate) fn expect(&self, request: RequestId, outline: Outline) {
        self.with(|known| {
            let Known { open, builds, .. } = known;
            let Some(open) = open.get_mut(&request) else { return };
            let (store, drvs): (_, Vec<DrvId>) =
                (outline.store, outline.builds.iter().map(|build| build.drv).collect());
            open.mailbox.post(Post::Planned(Box::new(outline)));
            for drv in drvs {
                let build = builds.entry((store, drv)).or_default();
                if build.listeners.contains(&request) {
                    continue;
                }
                build.listeners.push(request);
                open.listens.push((store, drv));
                if let Some(stream) = &build.stream {
                    stream.join(open.mailbox.clone());
                }
            }
        });
    }

    /// The derivation itself, where a client that waits has sent it to be built on this store.
    pub(crate) fn sent(&self, store: StoreId, drv: DrvId) -> Option<Arc<op::BuildDerivation>> {
        self.with(|known| {
            let listeners = &known.builds.get(&(store, drv))?.listeners;
            let sent = known.sent.get(&drv)?.iter().find(|(by, _)| listeners.contains(by));
            sent.map(|(_, sent)| sent.clone())
        })
    }

    /// An attempt begins to speak.
    pub(crate) fn begin(&self, store: StoreId, drv: DrvId) -> Arc<Stream> {
        let stream = Arc::new(Stream::new(self.number()));
        self.with(|known| {
            let build = known.builds.entry((store, drv)).or_default();
            for request in &build.listeners {
                if let Some(open) = known.open.get(request) {
                    stream.join(open.mailbox.clone());
                }
            }
            build.stream = Some(stream.clone());
        });
        stream
    }

    /// An attempt has ended; its stream says no more.
    pub(crate) fn end(&self, store: StoreId, drv: DrvId, ending: Ending) {
        let ending = Arc::new(ending);
        self.with(|known| {
            let Some(build) = known.builds.get_mut(&(store, drv)) else {
                return;
            };
            if let Some(stream) = build.stream.take() {
                stream.over();
            }
            for request in &build.listeners {
                if let Some(open) = known.open.get(request) {
                    let ending = ending.clone();
                    open.mailbox.post(Post::Ended { drv, ending });
                }
            }
            if build.listeners.is_empty() {
                known.builds.remove(&(store, drv));
            }
        });
    }

    fn close(&self, request: RequestId) {
        self.with(|known| {
            let Some(open) = known.open.remove(&request) else {
                return;
            };
            for key in open.listens {
                if let Some(build) = known.builds.get_mut(&key) {
                    build.listeners.retain(|listener| *listener != request);
                    if let Some(stream) = &build.stream {
                        stream.leave(&open.mailbox);
                    } else if build.listeners.is_empty() {
                        known.builds.remove(&key);
                    }
                }
            }
            known.sent.retain(|_, sent| {
                sent.retain(|(by, _)| *by != request);
                !sent.is_empty()
            });
        });
    }
}

/// A client that waits. Dropping it takes the wish back.
#[derive(Debug)]
pub(crate) struct Request {
    core: Arc<Core>,
    id: RequestId,
    mailbox: Arc<Mailbox>,
}

impl Request {
    /// Begins to wait. The scheduler has to be told next.
    pub(crate) fn open(core: &Arc<Core>, asked: Asked, drv: Option<DrvId>) -> Self {
        let requests = &core.requests;
        let id = RequestId(requests.number());
        let mailbox = Arc::new(Mailbox::default());
        requests.with(|known| {
            if let (Asked::Derivation(sent), Some(drv)) = (&asked, drv) {
                known.sent.entry(drv).or_default().push((id, sent.clone()));
            }
            let open = Open {
                mailbox: mailbox.clone(),
                asked: Arc::new(asked),
                listens: Vec::new(),
            };
            known.open.insert(id, open);
        });
        Self {
            core: core.clone(),
            id,
            mailbox,
        }
    }

    /// Its number.
    pub(crate) fn id(&self) -> RequestId {
        self.id
    }

    /// What it is told next. Cancellation safe.
    pub(crate) async fn next(&self) -> Post {
        self.mailbox.next().await
    }

    /// What it has been told already.
    pub(crate) fn try_next(&self) -> Option<Post> {
        self.mailbox.try_next()
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let (core, id) = (self.core.clone(), self.id);
        core.requests.close(id);
        core.holders.release(id);
        // Outside of a runtime the daemon is gone, and with it the scheduler.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                let _ = core.scheduler.cancel(id).await;
            });
        }
    }
}
