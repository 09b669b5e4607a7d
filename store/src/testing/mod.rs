//! Real Nix for tests: daemons of three versions, small derivations, and the recorded graph.
//!
//! Only compiled with the feature `testing`. Everything here panics with one clear line when what it needs is not
//! there, for a test that cannot run must fail and not be skipped. All waiting for processes is bounded and lives
//! here; tests themselves never sleep.

#![expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    clippy::must_use_candidate,
    reason = "a test harness reports by panicking, and is read by few"
)]

mod daemon;
mod derivations;
pub mod fuzz;
mod gate;
mod nix;
pub mod peers;
mod process;
pub mod recorded;
pub mod secrets;
mod service;
mod small_disk;
mod sshd;

use std::path::PathBuf;

pub use daemon::{TestDaemon, TestDaemonBuilder};
pub use derivations::{TestDrv, expression};
pub use gate::Gate;
pub use nix::NixVersion;
pub use process::{poll_until, stop, terminate, until};
pub use service::Service;
pub use small_disk::small_disk;
pub use sshd::Sshd;

/// The folder that holds the Nix versions and what is made once and reused: `$NIXCI_TEST_CACHE`, or
/// `nixci-test` in the user's cache folder.
pub fn cache_dir() -> PathBuf {
    if let Some(dir) = std::env::var_os("NIXCI_TEST_CACHE") {
        return dir.into();
    }
    let caches = std::env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(std::env::var_os("HOME").expect("HOME is set")).join(".cache"),
        PathBuf::from,
    );
    caches.join("nixci-test")
}

/// The folder of recorded data: `$NIXCI_DATA`, or `../shared/data` beside the workspace.
///
/// Panics when it is not there.
pub fn data_dir() -> PathBuf {
    let dir = std::env::var_os("NIXCI_DATA").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared/data"),
        PathBuf::from,
    );
    assert!(
        dir.is_dir(),
        "the recorded data is not at {} (set NIXCI_DATA to its folder)",
        dir.display()
    );
    dir.canonicalize().expect("the folder was there a moment ago")
}
