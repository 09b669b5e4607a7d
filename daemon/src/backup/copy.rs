//! Copying files so that they are on disk, and known by their hash.
//!
//! What others write to the same disk and wait for must not wait for all of a copy, so a large file is written to disk a
//! part at a time. To wait for every small file would take most of the time there are many of; so these are waited for
//! many at a time, together with whatever else the file system has to write.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use data_encoding::HEXLOWER;
use rustix::fs::statvfs;
use sha2::{Digest as _, Sha256};

use super::error::BackupError;

/// Bytes that are written before they are waited for.
const BYTES_AT_ONCE: u64 = 16 << 20;
/// Files that are written before they are waited for.
const FILES_AT_ONCE: u64 = 8_192;
/// Bytes in memory.
const BUFFER: usize = 256 * 1024;
/// The share of free room that is left to others: one of so many.
const MARGIN: u64 = 20;

/// Size and hash of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sum {
    pub(super) bytes: u64,
    /// SHA-256 in hexadecimal.
    pub(super) sha256: String,
}

/// Copies files to one file system.
pub(super) struct Copier {
    /// A folder there.
    folder: File,
    bytes: u64,
    files: u64,
}

impl Copier {
    pub(super) fn new(folder: &Path) -> Result<Self, BackupError> {
        Ok(Self {
            folder: File::open(folder).map_err(BackupError::file("open", folder))?,
            bytes: 0,
            files: 0,
        })
    }

    /// Copies a file, which is there whole from the next [`sync`](Self::sync) on; of one that grows, what is there when it
    /// begins. None where there is no such file.
    pub(super) fn copy(&mut self, from: &Path, to: &Path) -> Result<Option<Sum>, BackupError> {
        let reading = || BackupError::file("read", from);
        let is_file = match fs::symlink_metadata(from) {
            Ok(about) => about.is_file(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(reading()(error)),
        };
        if !is_file {
            return Err(reading()(io::Error::other("it is not a file")));
        }
        let source = File::open(from).map_err(reading())?;
        let length = source.metadata().map_err(reading())?.len();
        let mut target = create(to)?;
        let mut hash = Sha256::new();
        let mut buffer = vec![0; BUFFER.min(length as usize).max(1)];
        let (mut source, mut bytes, mut unsynced) = (source.take(length), 0, 0);
        loop {
            let read = source.read(&mut buffer).map_err(reading())?;
            if read == 0 {
                break;
            }
            hash.update(&buffer[..read]);
            target
                .write_all(&buffer[..read])
                .map_err(BackupError::file("write", to))?;
            bytes += read as u64;
            unsynced += read as u64;
            if unsynced >= BYTES_AT_ONCE {
                target.sync_data().map_err(BackupError::file("write", to))?;
                unsynced = 0;
            }
        }
        self.bytes += unsynced;
        self.files += 1;
        if self.bytes >= BYTES_AT_ONCE || self.files >= FILES_AT_ONCE {
            self.sync()?;
        }
        Ok(Some(Sum {
            bytes,
            sha256: HEXLOWER.encode(&hash.finalize()),
        }))
    }

    /// Returns once everything is on disk.
    pub(super) fn sync(&mut self) -> Result<(), BackupError> {
        sync(&self.folder).map_err(|cause| BackupError::File {
            doing: "write",
            path: "the files to disk".into(),
            cause,
        })?;
        (self.bytes, self.files) = (0, 0);
        Ok(())
    }
}

/// Writes to disk what the file system of a folder holds.
#[cfg(target_os = "linux")]
fn sync(folder: &File) -> io::Result<()> {
    Ok(rustix::fs::syncfs(folder)?)
}

/// Writes to disk what the file systems hold. Daemons that last run on Linux; elsewhere this is linked, not used.
#[cfg(not(target_os = "linux"))]
#[expect(clippy::unnecessary_wraps, reason = "that of Linux can fail")]
fn sync(_folder: &File) -> io::Result<()> {
    rustix::fs::sync();
    Ok(())
}

/// The hash of a file.
pub(super) fn sum(path: &Path) -> Result<Sum, BackupError> {
    let reading = || BackupError::file("read", path);
    let mut file = File::open(path).map_err(reading())?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; BUFFER];
    let mut bytes = 0;
    loop {
        let read = file.read(&mut buffer).map_err(reading())?;
        if read == 0 {
            break;
        }
        hash.update(&buffer[..read]);
        bytes += read as u64;
    }
    Ok(Sum {
        bytes,
        sha256: HEXLOWER.encode(&hash.finalize()),
    })
}

/// A new file that only its owner may read.
pub(super) fn create(path: &Path) -> Result<File, BackupError> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(BackupError::file("write", path))
}

/// A folder that only its owner may look into, where there is none yet.
pub(super) fn folder(path: &Path) -> Result<(), BackupError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(BackupError::file("make the folder", path)),
    }
}

/// Writes the names in a folder to disk.
pub(super) fn sync_folder(path: &Path) -> Result<(), BackupError> {
    let synced = File::open(path).and_then(|folder| folder.sync_all());
    synced.map_err(BackupError::file("write to disk", path))
}

/// Fails early where something of this size has no room. A file system that does not say is tried.
pub(super) fn has_room(folder: &Path, needed: u64) -> Result<(), BackupError> {
    let about = statvfs(folder).map_err(|error| BackupError::file("look at", folder)(error.into()))?;
    let free = about.f_bavail.saturating_mul(about.f_frsize);
    let needed = needed.saturating_add(needed / MARGIN);
    if about.f_blocks > 0 && free < needed {
        return Err(BackupError::NoRoom {
            path: folder.to_owned(),
            free,
            needed,
        });
    }
    Ok(())
}

/// What a file takes; nothing where there is none.
pub(super) fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}
