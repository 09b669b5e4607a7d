//! What a backup says of itself: `manifest.json`, which vouches for `SHA256SUMS`, which vouches for the files.
//!
//! The sums are a file of their own, in the form that `sha256sum --check` reads, so that they need no room in memory
//! however many logs there are, and can be checked where there is no nixci.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read as _, Write as _};
use std::path::{Component, Path, PathBuf};

use nixci_protocol::nixci::control::Millis;
use nixci_store::index::snapshot::{self, Contents};
use nixci_store::spool;
use serde::{Deserialize, Serialize};

use super::copy::{Sum, create, sum};
use super::error::BackupError;

/// Written last, so that where it is missing the backup is not whole.
const FILE: &str = "manifest.json";
/// The hash of every other file.
const SUMS: &str = "SHA256SUMS";
/// The form of a backup.
const FORMAT: i64 = 1;
/// No manifest is larger.
const MANIFEST_BYTES: u64 = 1 << 20;
/// No line of the sums is longer: paths are short.
const LINE_BYTES: u64 = 4_096;

/// What is in a backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The form of the backup.
    pub format: i64,
    /// The version of nixci that took it.
    pub nixci: String,
    /// When it shows the state, for people.
    pub created: String,
    /// The same in milliseconds since the Unix epoch.
    pub created_ms: Millis,
    /// The store directory that all paths are in.
    pub store_dir: String,
    /// Numbers of the databases' schemas.
    pub schemas: Schemas,
    /// Evaluations.
    pub evaluations: u64,
    /// Those that have not ended.
    pub open_evaluations: u64,
    /// Attempts.
    pub attempts: u64,
    /// Those that were running.
    pub running_attempts: u64,
    /// Objects of the spool.
    pub objects: u64,
    /// Files of large ones.
    pub large_objects: u64,
    /// Logs.
    pub logs: u64,
    /// Derivations of jobs that the spool lacked already; more than none means that the state was damaged before.
    pub missing_derivations: u64,
    /// Files with a hash.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The hash of the list of these.
    pub sums_sha256: String,
}

/// Numbers of schemas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schemas {
    /// Of the index.
    pub index: i64,
    /// Of the spool.
    pub spool: i64,
}

impl Manifest {
    /// One that still lacks what is counted while files are copied.
    pub(super) fn new(store_dir: String, schemas: Schemas, at: Millis) -> Self {
        let created = jiff::Timestamp::from_millisecond(at).map_or_else(|_| at.to_string(), |at| at.to_string());
        Self {
            format: FORMAT,
            nixci: env!("CARGO_PKG_VERSION").to_owned(),
            created,
            created_ms: at,
            store_dir,
            schemas,
            evaluations: 0,
            open_evaluations: 0,
            attempts: 0,
            running_attempts: 0,
            objects: 0,
            large_objects: 0,
            logs: 0,
            missing_derivations: 0,
            files: 0,
            bytes: 0,
            sums_sha256: String::new(),
        }
    }

    pub(super) fn count(&mut self, contents: Contents) {
        self.evaluations = contents.evaluations;
        self.open_evaluations = contents.open;
        self.attempts = contents.attempts;
        self.running_attempts = contents.running;
    }

    /// Reads that of a backup. Refuses what a newer nixci has written.
    pub(super) fn read(backup: &Path) -> Result<Self, BackupError> {
        let not_one = |what: String| BackupError::NotABackup {
            path: backup.to_owned(),
            what,
        };
        let path = backup.join(FILE);
        let file = match File::open(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Err(not_one(format!("it has no {FILE}")));
            }
            opened => opened.map_err(BackupError::file("read", &path))?,
        };
        let mut text = Vec::new();
        file.take(MANIFEST_BYTES)
            .read_to_end(&mut text)
            .map_err(BackupError::file("read", &path))?;
        let newer = |by: &str, what, found, known| BackupError::Newer {
            path: backup.to_owned(),
            by: by.to_owned(),
            what,
            found,
            known,
        };
        // A newer form may say other things.
        let form: Form = serde_json::from_slice(&text).map_err(|error| not_one(format!("its {FILE}: {error}")))?;
        if form.format > FORMAT {
            return Err(newer(&form.nixci, "format", form.format, FORMAT));
        }
        let manifest: Self = serde_json::from_slice(&text).map_err(|error| not_one(format!("its {FILE}: {error}")))?;
        for (what, found, known) in [
            ("schema of the index", manifest.schemas.index, snapshot::KNOWN),
            ("schema of the spool", manifest.schemas.spool, spool::snapshot::KNOWN),
        ] {
            if found > known {
                return Err(newer(&manifest.nixci, what, found, known));
            }
        }
        Ok(manifest)
    }

    /// Writes it, which is to be the last.
    pub(super) fn write(&self, backup: &Path) -> Result<(), BackupError> {
        let path = backup.join(FILE);
        let failed = || BackupError::file("write", &path);
        let mut text = serde_json::to_string_pretty(self).map_err(|error| failed()(error.into()))?;
        text.push('\n');
        let mut file = create(&path)?;
        file.write_all(text.as_bytes()).map_err(failed())?;
        file.sync_all().map_err(failed())
    }
}

#[derive(Deserialize)]
struct Form {
    format: i64,
    nixci: String,
}

/// The list of hashes while a backup is taken.
pub(super) struct Sums {
    path: PathBuf,
    file: BufWriter<File>,
    files: u64,
    bytes: u64,
}

impl Sums {
    pub(super) fn begin(backup: &Path) -> Result<Self, BackupError> {
        let path = backup.join(SUMS);
        Ok(Self {
            file: BufWriter::new(create(&path)?),
            path,
            files: 0,
            bytes: 0,
        })
    }

    /// Adds a file by its path in the backup.
    pub(super) fn add(&mut self, path: &Path, sum: &Sum) -> Result<(), BackupError> {
        self.files += 1;
        self.bytes += sum.bytes;
        let written = writeln!(self.file, "{}  {}", sum.sha256, path.display());
        written.map_err(BackupError::file("write", &self.path))
    }

    /// Ends it, and says so in the manifest.
    pub(super) fn end(self, manifest: &mut Manifest) -> Result<(), BackupError> {
        let written = self.file.into_inner().map_err(io::IntoInnerError::into_error);
        let synced = written.and_then(|file| file.sync_all());
        synced.map_err(BackupError::file("write", &self.path))?;
        manifest.files = self.files;
        manifest.bytes = self.bytes;
        manifest.sums_sha256 = sum(&self.path)?.sha256;
        Ok(())
    }
}

/// The files of a backup with their hashes, once the list is checked against the manifest.
pub(super) fn sums(
    backup: &Path,
    manifest: &Manifest,
) -> Result<impl Iterator<Item = Result<(PathBuf, String), BackupError>>, BackupError> {
    let path = backup.join(SUMS);
    let not_one = |what: &str| BackupError::NotABackup {
        path: backup.to_owned(),
        what: what.to_owned(),
    };
    if !path.is_file() {
        return Err(not_one("it has no SHA256SUMS"));
    }
    if sum(&path)?.sha256 != manifest.sums_sha256 {
        return Err(BackupError::Damaged {
            path,
            what: "its hash is not that of the manifest".to_owned(),
        });
    }
    let mut reader = BufReader::new(File::open(&path).map_err(BackupError::file("read", &path))?);
    Ok(std::iter::from_fn(move || {
        let mut line = String::new();
        match (&mut reader).take(LINE_BYTES).read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(parse(&line).ok_or_else(|| BackupError::Damaged {
                path: path.clone(),
                what: "a line is not a hash and a path".to_owned(),
            })),
            Err(error) => Some(Err(BackupError::file("read", &path)(error))),
        }
    }))
}

/// A line of the list. Paths stay within the backup.
fn parse(line: &str) -> Option<(PathBuf, String)> {
    let (hash, path) = line.strip_suffix('\n')?.split_once("  ")?;
    let path = PathBuf::from(path);
    let is_inside = path.components().all(|part| matches!(part, Component::Normal(_)));
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_inside && is_hash && path.file_name().is_some()).then(|| (path, hash.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_leave_the_backup_are_not_followed() {
        let hash = "0123456789abcdef".repeat(4);
        let read = |path: &str| parse(&format!("{hash}  {path}\n")).map(|(path, _)| path);
        assert_eq!(read("spool/spool.db"), Some("spool/spool.db".into()));
        for path in ["../index.db", "/etc/passwd", "spool/../../x", ".", "", "./index.db"] {
            assert_eq!(read(path), None, "{path}");
        }
        assert_eq!(parse(&format!("{hash}  index.db")), None);
        assert_eq!(parse("0123  index.db\n"), None);
    }
}
