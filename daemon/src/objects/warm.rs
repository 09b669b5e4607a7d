//! Connections for single clients that need not be made anew for each: a store pays for one with a process.

use nixci_protocol::op::SetOptions;
use nixci_store::remote::{Link, Unreachable};

use super::Objects;

/// A connection to the first store for one client.
#[derive(Debug)]
pub(crate) struct Warm {
    pub(crate) link: Box<Link>,
    settings: Settings,
}

/// What was set on a connection. Settings by name last for as long as it does; the others are all replaced by the next
/// client that sends its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Settings {
    Configured,
    OfClient,
    ByName,
}

impl Warm {
    /// Notes what was set.
    pub(crate) fn note(&mut self, options: &SetOptions) {
        self.settings = match self.settings {
            Settings::Configured | Settings::OfClient if options.overrides.is_empty() => Settings::OfClient,
            Settings::Configured | Settings::OfClient | Settings::ByName => Settings::ByName,
        };
    }
}

impl Objects {
    /// A connection to the first store; none where no store is configured. One that a client had before is given only
    /// to a client that will say how its builds are run.
    pub(crate) async fn take(&self, will_set: bool) -> Result<Option<Warm>, Unreachable> {
        let Some(store) = self.stores.first() else {
            return Ok(None);
        };
        let used = if will_set { store.set.take_idle().await } else { None };
        let (link, settings) = match used {
            Some(link) => (link, Settings::OfClient),
            None => (store.remote.take().await?, Settings::Configured),
        };
        Ok(Some(Warm {
            link: Box::new(link),
            settings,
        }))
    }

    /// Keeps a connection for another client. It must not have taken roots: they last for as long as it does.
    pub(crate) fn give_back(&self, warm: Warm) {
        let Some(store) = self.stores.first() else { return };
        match warm.settings {
            Settings::Configured => store.remote.give_back(*warm.link),
            Settings::OfClient => store.set.give_back(*warm.link),
            Settings::ByName => {}
        }
    }
}
