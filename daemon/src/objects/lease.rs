//! Who keeps generations: one task per store, with a connection that holds the roots.
//!
//! Asking never waits for it. What a store answered is told to the task afterwards; the task takes temporary roots,
//! asks once more, and only then may the answer be given from memory. A generation ends with its time, with its
//! connection, and before collections. Clients that were promised roots keep those, on a connection of their own.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nixci_protocol::client::Error;
use nixci_protocol::op;
use nixci_protocol::types::{PathInfo, StorePath};
use nixci_store::remote::{Link, Remote};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tracing::debug;

use super::Readers;
use super::generation::{Generation, Hold, Room};
use crate::error::told;
use crate::sign::Signer;

/// Lessons that wait. What comes while the queue is full is learned when it is asked for again.
const LESSONS: usize = 1_024;
/// Paths that get roots and are asked about in one go, between which a collection may begin.
const PATHS_AT_ONCE: usize = 2_048;
/// How often is looked whether promises ended and connections grew old.
const LOOK: Duration = Duration::from_secs(30);

/// How answers are kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct Terms {
    /// For how long at most.
    pub(super) life: Duration,
    /// How many.
    pub(super) room: Room,
}

/// What one store is known to have.
#[derive(Debug)]
pub(super) struct Lease {
    shared: Arc<Shared>,
    lessons: mpsc::Sender<Lesson>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Held to look or to replace.
    current: Mutex<Option<Arc<Generation>>>,
    /// Collections that are under way: nothing is learned meanwhile.
    collections: AtomicUsize,
    /// Paths in lessons that wait.
    waiting: AtomicUsize,
}

#[derive(Debug)]
enum Lesson {
    /// The store says that these are valid.
    Valid { paths: Vec<StorePath>, with_infos: bool },
    /// Everything is to be let go.
    Retire(oneshot::Sender<()>),
}

/// While it lives a store's answers are not kept.
#[derive(Debug)]
pub(super) struct Pause(Arc<Shared>);

impl Drop for Pause {
    fn drop(&mut self) {
        self.0.collections.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Lease {
    /// Also returns the task, which runs until this is dropped.
    pub(super) fn new(
        readers: Readers,
        terms: Terms,
        signer: Signer,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let shared = Arc::new(Shared::default());
        let (lessons, inbox) = mpsc::channel(LESSONS);
        let holder = Holder {
            remote: readers.plain,
            set: readers.set,
            terms,
            signer,
            shared: shared.clone(),
            open: None,
            keepers: Vec::new(),
        };
        (Self { shared, lessons }, holder.run(inbox))
    }

    /// The generation that answers, if there is one.
    pub(super) fn current(&self) -> Option<Arc<Generation>> {
        self.shared.current()
    }

    /// Has paths that the store said are valid kept in mind. Does not wait, and may come to nothing.
    pub(super) fn learn(&self, paths: Vec<StorePath>, with_infos: bool, room: Room) {
        let count = paths.len();
        let shared = &self.shared;
        if count == 0 || shared.collections.load(Ordering::SeqCst) > 0 {
            return;
        }
        if shared.waiting.fetch_add(count, Ordering::SeqCst) > room.paths
            || self.lessons.try_send(Lesson::Valid { paths, with_infos }).is_err()
        {
            shared.waiting.fetch_sub(count, Ordering::SeqCst);
        }
    }

    /// Takes back what is known of a path besides that it is valid.
    pub(super) fn forget(&self, path: &StorePath) {
        if let Some(generation) = self.current() {
            generation.forget(path);
        }
    }

    /// Lets go of everything but what clients were promised, and keeps nothing until the pause is dropped.
    pub(super) async fn retire(&self) -> Pause {
        self.shared.collections.fetch_add(1, Ordering::SeqCst);
        let pause = Pause(self.shared.clone());
        let (done, wait) = oneshot::channel();
        if self.lessons.send(Lesson::Retire(done)).await.is_ok() {
            // An error says that the task is gone, and its connection with it.
            drop(wait.await);
        }
        pause
    }
}

impl Shared {
    fn current(&self) -> Option<Arc<Generation>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn replace(&self, by: Option<Arc<Generation>>) -> Option<Arc<Generation>> {
        std::mem::replace(&mut self.current.lock().unwrap_or_else(PoisonError::into_inner), by)
    }
}

/// The task.
struct Holder {
    remote: Remote,
    set: Remote,
    terms: Terms,
    signer: Signer,
    shared: Arc<Shared>,
    open: Option<Open>,
    keepers: Vec<Keeper>,
}

/// The current generation's connection.
struct Open {
    link: Link,
    ends: Instant,
}

/// Roots that clients were promised by a generation that ended.
struct Keeper {
    link: Option<Link>,
    holds: Vec<Weak<Hold>>,
}

impl Holder {
    async fn run(mut self, mut inbox: mpsc::Receiver<Lesson>) {
        let mut look = tokio::time::interval(LOOK);
        let mut next = None;
        loop {
            if let Some(lesson) = next.take() {
                next = self.obey(lesson, &mut inbox).await;
                continue;
            }
            let lost = async {
                match &mut self.open {
                    Some(open) => {
                        tokio::select! {
                            () = open.link.hung_up() => {}
                            () = tokio::time::sleep_until(open.ends) => {}
                        }
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                lesson = inbox.recv() => match lesson {
                    None => break,
                    lesson => next = lesson,
                },
                () = lost => drop(self.end().await),
                _ = look.tick() => {
                    self.remote.close_old();
                    self.set.close_old();
                    drop(self.look_after_promises().await);
                }
            }
        }
        if let Some(generation) = self.shared.replace(None) {
            generation.end();
        }
    }

    /// Returns a lesson that was taken from the inbox and comes next.
    async fn obey(&mut self, lesson: Lesson, inbox: &mut mpsc::Receiver<Lesson>) -> Option<Lesson> {
        match lesson {
            Lesson::Valid { mut paths, with_infos } => {
                let mut next = None;
                // Clients that ask one by one tell much in little: taken together it is one round trip.
                while paths.len() < PATHS_AT_ONCE && next.is_none() {
                    match inbox.try_recv() {
                        Ok(Lesson::Valid {
                            paths: more,
                            with_infos: too,
                        }) if too == with_infos => paths.extend(more),
                        Ok(other) => next = Some(other),
                        Err(_) => break,
                    }
                }
                self.learn(paths, with_infos).await;
                next
            }
            Lesson::Retire(done) => {
                let mut links: Vec<Link> = self.end().await.into_iter().collect();
                links.extend(self.look_after_promises().await);
                // The collection comes next: roots that are on their way out would still count.
                for link in links {
                    link.end().await;
                }
                self.remote.close_idle();
                self.set.close_idle();
                // Who asked may have gone.
                let _ = done.send(());
                None
            }
        }
    }

    async fn learn(&mut self, paths: Vec<StorePath>, with_infos: bool) {
        self.shared.waiting.fetch_sub(paths.len(), Ordering::SeqCst);
        if self.open.as_ref().is_some_and(|open| open.ends <= Instant::now()) {
            drop(self.end().await);
        }
        let generation = self.shared.current().unwrap_or_default();
        let mut lacking = generation.lacking(paths, with_infos, self.terms.room);
        // Asked for again and again before it was learned.
        lacking.sort_unstable();
        lacking.dedup();
        for some in lacking.chunks(PATHS_AT_ONCE) {
            if self.shared.collections.load(Ordering::SeqCst) > 0 {
                return;
            }
            if let Err(reason) = self.root(&generation, some, with_infos).await {
                debug!(
                    store = self.remote.name(),
                    "answers of store `{}` are not kept: {reason}",
                    self.remote.name()
                );
                drop(self.end().await);
                return;
            }
        }
    }

    /// Roots first, then the question: what is valid now stays so.
    async fn root(
        &mut self,
        generation: &Arc<Generation>,
        paths: &[StorePath],
        with_infos: bool,
    ) -> Result<(), String> {
        let open = if let Some(open) = &mut self.open {
            open
        } else {
            let link = self.remote.connect().await.map_err(|error| told(&error))?;
            let ends = Instant::now() + self.terms.life;
            self.open.insert(Open { link, ends })
        };
        take_roots(&mut open.link, paths).await.map_err(|error| told(&error))?;
        if with_infos {
            let forgotten = generation.forgotten();
            let questions: Vec<_> = paths.iter().cloned().map(|path| op::QueryPathInfo { path }).collect();
            let answers = open.link.call_all(&questions, &mut ()).await;
            let answers = answers.map_err(|error| told(&error))?;
            let infos = paths.iter().zip(answers).filter_map(|(path, info)| {
                info.map(|info| PathInfo {
                    path: path.clone(),
                    info,
                })
            });
            let mut infos: Vec<PathInfo> = infos.collect();
            // Those that are not read yet, or not what the store says, are asked about again.
            let mut unread = self.signer.sign_what_was_read(self.remote.name(), &mut infos).await;
            while let Some(nth) = unread.pop() {
                infos.swap_remove(nth);
            }
            generation.learn_infos(infos, forgotten);
        } else {
            let question = op::QueryValidPaths {
                paths: paths.iter().cloned().collect::<BTreeSet<_>>(),
                substitute: false,
            };
            let valid = open.link.call(&question, &mut ()).await;
            let valid = valid.map_err(|error| told(&error))?;
            // The texts of those that were asked about: they are in use elsewhere too.
            generation.learn_paths(paths.iter().filter(|path| valid.contains(path)).cloned());
        }
        self.shared.replace(Some(generation.clone()));
        Ok(())
    }

    /// Ends the generation and returns its connection. What clients were promised of it moves to another one first.
    async fn end(&mut self) -> Option<Link> {
        let open = self.open.take().map(|open| open.link);
        let Some(generation) = self.shared.replace(None) else {
            return open;
        };
        let holds = generation.end();
        if !holds.is_empty() {
            let mut keeper = Keeper { link: None, holds };
            keeper.take_roots(&self.remote).await;
            self.keepers.push(keeper);
        }
        open
    }

    /// Returns the connections whose clients have left.
    async fn look_after_promises(&mut self) -> Vec<Link> {
        for keeper in &mut self.keepers {
            keeper.holds.retain(|hold| hold.strong_count() > 0);
        }
        let over = self.keepers.extract_if(.., |keeper| keeper.holds.is_empty());
        let over = over.filter_map(|keeper| keeper.link).collect();
        for keeper in &mut self.keepers {
            if !keeper.link.as_ref().is_some_and(Link::is_fresh) {
                keeper.take_roots(&self.remote).await;
            }
        }
        over
    }
}

impl Keeper {
    async fn take_roots(&mut self, remote: &Remote) {
        let holds = self.holds.iter().filter_map(Weak::upgrade);
        let paths: Vec<StorePath> = holds.flat_map(|hold| hold.paths()).collect();
        self.link = None;
        let taken = match remote.connect().await {
            Ok(mut link) => match take_roots(&mut link, &paths).await {
                Ok(()) => {
                    self.link = Some(link);
                    Ok(())
                }
                Err(error) => Err(told(&error)),
            },
            Err(error) => Err(told(&error)),
        };
        if let Err(reason) = taken {
            // Tried again when it is looked after.
            debug!(
                store = remote.name(),
                "failed to keep what clients use on store `{}`: {reason}",
                remote.name()
            );
        }
    }
}

async fn take_roots(link: &mut Link, paths: &[StorePath]) -> Result<(), Error> {
    let roots: Vec<_> = paths.iter().cloned().map(|path| op::AddTempRoot { path }).collect();
    link.call_all(&roots, &mut ()).await.map(drop)
}
