//! Broken and hostile peers: each harms its own connection at most.

mod behind;
mod closures;
mod cut;
mod greetings;
mod http;
mod many;
mod mistakes;
mod nars;
mod raw;

use nixci_protocol::client::Connection;
use nixci_protocol::nixci::control::Request;
use nixci_store::testing::{NixVersion, Service, TestDaemon};

use crate::common::{ask, connect};

/// The most memory a daemon of a test may ever have had: a debug build, its store and what one peer may send.
const MOST_MIB: u64 = 400;

/// A daemon in a process of its own before a real store, and a client that was there before.
pub(super) struct Scene {
    pub(super) service: Service,
    pub(super) store: TestDaemon,
    bystander: Connection,
}

impl Scene {
    pub(super) async fn new() -> Self {
        Self::with("").await
    }

    /// With more lines in the configuration.
    pub(super) async fn with(sections: &str) -> Self {
        let store = TestDaemon::start(NixVersion::NEWEST);
        let sections = format!(
            "[[store]]\nname = \"default\"\nuri = {:?}\nslots = 2\n{sections}",
            store.uri()
        );
        let service = Service::with_config(std::path::Path::new(env!("CARGO_BIN_EXE_nixci-daemon")), &sections);
        let bystander = connect(&service.socket()).await;
        Self {
            service,
            store,
            bystander,
        }
    }

    pub(super) fn socket(&self) -> std::path::PathBuf {
        self.service.socket()
    }

    /// Who was there before notices nothing, who comes now is served, nothing panicked, and memory was not wasted.
    pub(super) async fn others_go_on(mut self) {
        for connection in [&mut self.bystander, &mut connect(&self.service.socket()).await] {
            let info: serde_json::Value = ask(connection, &Request::Info).await;
            assert_eq!(info["storeDir"], "/nix/store");
        }
        let log = self.service.log();
        assert!(!log.contains("panic"), "{log}");
        let peak = self.service.peak_mib();
        assert!(peak > 0 && peak <= MOST_MIB, "the daemon had {peak} MiB");
    }
}
