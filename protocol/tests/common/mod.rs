//! Where test data is.

use std::path::PathBuf;

/// The folder with recorded data: `NIXCI_DATA`, or `../shared/data` beside the workspace.
pub(crate) fn data_dir() -> PathBuf {
    let dir = std::env::var_os("NIXCI_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/data")),
        PathBuf::from,
    );
    assert!(
        dir.is_dir(),
        "test data is missing: {} is no folder; set NIXCI_DATA to the one that has nix-vectors",
        dir.display()
    );
    dir
}
