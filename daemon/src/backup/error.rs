//! Why there is no backup, or nothing was restored.

use std::io;
use std::path::{Path, PathBuf};

use nixci_store::index;

use crate::error::StartError;

/// Why a backup was not taken, checked or restored. Nothing that looks finished is left.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no state folder.
    #[error("there is no state of a daemon in {path}: {cause}; name its configuration with --config", path = .path.display())]
    NoState {
        /// Where it would be.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// Somebody else's daemon.
    #[error(
        "the state folder {path} belongs to user {owner}, and this is user {own}; run this as that user or root, as files of another would stop the daemon",
        path = .path.display()
    )]
    NotOwner {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
        /// Who asks.
        own: u32,
    },
    /// A restore was cut off.
    #[error("a restore into {path} was cut off; run it again first", path = .path.display())]
    HalfRestored {
        /// The state folder.
        path: PathBuf,
    },
    /// The backup would be part of what it is of.
    #[error("{path} is inside the state folder {state}; name a folder elsewhere, best on another disk", path = .path.display(), state = .state.display())]
    Inside {
        /// Where it should go.
        path: PathBuf,
        /// The state folder.
        state: PathBuf,
    },
    /// There is something already.
    #[error("{path} is there already and not an empty folder; name a new one for each backup", path = .path.display())]
    Exists {
        /// Where it should go.
        path: PathBuf,
    },
    /// A folder that cannot be replaced whole.
    #[error("{path} is a mount point, or has no name of its own; name a new folder inside it", path = .path.display())]
    NoName {
        /// Where it should go.
        path: PathBuf,
    },
    /// Somebody else writes there.
    #[error("another backup to {path} is under way; wait for it, or name another folder", path = .path.display())]
    Busy {
        /// Where both should go.
        path: PathBuf,
    },
    /// There is no room.
    #[error("{path} has room for {free} bytes, and {needed} are needed; free some, or name another place", path = .path.display())]
    NoRoom {
        /// A folder there.
        path: PathBuf,
        /// What is free.
        free: u64,
        /// What is needed.
        needed: u64,
    },
    /// There is no room any more.
    #[error("no space left for {path}: free some, or name another place; nothing half-finished is left there", path = .path.display())]
    Full {
        /// What was being written.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("failed to {doing} {path}: {cause}", path = .path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// With what.
        path: PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A database cannot be copied, or is damaged.
    #[error(transparent)]
    Database(#[from] index::Error),
    /// The folder is something else.
    #[error("{path} is not a backup, or not a whole one: {what}", path = .path.display())]
    NotABackup {
        /// The folder.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// A file of it is not as it was written.
    #[error("{path} is not as it was backed up: {what}; take another backup", path = .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// In what.
        what: String,
    },
    /// A newer nixci has written it.
    #[error("{path} was written by nixci {by}, which is newer: its {what} is {found}, and this nixci {own} knows up to {known}; restore it with that version", path = .path.display(), own = env!("CARGO_PKG_VERSION"))]
    Newer {
        /// The backup.
        path: PathBuf,
        /// The version that wrote it.
        by: String,
        /// The number of what.
        what: &'static str,
        /// That number.
        found: i64,
        /// The newest known.
        known: i64,
    },
    /// It belongs to other stores.
    #[error(
        "the backup is of a daemon with store_dir = \"{found}\", and this one has \"{own}\"; set `store_dir` as it was"
    )]
    OtherStoreDir {
        /// Its store directory.
        found: String,
        /// That of the configuration.
        own: String,
    },
    /// There is a state already.
    #[error(
        "the state folder {path} is not empty: it has `{entry}`; stop the daemon there, move what is in it away, and restore again",
        path = .path.display()
    )]
    StateNotEmpty {
        /// The state folder.
        path: PathBuf,
        /// Something in it.
        entry: String,
    },
    /// The state folder cannot be locked.
    #[error(transparent)]
    State(#[from] StartError),
}

impl BackupError {
    pub(super) fn file(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| match cause.kind() {
            io::ErrorKind::StorageFull => Self::Full { path },
            _ => Self::File { doing, path, cause },
        }
    }
}
