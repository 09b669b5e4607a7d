//! Where a backup goes: beside its place first, and there whole.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::copy::sync_folder;
use super::error::BackupError;

/// What the name of a folder ends with that is not whole yet.
const UNFINISHED: &str = ".nixci-unfinished";

/// A backup that is being written. Dropped before [`finish`](Self::finish) it leaves nothing.
#[derive(Debug)]
pub(super) struct Place {
    to: PathBuf,
    parent: PathBuf,
    unfinished: PathBuf,
    /// Locked, so that what was left by a process that was killed is told from what one still writes.
    _lock: File,
    finished: bool,
}

impl Place {
    /// Finds the place, and begins a folder beside it.
    pub(super) fn begin(to: &Path, state_dir: &Path) -> Result<Self, BackupError> {
        let Some(name) = to.file_name() else {
            return Err(BackupError::NoName { path: to.to_owned() });
        };
        let parent = match to.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            Some(_) | None => Path::new("."),
        };
        let looking = || BackupError::file("look into", parent);
        let parent = parent.canonicalize().map_err(looking())?;
        let to = parent.join(name);
        let state = state_dir.canonicalize().map_err(|cause| BackupError::NoState {
            path: state_dir.to_owned(),
            cause,
        })?;
        if to.starts_with(&state) {
            return Err(BackupError::Inside { path: to, state });
        }
        match fs::symlink_metadata(&to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(BackupError::file("look at", &to)(error)),
            Ok(about) => {
                let is_empty = about.is_dir()
                    && fs::read_dir(&to)
                        .map_err(BackupError::file("look into", &to))?
                        .next()
                        .is_none();
                if !is_empty {
                    return Err(BackupError::Exists { path: to });
                }
                if about.dev() != fs::metadata(&parent).map_err(looking())?.dev() {
                    return Err(BackupError::NoName { path: to });
                }
            }
        }
        remove_left_behind(&parent);
        let mut unfinished = std::ffi::OsString::from(".");
        unfinished.push(name);
        unfinished.push(UNFINISHED);
        let unfinished = parent.join(unfinished);
        match DirBuilder::new().mode(0o700).create(&unfinished) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Err(BackupError::Busy { path: to }),
            Err(error) => return Err(BackupError::file("make the folder", &unfinished)(error)),
        }
        let lock = match File::open(&unfinished) {
            Ok(folder) => folder,
            Err(error) => return Err(BackupError::file("open", &unfinished)(error)),
        };
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            // Some network file systems have no such locks: then nothing that was left behind is ever removed.
            Ok(()) | Err(Errno::BADF | Errno::NOTSUP | Errno::NOLCK | Errno::INVAL | Errno::NOSYS) => {}
            Err(Errno::WOULDBLOCK) => return Err(BackupError::Busy { path: to }),
            Err(error) => return Err(BackupError::file("lock", &unfinished)(error.into())),
        }
        Ok(Self {
            to,
            parent,
            unfinished,
            _lock: lock,
            finished: false,
        })
    }

    /// The folder to write into.
    pub(super) fn folder(&self) -> &Path {
        &self.unfinished
    }

    /// Gives the backup its name, and returns it. Everything in it must be on disk.
    pub(super) fn finish(mut self) -> Result<PathBuf, BackupError> {
        match fs::rename(&self.unfinished, &self.to) {
            Ok(()) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                ) =>
            {
                return Err(BackupError::Exists { path: self.to.clone() });
            }
            Err(error) => return Err(BackupError::file("rename the backup to", &self.to)(error)),
        }
        self.finished = true;
        sync_folder(&self.parent)?;
        Ok(self.to.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !self.finished {
            // If this fails, the next backup into the same folder removes it; it has no manifest.
            let _ = fs::remove_dir_all(&self.unfinished);
        }
    }
}

/// Removes what killed backups have left in a folder. What cannot be removed stays.
fn remove_left_behind(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let is_ours = name
            .to_str()
            .is_some_and(|name| name.starts_with('.') && name.ends_with(UNFINISHED));
        if is_ours
            && entry.file_type().is_ok_and(|kind| kind.is_dir())
            && let Ok(folder) = File::open(entry.path())
            && flock(&folder, FlockOperation::NonBlockingLockExclusive).is_ok()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
