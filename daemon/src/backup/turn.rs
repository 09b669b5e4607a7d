//! Backups and collections take turns, also where they are different processes.
//!
//! The lock is one on the folder of the spool, which is there wherever there is something to lock, and belongs to the
//! daemon's user whoever takes it. A collection shares it with others, so that those wait for each other as always.

use std::fs::File;
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use super::SPOOL;

/// Keeps backups from beginning while it is held; none while there is one.
pub(crate) fn for_collection(state_dir: &Path) -> io::Result<Option<File>> {
    let folder = File::open(state_dir.join(SPOOL))?;
    match flock(&folder, FlockOperation::NonBlockingLockShared) {
        Ok(()) => Ok(Some(folder)),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Keeps collections from beginning while it is held. Waits for one that is under way, and for another backup, and says
/// so first.
pub(super) fn for_backup(state_dir: &Path, on_wait: impl FnOnce()) -> io::Result<File> {
    let folder = File::open(state_dir.join(SPOOL))?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => return Ok(folder),
        Err(Errno::WOULDBLOCK) => on_wait(),
        Err(error) => return Err(error.into()),
    }
    loop {
        match flock(&folder, FlockOperation::LockExclusive) {
            Ok(()) => return Ok(folder),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collections_go_together_and_a_backup_alone() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(SPOOL)).unwrap();
        let first = for_collection(dir.path()).unwrap();
        let second = for_collection(dir.path()).unwrap();
        assert!(first.is_some() && second.is_some());
        let (told, is_waiting) = std::sync::mpsc::sync_channel(1);
        std::thread::scope(|scope| {
            let backup = scope.spawn(|| for_backup(dir.path(), || told.send(()).unwrap()).unwrap());
            is_waiting.recv().unwrap();
            drop((first, second));
            let backup = backup.join().unwrap();
            assert!(for_collection(dir.path()).unwrap().is_none());
            drop(backup);
            assert!(for_collection(dir.path()).unwrap().is_some());
        });
    }
}
