//! NARs that are too large for the database: zstd files.
//!
//! A file is written under a temporary name, synced, renamed, and its folder synced, all before the row that names it
//! is committed; what a crash leaves without a row is removed when the spool is opened.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::error::{Error, Result};

/// Favours speed: what is forwarded is compressed anew for the wire.
const LEVEL: i32 = 1;
const TEMPORARY: &str = "tmp";
const NAMED: &str = "nar.zst";

/// The folder of large NARs.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    dir: Arc<Path>,
    /// The next number that no file has.
    next: Arc<AtomicU64>,
}

/// A file without a name in the database; removed when dropped.
#[derive(Debug)]
pub(super) struct LargeFile {
    path: PathBuf,
    number: u64,
    kept: bool,
}

impl Drop for LargeFile {
    fn drop(&mut self) {
        if !self.kept {
            // If this fails, the next start removes it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl Folder {
    /// Opens the folder and removes what no row names. Blocks.
    pub(super) fn open(dir: &Path, named: &HashSet<String>) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|error| Error::file("make the folder", dir, error))?;
        let mut next = 0;
        let listing = |error| Error::file("list", dir, error);
        for entry in fs::read_dir(dir).map_err(listing)? {
            let name = entry.map_err(listing)?.file_name();
            let Some(name) = name.to_str() else { continue };
            let Some((number, kind)) = name.split_once('.') else {
                continue;
            };
            let Ok(number) = number.parse::<u64>() else { continue };
            next = next.max(number.saturating_add(1));
            if kind == TEMPORARY || (kind == NAMED && !named.contains(name)) {
                let path = dir.join(name);
                fs::remove_file(&path).map_err(|error| Error::file("remove", &path, error))?;
            }
        }
        Ok(Self {
            dir: dir.into(),
            next: Arc::new(AtomicU64::new(next)),
        })
    }

    /// Where it is.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// A new file.
    fn create(&self) -> Result<(File, LargeFile)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.dir.join(format!("{number}.{TEMPORARY}"));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|error| Error::file("create", &path, error))?;
        let large = LargeFile {
            path,
            number,
            kept: false,
        };
        Ok((file, large))
    }

    /// Begins a NAR. Blocks.
    pub(super) fn begin(&self) -> Result<Writing> {
        let (file, large) = self.create()?;
        let encoder = zstd::Encoder::new(file, LEVEL).and_then(|mut encoder| {
            encoder.include_checksum(true)?;
            Ok(encoder)
        });
        let encoder = encoder.map_err(|error| Error::file("write", &large.path, error))?;
        Ok(Writing { encoder, large })
    }

    /// A file that vanishes when it is closed, for content whose NAR cannot be made before it is known. Blocks.
    pub(super) fn scratch(&self) -> Result<File> {
        // Dropping the guard removes the name; the open file stays.
        self.create().map(|(file, _large)| file)
    }

    /// Gives files their names, durably. They vanish with the guards all the same, until these are kept. Blocks.
    pub(super) fn name(&self, files: &mut [&mut LargeFile]) -> Result<()> {
        if files.is_empty() {
            return Ok(());
        }
        for large in files {
            let named = self.dir.join(large.name());
            fs::rename(&large.path, &named).map_err(|error| Error::file("rename", &large.path, error))?;
            large.path = named;
        }
        let sync = File::open(&self.dir).and_then(|dir| dir.sync_all());
        sync.map_err(|error| Error::file("sync", &self.dir, error))
    }

    /// Bytes of a file; none where it cannot be looked at. Blocks.
    pub(super) fn size(&self, name: &str) -> u64 {
        fs::metadata(self.dir.join(name)).map_or(0, |file| file.len())
    }

    /// Removes files that no row names any more, and returns how many bytes they had. What cannot be removed is tried
    /// again when the folder is opened. Blocks.
    pub(super) fn remove(&self, names: &[String]) -> u64 {
        let removed = names.iter().map(|name| {
            let size = self.size(name);
            fs::remove_file(self.dir.join(name)).map_or(0, |()| size)
        });
        removed.sum()
    }

    /// Opens a NAR for reading. Blocks.
    pub(super) fn read(&self, name: &str) -> Result<Reading> {
        let path = self.dir.join(name);
        let decoder = File::open(&path).and_then(zstd::Decoder::new);
        let decoder = decoder.map_err(|error| Error::file("open", &path, error))?;
        Ok(Reading { decoder, path })
    }
}

impl LargeFile {
    /// Its name in the folder.
    pub(super) fn name(&self) -> String {
        format!("{}.{NAMED}", self.number)
    }

    /// A row names it now.
    pub(super) fn keep(&mut self) {
        self.kept = true;
    }
}

/// A NAR that is being written.
pub(super) struct Writing {
    encoder: zstd::Encoder<'static, File>,
    large: LargeFile,
}

impl Writing {
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.encoder.write_all(bytes);
        written.map_err(|error| Error::file("write", &self.large.path, error))
    }

    /// Makes it durable, under its temporary name.
    pub(super) fn finish(self) -> Result<LargeFile> {
        let synced = self.encoder.finish().and_then(|file| file.sync_all());
        synced.map_err(|error| Error::file("write", &self.large.path, error))?;
        Ok(self.large)
    }
}

/// A NAR that is being read.
pub(super) struct Reading {
    decoder: zstd::Decoder<'static, io::BufReader<File>>,
    path: PathBuf,
}

impl Reading {
    /// The next bytes, at most as many as there is room for; none at the end.
    pub(super) fn next(&mut self, room: usize) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(room);
        let read = self.decoder.by_ref().take(room as u64).read_to_end(&mut bytes);
        read.map_err(|error| io::Error::new(error.kind(), format!("failed to read {}: {error}", self.path.display())))?;
        Ok(bytes)
    }
}
