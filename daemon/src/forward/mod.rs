//! Forwarding: what the roots of an evaluation or a request need goes to the store that shall build them.
//!
//! Each wisher has one *holder* per store: a task with one connection, over which it negotiates and
//! uploads the closures of roots, asks once what must be built, and keeps temporary roots for the
//! derivations and for outputs as they are finished. When it wants nothing any more the connection
//! closes and the store may collect what nobody else holds.

mod closure;
mod holder;
mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use nixci_protocol::types::StorePath;
use nixci_store::index::DrvId;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tracing::debug;

pub(crate) use closure::{ForwardError, forward};
pub(crate) use holder::Wish;

use crate::core::Core;
use crate::scheduler::{StoreId, Wisher};

/// Wishes that may wait for a holder while it forwards; further finished builds wait for their turn.
const WISHES: usize = 256;

/// The holders of all who want builds. Its lock is held for look-ups only.
#[derive(Debug, Default)]
pub(crate) struct Holders {
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    inboxes: HashMap<(Wisher, StoreId), mpsc::Sender<Wish>>,
    /// Who wants the outputs of a build that is planned.
    wanted: HashMap<(StoreId, DrvId), Vec<Wisher>>,
}

impl Holders {
    fn with<T>(&self, act: impl FnOnce(&mut Known) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Lets a wisher go: its holders finish what they are at and close.
    pub(crate) fn release(&self, wisher: impl Into<Wisher>) {
        let wisher = wisher.into();
        self.with(|known| {
            known.inboxes.retain(|(of, _), _| *of != wisher);
            known.wanted.retain(|_, wanted| {
                wanted.retain(|of| *of != wisher);
                !wanted.is_empty()
            });
        });
    }

    fn want(&self, wisher: Wisher, store: StoreId, builds: impl Iterator<Item = DrvId>) {
        self.with(|known| {
            for drv in builds {
                let wanted = known.wanted.entry((store, drv)).or_default();
                if !wanted.contains(&wisher) {
                    wanted.push(wisher);
                }
            }
        });
    }

    fn inbox(&self, core: &Arc<Core>, wisher: Wisher, store: StoreId) -> mpsc::Sender<Wish> {
        self.with(|known| {
            known
                .inboxes
                .entry((wisher, store))
                .or_insert_with(|| {
                    let (sender, inbox) = mpsc::channel(WISHES);
                    core.stop.working.spawn(holder::run(core.clone(), wisher, store, inbox));
                    sender
                })
                .clone()
        })
    }
}

/// Forwards the closures of roots and tells the scheduler what has to be built.
pub(crate) async fn plan(core: &Arc<Core>, wisher: Wisher, store: StoreId, roots: Vec<DrvId>) {
    let inbox = core.holders.inbox(core, wisher, store);
    if release_if_gone(core, wisher) {
        return;
    }
    if inbox.send(Wish::Plan { roots }).await.is_err() {
        debug!(
            ?wisher,
            "a plan came too late: nobody wants it any more or the daemon is stopping"
        );
    }
}

/// Lets go of what was taken for a client that went away meanwhile.
fn release_if_gone(core: &Core, wisher: Wisher) -> bool {
    let Wisher::Request(request) = wisher else { return false };
    let is_gone = !core.requests.is_open(request);
    if is_gone {
        core.holders.release(request);
    }
    is_gone
}

/// Keeps the outputs of a finished build for as long as anybody who wants it is there, and
/// records what the store says of them. What a busy holder has no room for at once is returned, to be
/// sent when nothing else waits.
pub(crate) fn hold(core: &Core, store: StoreId, drv: DrvId, outputs: &[StorePath]) -> Vec<(mpsc::Sender<Wish>, Wish)> {
    if outputs.is_empty() {
        return Vec::new();
    }
    let inboxes: Vec<_> = core.holders.with(|known| {
        let wanted = known.wanted.remove(&(store, drv)).unwrap_or_default();
        wanted
            .iter()
            .filter_map(|wisher| known.inboxes.get(&(*wisher, store)).cloned())
            .collect()
    });
    let mut held_up = Vec::new();
    for (nth, inbox) in inboxes.into_iter().enumerate() {
        let wish = Wish::Hold {
            outputs: outputs.to_vec(),
            record: nth == 0,
        };
        if let Err(TrySendError::Full(wish)) = inbox.try_send(wish) {
            held_up.push((inbox, wish));
        }
    }
    held_up
}
