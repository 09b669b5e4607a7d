//! One wisher's connection to one store.

use std::sync::Arc;

use nixci_protocol::client::Connection;
use nixci_protocol::op;
use nixci_protocol::types::{PathInfo, StorePath};
use nixci_store::index::{DrvId, paths};
use nixci_store::remote::Link;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use super::closure::{ForwardError, forward};
use super::plan;
use crate::core::{Core, now};
use crate::error::told;
use crate::scheduler::{StoreId, Wisher};

/// Finished builds whose outputs are held and recorded in one go.
const BATCH: usize = 256;

/// What a holder is asked for.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Forward these roots and ask what must be built.
    Plan { roots: Vec<DrvId> },
    /// Keep these paths; record what the store says of them.
    Hold { outputs: Vec<StorePath>, record: bool },
}

/// The connection, and what it must hold again if it has to be made anew.
pub(super) struct Holder {
    pub(super) core: Arc<Core>,
    pub(super) wisher: Wisher,
    pub(super) store: StoreId,
    connection: Option<Link>,
    held: Vec<StorePath>,
}

/// Serves wishes until the wisher lets go or the daemon stops.
pub(super) async fn run(core: Arc<Core>, wisher: Wisher, store: StoreId, mut inbox: mpsc::Receiver<Wish>) {
    let stop = core.stop.builds.clone();
    let mut holder = Holder {
        core,
        wisher,
        store,
        connection: None,
        held: Vec::new(),
    };
    let serving = async {
        let mut next = inbox.recv().await;
        while let Some(wish) = next.take() {
            match wish {
                Wish::Plan { roots } => plan::run(&mut holder, roots).await,
                Wish::Hold { outputs, record } => {
                    let mut all = outputs;
                    let mut to_record = if record { all.len() } else { 0 };
                    let mut recorded: Vec<StorePath> = all[..to_record].to_vec();
                    for _ in 1..BATCH {
                        match inbox.try_recv() {
                            Ok(Wish::Hold { outputs, record }) => {
                                to_record = if record { outputs.len() } else { 0 };
                                recorded.extend_from_slice(&outputs[..to_record]);
                                all.extend(outputs);
                            }
                            Ok(plan @ Wish::Plan { .. }) => {
                                next = Some(plan);
                                break;
                            }
                            Err(_) => break,
                        }
                    }
                    holder.hold_and_record(all, recorded).await;
                }
            }
            if next.is_none() {
                next = inbox.recv().await;
            }
        }
    };
    let _ = stop.run_until_cancelled(serving).await;
}

impl Holder {
    /// The connection; a new one takes over what the lost one held.
    pub(super) async fn connection(&mut self) -> Result<&mut Connection, String> {
        if !self.connection.as_ref().is_some_and(|link| link.is_reusable()) {
            self.connection = None;
            let Some(store) = self.core.store(self.store) else {
                return Err("the store is not configured any more".to_owned());
            };
            let mut fresh = store.remote.connect().await.map_err(|error| told(&error))?;
            let roots: Vec<op::AddTempRoot> = self.held.iter().cloned().map(|path| op::AddTempRoot { path }).collect();
            fresh.call_all(&roots, &mut ()).await.map_err(|error| told(&error))?;
            self.connection = Some(fresh);
        }
        self.connection
            .as_deref_mut()
            .ok_or_else(|| "the connection is gone".to_owned())
    }

    /// Gives up the connection after it failed.
    pub(super) fn disconnect(&mut self) {
        self.connection = None;
    }

    /// Sends what is needed of the closures of these paths, and keeps them.
    pub(super) async fn forward(&mut self, paths: &[StorePath]) -> Result<(), ForwardError> {
        let core = self.core.clone();
        let Some(store) = core.store(self.store) else {
            return Err(ForwardError::Refused("its store is not configured any more".to_owned()));
        };
        let connection = self.connection().await.map_err(ForwardError::Store)?;
        forward(&core, store, connection, paths).await?;
        self.held.extend_from_slice(paths);
        Ok(())
    }

    /// Takes temporary roots. They are taken again if the connection has to be made anew.
    pub(super) async fn hold(&mut self, paths: Vec<StorePath>) -> Result<(), String> {
        let roots: Vec<op::AddTempRoot> = paths.iter().cloned().map(|path| op::AddTempRoot { path }).collect();
        let connection = self.connection().await?;
        let result = connection.call_all(&roots, &mut ()).await;
        self.held.extend(paths);
        match result {
            Ok(_) => Ok(()),
            Err(error) => {
                self.disconnect();
                Err(told(&error))
            }
        }
    }

    /// Nothing waits for this, and what fails here costs a rebuild at worst, so that it is only told.
    async fn hold_and_record(&mut self, all: Vec<StorePath>, to_record: Vec<StorePath>) {
        let store = self
            .core
            .store(self.store)
            .map_or("", |store| store.config.name.as_str())
            .to_owned();
        if let Err(error) = self.hold(all).await {
            warn!(
                store,
                wisher = ?self.wisher,
                "failed to protect outputs on store `{store}`: {error}"
            );
            return;
        }
        if to_record.is_empty() {
            return;
        }
        let questions: Vec<op::QueryPathInfo> = to_record
            .iter()
            .cloned()
            .map(|path| op::QueryPathInfo { path })
            .collect();
        let answers = match self.connection().await {
            Ok(connection) => connection.call_all(&questions, &mut ()).await,
            Err(_) => return,
        };
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                debug!(store, "failed to ask store `{store}` about outputs: {}", told(&error));
                self.disconnect();
                return;
            }
        };
        let infos: Vec<PathInfo> = to_record
            .into_iter()
            .zip(answers)
            .filter_map(|(path, info)| info.map(|info| PathInfo { path, info }))
            .collect();
        let at = now();
        let recorded = self
            .core
            .index
            .write(move |tx| paths::record(tx, &store, &infos, at))
            .await;
        if let Err(error) = recorded {
            warn!("failed to record the outputs of builds: {}", told(&error));
        }
    }
}
