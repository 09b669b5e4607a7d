//! One daemon per state folder.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::StartError;

/// Held for as long as the daemon uses a state folder; the kernel releases it even after `kill -9`.
#[derive(Debug)]
pub(crate) struct StateLock(#[expect(dead_code, reason = "the lock lives as long as the open file")] File);

impl StateLock {
    /// Makes the folder when it is missing and takes its lock, without waiting.
    pub(crate) fn take(state_dir: &Path) -> Result<Self, StartError> {
        let fail = |source: io::Error| StartError::StateDir {
            path: state_dir.to_owned(),
            source,
        };
        std::fs::create_dir_all(state_dir).map_err(fail)?;
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(state_dir.join("lock"))
            .map_err(fail)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StartError::StateInUse {
                path: state_dir.to_owned(),
            }),
            Err(error) => Err(fail(error.into())),
        }
    }
}
