//! What the configuration says, and what was made of it: changed as a whole by a [reload](crate::reload).
//!
//! [`Fixed`] holds until the daemon ends. Everything else is asked of [`Live`] when it is needed, and what belongs together
//! is taken from one [`Settings`].

use std::path::PathBuf;
use std::sync::Arc;

use nixci_protocol::types::StoreDir;
use nixci_store::index::Index;
use tokio::sync::watch;

use crate::config::{Cache, Config, Writes};
use crate::error::StartError;
use crate::forge::Forges;
use crate::oidc::Issuers;
use crate::principal::{Rules, Tokens};
use crate::webhook::Gates;

/// What a reload does not change.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) state_dir: PathBuf,
    pub(crate) store_dir: StoreDir,
    pub(crate) listen: Listening,
    pub(crate) cache: Cache,
}

/// What a reload does not change of `[listen]`.
#[derive(Debug)]
pub(crate) struct Listening {
    pub(crate) socket: PathBuf,
    pub(crate) writes: Writes,
}

impl Fixed {
    pub(crate) fn of(config: &Config) -> Self {
        Self {
            state_dir: config.state_dir.clone(),
            store_dir: config.store_dir.clone(),
            listen: Listening {
                socket: config.listen.socket.clone(),
                writes: config.listen.writes,
            },
            cache: config.cache.clone(),
        }
    }
}

/// What was read from the files that a configuration names, besides keys for signing.
#[derive(Debug, Default)]
pub(crate) struct Secrets {
    tokens: Tokens,
    pub(crate) forges: Forges,
    gates: Gates,
}

impl Secrets {
    /// Reads all of them, and tells of each that cannot be used. A forge that is as it was `before` keeps its client, and
    /// with it what the client knows. Blocks.
    pub(crate) fn read(config: &Config, before: Option<&Settings>) -> Result<Self, StartError> {
        let mut problems = Vec::new();
        let tokens = Tokens::load(&config.tokens).map_err(|error| problems.push(error.into()));
        let forges = Forges::open_again(&config.forges, before.map(|before| &before.forges))
            .map_err(|errors| problems.push(StartError::Forges(errors)));
        let gates = Gates::open(&config.forges).map_err(|errors| problems.push(StartError::Forges(errors)));
        match (tokens, forges, gates) {
            (Ok(tokens), Ok(forges), Ok(gates)) => Ok(Self { tokens, forges, gates }),
            (_, _, _) => Err(StartError::Several(problems)),
        }
    }
}

/// What holds now.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) config: Config,
    pub(crate) tokens: Tokens,
    pub(crate) forges: Forges,
    pub(crate) gates: Gates,
    pub(crate) issuers: Issuers,
    /// Who is let in at the socket, and trusted.
    pub(crate) rules: Rules,
    /// The address of the pages, without a trailing slash; none when HTTP is off.
    pub(crate) pages: Option<Arc<str>>,
}

impl Settings {
    /// Puts together what holds from now on. `address` is where HTTP is really listened on, with its scheme; issuers that
    /// were there `before` keep the keys that are known of them.
    pub(crate) fn new(
        config: Config,
        secrets: Secrets,
        address: Option<&str>,
        index: &Index,
        before: Option<&Self>,
    ) -> Result<Self, StartError> {
        let pages = address.map(|address| config.listen.url.as_deref().unwrap_or(address));
        let before = before.map(|before| &before.issuers);
        let issuers = Issuers::new(&config, pages, index.clone(), before).map_err(|source| StartError::Open {
            what: "TLS",
            source: Box::new(source),
        })?;
        Ok(Self {
            pages: pages.map(Arc::from),
            rules: Rules::new(&config.listen),
            tokens: secrets.tokens,
            forges: secrets.forges,
            gates: secrets.gates,
            issuers,
            config,
        })
    }
}

/// The settings that hold now. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Live(watch::Sender<Arc<Settings>>);

impl Live {
    pub(crate) fn new(settings: Settings) -> Self {
        Self(watch::Sender::new(Arc::new(settings)))
    }

    /// All of them, as they are now; they stay so for who holds them.
    pub(crate) fn now(&self) -> Arc<Settings> {
        self.0.borrow().clone()
    }

    /// Is told of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<Arc<Settings>> {
        self.0.subscribe()
    }

    /// Puts others in their place, at once.
    pub(crate) fn change(&self, settings: Settings) {
        self.0.send_replace(Arc::new(settings));
    }
}

/// The address of the pages, as it is at each moment.
#[derive(Debug, Clone)]
pub struct Pages(Source);

#[derive(Debug, Clone)]
enum Source {
    Fixed(Option<Arc<str>>),
    Live(Live),
}

impl Pages {
    pub(crate) fn of(live: Live) -> Self {
        Self(Source::Live(live))
    }

    /// The address, without a trailing slash; none when the pages are off.
    #[must_use]
    pub fn now(&self) -> Option<Arc<str>> {
        match &self.0 {
            Source::Fixed(pages) => pages.clone(),
            Source::Live(live) => live.now().pages.clone(),
        }
    }
}

impl From<&str> for Pages {
    fn from(address: &str) -> Self {
        Self(Source::Fixed(Some(address.into())))
    }
}
