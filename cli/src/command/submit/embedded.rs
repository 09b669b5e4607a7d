//! The daemon inside this process, for one submission.

use nixci_daemon::{Config, Running, StartError};
use nixci_protocol::types::StoreDir;

use crate::connect::Address;
use crate::exit::{Problem, chain};

/// A daemon of this process.
pub(super) struct Embedded {
    running: Running,
}

impl Embedded {
    /// Starts it with what holds for the current user without a configuration; it builds on `store`, or
    /// on the store that Nix finds by itself, whose paths are in `store_dir`.
    pub(super) async fn start(store: Option<&str>, store_dir: &StoreDir) -> Result<Self, Problem> {
        let mut config = Config::per_user().map_err(|error| Problem::failed(chain(&error)))?;
        if let (Some(uri), [only]) = (store, &mut config.stores[..]) {
            uri.clone_into(&mut only.uri);
        }
        store_dir.clone_into(&mut config.store_dir);
        let running = nixci_daemon::start(config).await.map_err(|error| match &error {
            StartError::StateInUse { .. } | StartError::SocketInUse { .. } => Problem::failed(format!(
                "{}; or submit to that daemon, without --embedded",
                chain(&error)
            )),
            StartError::Config(_)
            | StartError::StateDir { .. }
            | StartError::HalfRestored { .. }
            | StartError::Inherit(_)
            | StartError::NotASocket { .. }
            | StartError::Several(_)
            | StartError::Bind { .. }
            | StartError::Open { .. }
            | StartError::Store { .. }
            | StartError::Token(_)
            | StartError::Forges(_)
            | StartError::Tls(_) => Problem::failed(chain(&error)),
        })?;
        Ok(Self { running })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> Address {
        Address::Unix(self.running.socket.clone())
    }

    /// Stops it; builds that still run are cut off and begun again by the next daemon on this state.
    pub(super) async fn stop(self) {
        self.running.stop().await;
    }
}
