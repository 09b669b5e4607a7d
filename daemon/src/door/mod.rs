//! What clients meet: a Nix store, and behind the same socket the control messages.
//!
//! To a stock client this is a plain daemon. What it writes is verified and goes to the spool, and where
//! the door is set to `through` at once on to the store behind it; what spool and index know is answered
//! from there; for the rest the store behind is asked, over one connection per client connection, so that
//! temporary roots live as long as the client's. Operations on the store as a whole are refused.

mod add;
mod builds;
mod control;
mod inflate;
mod options;
mod query;
mod session;
mod upstream;

use std::sync::Arc;

use nixci_protocol::nixci::{FEATURE_CLOSURE, FEATURE_CONTROL};
use nixci_protocol::server::{self, ServerHello};
use nixci_protocol::types::Trust;
use nixci_protocol::wire::Limits;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{debug, warn};

use crate::ci::Ci;
use crate::error::told;
use crate::principal::Principal;
use session::Session;

/// The version stock clients are told. They compare it with nothing we do differently.
const VERSION_TEXT: &str = concat!("2.26.0 (nixci ", env!("CARGO_PKG_VERSION"), ")");

/// Serves connections.
#[derive(Debug)]
pub(crate) struct Door {
    ci: Ci,
}

impl Door {
    pub(crate) fn new(ci: Ci) -> Arc<Self> {
        Arc::new(Self { ci })
    }

    /// Whether a local user may add what carries no proof of its content.
    pub(crate) fn trusts(&self, uid: u32) -> bool {
        self.ci.core.config.listen.trusted_users.contains(&uid)
    }

    /// Serves one connection to its end. Cancelling it closes the connection; what arrived whole stays.
    pub(crate) async fn serve<R, W>(&self, read: R, write: W, who: Principal)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let hello = ServerHello {
            version_text: VERSION_TEXT.to_owned(),
            trust: if who.is_trusted() {
                Trust::Trusted
            } else {
                Trust::NotTrusted
            },
            features: vec![FEATURE_CLOSURE.to_owned(), FEATURE_CONTROL.to_owned()],
            store_dir: self.ci.core.config.store_dir.clone(),
            limits: Limits::default(),
        };
        let name = who.name().to_owned();
        let session = Session::new(self.ci.clone(), who);
        match server::serve(read, write, hello, session).await {
            Ok(()) => debug!(principal = name, "a connection ended"),
            Err(error) => warn!(principal = name, "a connection was ended: {}", told(&error)),
        }
    }
}
