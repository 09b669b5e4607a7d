//! What clients meet: a Nix store, and behind the same socket the control messages.
//!
//! To a stock client this is a plain daemon. What it writes is verified and goes to the spool, and where
//! the door is set to `through` at once on to the store behind it; what spool and index know is answered
//! from there; for the rest the store behind is asked, over one connection per client connection, so that
//! temporary roots live as long as the client's. Operations on the store as a whole are refused.

mod add;
mod answer;
mod builds;
mod control;
mod derivation;
mod missing;
mod options;
mod pass;
mod query;
mod roots;
mod session;
mod signatures;
mod upkeep;
mod upstream;
mod wait;

use std::sync::Arc;

use nixci_protocol::nixci::{FEATURE_CLOSURE, FEATURE_CONTROL};
use nixci_protocol::server::{self, Greeted, ServeError, ServerHello};
use nixci_protocol::types::Trust;
use nixci_protocol::wire::FEATURE_GC_REFERRERS;
use nixci_store::spool::Lease;
use tokio::io::{AsyncRead, AsyncWrite};
use tracing::{debug, warn};

use crate::ci::Ci;
use crate::config::Writes;
use crate::error::told;
use crate::principal::{Pass, Principal};
use crate::settings::{Live, Settings};
use session::Session;

/// The version stock clients are told. They compare it with nothing we do differently.
const VERSION_TEXT: &str = concat!("2.26.0 (nixci ", env!("CARGO_PKG_VERSION"), ")");

/// A client that shook hands.
pub(crate) struct Guest {
    client: Greeted,
    /// Keeps what it was told.
    lease: Lease,
}

/// Serves connections.
#[derive(Debug)]
pub(crate) struct Door {
    ci: Ci,
}

impl Door {
    pub(crate) fn new(ci: Ci) -> Arc<Self> {
        Arc::new(Self { ci })
    }

    /// Who is let in, and what is refused above which size.
    pub(crate) fn settings(&self) -> Arc<Settings> {
        self.ci.core.settings()
    }

    /// The settings as they will be at each moment.
    pub(crate) fn live(&self) -> &Live {
        &self.ci.core.live
    }

    /// Shakes hands; none when the client went away or there was no agreement.
    pub(crate) async fn greet<R, W>(&self, read: R, write: W, who: &Principal) -> Option<Guest>
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        let spool = &self.ci.core.spool;
        let lease = spool.lease();
        let knows = |asked| roots::are_known(spool, &lease, asked);
        let greeted = server::greet(read, write, self.hello(who), knows).await;
        let client = greeted.unwrap_or_else(|error| {
            debug!(principal = who.name(), "a handshake failed: {}", told(&error));
            None
        })?;
        Some(Guest { client, lease })
    }

    /// Shakes hands only to say why the client is not served.
    pub(crate) async fn refuse<R, W>(&self, read: R, write: W, who: &Principal, why: String)
    where
        R: AsyncRead + Send + Unpin + 'static,
        W: AsyncWrite + Send + Unpin + 'static,
    {
        if let Err(error) = server::refuse(read, write, self.hello(who), why).await {
            debug!(principal = who.name(), "a refusal was not heard: {}", told(&error));
        }
    }

    /// Serves one connection to its end, or until its pass counts no more. Cancelling it closes the connection; what
    /// arrived whole stays.
    pub(crate) async fn serve(&self, guest: Guest, who: Principal, pass: Option<Pass>) {
        let Guest { client, lease } = guest;
        let name = who.name().to_owned();
        let unknown_roots = client.roots().filter(|roots| !roots.is_known(client.negotiated()));
        let session = Session::new(self.ci.clone(), who, pass, lease, unknown_roots);
        // On the heap: all operations are in this one future, whose type is as deep as a compiler looks.
        match Box::pin(client.serve(session)).await {
            Ok(()) => debug!(principal = name, "a connection ended"),
            Err(error @ ServeError::HungUp { .. }) => {
                debug!(principal = name, "a connection was ended: {}", told(&error));
            }
            Err(error) => warn!(principal = name, "a connection was ended: {}", told(&error)),
        }
    }

    /// Where what is written goes straight to a store that does not trust us, nobody is trusted further than that.
    fn store_distrusts(&self) -> bool {
        match self.ci.core.config.listen.writes {
            Writes::Through => self.ci.core.stores.first().is_some_and(|store| store.told.distrusts()),
            Writes::Spool => false,
        }
    }

    fn hello(&self, who: &Principal) -> ServerHello {
        ServerHello {
            version_text: VERSION_TEXT.to_owned(),
            trust: if who.is_trusted() && !self.store_distrusts() {
                Trust::Trusted
            } else {
                Trust::NotTrusted
            },
            features: [FEATURE_CLOSURE, FEATURE_CONTROL, FEATURE_GC_REFERRERS]
                .map(str::to_owned)
                .into(),
            store_dir: self.ci.core.config.store_dir.clone(),
            limits: self.settings().config.limits.wire.clone(),
        }
    }
}
