//! Filling the cache: one writer per NAR, and everybody who wants it reads along.

use std::collections::hash_map;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use nixci_protocol::binary_cache::Packed;
use nixci_protocol::op::Nar;
use nixci_protocol::types::{Hash, NarHash};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tracing::warn;

use super::cached::{blocking, remove};
use super::chunks::{self, Pool};
use super::pack::{PackError, Packer};
use super::shelf::{self, Item};
use super::{Inner, NarCache};

/// What can be done about a NAR that is not in the cache.
#[derive(Debug)]
pub enum Claim {
    /// It came in this moment: look again.
    There,
    /// Somebody else fills it: read along.
    Follow(Follower),
    /// Nobody fills it: get the NAR and [`Ticket::fill`].
    Fill(Ticket),
    /// The cache is off or has enough to write, or this one is too large for it.
    Busy,
}

/// The right to fill one NAR. Dropping it tells those who follow to help themselves.
#[derive(Debug)]
pub struct Ticket {
    cache: NarCache,
    nar_hash: NarHash,
    state: watch::Sender<State>,
    /// Frees the place among the writers.
    _place: OwnedSemaphorePermit,
}

/// Reads a file while it is written.
#[derive(Debug)]
pub struct Follower {
    state: watch::Receiver<State>,
    pool: Arc<Pool>,
    at: u64,
}

/// Why a file did not become whole.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Fault {
    /// The NAR itself: nobody can have it now.
    #[error("the NAR could not be read")]
    Nar(#[source] Arc<PackError>),
    /// Only the file: the NAR can still be had without it.
    #[error("the file could not be written")]
    File(#[source] Arc<io::Error>),
}

#[derive(Debug, Clone)]
pub(super) enum State {
    /// The NAR is being fetched.
    Waiting,
    Writing {
        file: Arc<File>,
        written: u64,
    },
    Whole {
        file: Arc<File>,
        size: u64,
    },
    Failed(Fault),
}

impl NarCache {
    /// Takes note that somebody asks for a NAR; whether somebody did before.
    #[must_use]
    pub fn asked(&self, nar_hash: &NarHash) -> bool {
        self.inner.asked().note(*nar_hash)
    }

    /// Asks for the right to fill a NAR that [`get`](Self::get) did not find.
    #[must_use]
    pub fn claim(&self, nar_hash: &NarHash) -> Claim {
        let mut filling = self.inner.filling();
        // A writer puts its file on the shelf before it is gone from here.
        if self.inner.shelf().peek(nar_hash).is_some() {
            return Claim::There;
        }
        match filling.entry(*nar_hash) {
            hash_map::Entry::Occupied(writer) => Claim::Follow(Follower {
                state: writer.get().clone(),
                pool: self.inner.pool.clone(),
                at: 0,
            }),
            hash_map::Entry::Vacant(place) => {
                if self.inner.capacity == 0 || self.inner.too_large().contains(nar_hash) {
                    return Claim::Busy;
                }
                let Ok(permit) = self.inner.writers.clone().try_acquire_owned() else {
                    return Claim::Busy;
                };
                let (state, watching) = watch::channel(State::Waiting);
                place.insert(watching);
                Claim::Fill(Ticket {
                    cache: self.clone(),
                    nar_hash: *nar_hash,
                    state,
                    _place: permit,
                })
            }
        }
    }
}

impl Ticket {
    /// Packs the NAR into a file as fast as it comes, whether somebody reads along or not.
    #[must_use]
    pub fn fill(self, nar: Nar) -> Follower {
        let follower = Follower {
            state: self.state.subscribe(),
            pool: self.cache.inner.pool.clone(),
            at: 0,
        };
        tokio::spawn(async move {
            if let Err(fault) = self.write(nar).await {
                warn!(nar_hash = %self.nar_hash, "a NAR was not cached: {}", chain(&fault));
                self.state.send_replace(State::Failed(fault));
            }
        });
        follower
    }

    async fn write(&self, nar: Nar) -> Result<(), Fault> {
        let inner = &self.cache.inner;
        let mut packer = Packer::new(nar, self.nar_hash, inner.level);
        let mut partial = Partial::create(inner.clone(), self.nar_hash).await.map_err(local)?;
        while let Some(frame) = packer.next().await.map_err(|error| Fault::Nar(Arc::new(error)))? {
            if partial.written + frame.len() as u64 > inner.capacity / 2 {
                // Others went for it in vain; once is enough.
                inner.too_large().insert(self.nar_hash);
                return Err(local(io::Error::other("it would take more than half of the cache")));
            }
            partial = partial.append(frame).await.map_err(local)?;
            self.state.send_replace(State::Writing {
                file: partial.file.clone(),
                written: partial.written,
            });
        }
        let (file, size) = (partial.file.clone(), partial.written);
        partial.keep(self.nar_hash).await.map_err(local)?;
        self.state.send_replace(State::Whole { file, size });
        Ok(())
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.cache.inner.filling().remove(&self.nar_hash);
        self.state.send_if_modified(|state| match state {
            State::Waiting | State::Writing { .. } => {
                *state = State::Failed(local(io::Error::other("nobody fills it any more")));
                true
            }
            State::Whole { .. } | State::Failed(_) => false,
        });
    }
}

impl Follower {
    /// The next bytes, as soon as there are any; none after the last ones, which come only when all of it was checked.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Fault> {
        loop {
            let state = self.state.borrow_and_update().clone();
            match state {
                State::Writing { file, written: end } | State::Whole { file, size: end } if self.at < end => {
                    let bytes = chunks::read(&file, &self.pool, self.at, end).await.map_err(local)?;
                    self.at += bytes.len() as u64;
                    return Ok(Some(bytes));
                }
                State::Whole { .. } => return Ok(None),
                State::Failed(fault) => return Err(fault),
                State::Waiting | State::Writing { .. } => self.changed().await?,
            }
        }
    }

    /// Bytes given out so far.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Waits until the file is whole and in the cache.
    pub async fn whole(&mut self) -> Result<(), Fault> {
        loop {
            let state = self.state.borrow_and_update().clone();
            match state {
                State::Whole { .. } => return Ok(()),
                State::Failed(fault) => return Err(fault),
                State::Waiting | State::Writing { .. } => self.changed().await?,
            }
        }
    }

    async fn changed(&mut self) -> Result<(), Fault> {
        let changed = self.state.changed().await;
        changed.map_err(|_| local(io::Error::other("nobody fills it any more")))
    }
}

/// A file that is being written; removed with this unless it is kept.
struct Partial {
    inner: Arc<Inner>,
    path: PathBuf,
    file: Arc<File>,
    written: u64,
    hasher: Sha256,
    is_kept: bool,
}

impl Partial {
    async fn create(inner: Arc<Inner>, nar_hash: NarHash) -> io::Result<Self> {
        blocking(move || {
            let nth = inner.partials.fetch_add(1, Ordering::Relaxed);
            let path = inner.dir.join(shelf::partial_name(&nar_hash, nth));
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create_new(true).open(&path)?;
            Ok(Self {
                inner,
                path,
                file: Arc::new(file),
                written: 0,
                hasher: Sha256::new(),
                is_kept: false,
            })
        })
        .await
    }

    async fn append(mut self, frame: Bytes) -> io::Result<Self> {
        blocking(move || {
            let bytes = frame.len() as u64;
            let (going, room) = self.inner.shelf().make_room(bytes, self.inner.capacity);
            for item in &going {
                remove(&self.inner.path(item));
            }
            if room.is_none() {
                return Err(io::Error::other("the cache is full of what is being written"));
            }
            let at = self.written;
            self.written += bytes;
            self.file.write_all_at(&frame, at)?;
            self.hasher.update(&frame);
            Ok(self)
        })
        .await
    }

    async fn keep(mut self, nar_hash: NarHash) -> io::Result<()> {
        blocking(move || {
            let file_hash = Hash::from_sha256(std::mem::take(&mut self.hasher).finalize().into());
            let packed = Packed {
                file_hash,
                file_size: self.written,
            };
            let item = Item::new(nar_hash, packed, Some(self.file.metadata()?.modified()?));
            std::fs::rename(&self.path, self.inner.path(&item))?;
            self.is_kept = true;
            self.inner.shelf().add(item);
            Ok(())
        })
        .await
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.is_kept {
            self.inner.shelf().give_back(self.written);
            remove(&self.path);
        }
    }
}

fn local(error: io::Error) -> Fault {
    Fault::File(Arc::new(error))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        text.push_str(": ");
        text.push_str(&error.to_string());
        next = error.source();
    }
    text
}
