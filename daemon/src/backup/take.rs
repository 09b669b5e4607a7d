//! Taking a backup.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nixci_store::index::snapshot::{self, Snapshot};
use nixci_store::{logs, spool};

use super::copy::{Copier, Sum, create, folder, has_room, size, sum, sync_folder};
use super::error::BackupError;
use super::manifest::{Manifest, Schemas, Sums};
use super::place::Place;
use super::restore::is_unfinished;
use super::{INDEX, LOGS, SPOOL, turn};
use crate::config::Config;
use crate::core::now;

/// A backup that was taken.
#[derive(Debug, Clone)]
pub struct Backup {
    /// Where it is.
    pub path: PathBuf,
    /// What is in it.
    pub manifest: Manifest,
    /// How long it took, without waiting for others.
    pub took: Duration,
}

/// Writes a backup of the state of a daemon, which may run, into a new folder. Blocks.
///
/// `on_wait` is called when a collection, or another backup, has to end first. Must be called as the user the daemon runs
/// as, or root.
pub fn backup(config: &Config, to: &Path, on_wait: impl FnOnce()) -> Result<Backup, BackupError> {
    let state = &config.state_dir;
    let no_state = |cause| BackupError::NoState {
        path: state.clone(),
        cause,
    };
    let about = std::fs::metadata(state.join(INDEX)).map_err(no_state)?;
    let own = rustix::process::geteuid();
    // What SQLite makes beside a database is its owner's where root makes it.
    if !own.is_root() && own.as_raw() != about.uid() {
        return Err(BackupError::NotOwner {
            path: state.clone(),
            owner: about.uid(),
            own: own.as_raw(),
        });
    }
    if is_unfinished(state) {
        return Err(BackupError::HalfRestored { path: state.clone() });
    }
    let place = Place::begin(to, state)?;
    let turn = turn::for_backup(state, on_wait).map_err(no_state)?;
    let since = Instant::now();
    // In this order: the spool has what the index refers to.
    let index = Snapshot::of_index(&state.join(INDEX))?;
    let at = now();
    let spool = spool::snapshot::take(&state.join(SPOOL))?;
    let attempts = snapshot::logged(index.connection())?;
    let files = spool::snapshot::files(spool.connection())?;
    let schemas = Schemas {
        index: index.schema(),
        spool: spool.schema(),
    };
    let mut manifest = Manifest::new(config.store_dir.to_string(), schemas, at);
    manifest.count(snapshot::contents(index.connection())?);
    manifest.objects = spool::snapshot::objects(spool.connection())?;

    let large = spool::snapshot::large_files(&state.join(SPOOL));
    let of_files = files.iter().map(|name| size(&large.join(name)));
    let of_logs = attempts
        .iter()
        .map(|id| size(&state.join(LOGS).join(logs::file_of(*id))));
    let needed = index.bytes()? + spool.bytes()? + of_files.sum::<u64>() + of_logs.sum::<u64>();
    has_room(place.folder(), needed)?;

    let mut writing = Writing {
        state,
        to: place.folder(),
        copier: Copier::new(place.folder())?,
        sums: Sums::begin(place.folder())?,
    };
    for name in [SPOOL, LOGS] {
        folder(&writing.to.join(name))?;
    }
    writing.database(index, Path::new(INDEX))?;
    writing.database(spool, &spool::snapshot::database(Path::new(SPOOL)))?;
    writing.large(&files)?;
    manifest.large_objects = files.len() as u64;
    manifest.logs = writing.logs(&attempts)?;
    drop(turn);

    let (index, spool) = (
        writing.to.join(INDEX),
        spool::snapshot::database(&writing.to.join(SPOOL)),
    );
    snapshot::check(&index, manifest.schemas.index)?;
    snapshot::check(&spool, manifest.schemas.spool)?;
    manifest.missing_derivations = snapshot::jobs_without_object(&index, &spool)?;
    writing.sums.end(&mut manifest)?;
    writing.copier.sync()?;
    manifest.write(place.folder())?;
    sync_folder(place.folder())?;
    Ok(Backup {
        path: place.finish()?,
        manifest,
        took: since.elapsed(),
    })
}

struct Writing<'a> {
    state: &'a Path,
    to: &'a Path,
    copier: Copier,
    sums: Sums,
}

impl Writing<'_> {
    fn database(&mut self, snapshot: Snapshot, path: &Path) -> Result<(), BackupError> {
        let to = self.to.join(path);
        let file = create(&to)?;
        snapshot.copy(&to, &file)?;
        // The log beside the database may be cut back from here on.
        drop(snapshot);
        self.sums.add(path, &sum(&to)?)
    }

    /// Copies large objects, all of which are there for as long as nothing is collected.
    fn large(&mut self, names: &[String]) -> Result<(), BackupError> {
        let folder_of_all = spool::snapshot::large_files(Path::new(SPOOL));
        folder(&self.to.join(&folder_of_all))?;
        for name in names {
            let path = folder_of_all.join(name);
            if self.file(&path)?.is_none() {
                let gone = std::io::Error::from(std::io::ErrorKind::NotFound);
                return Err(BackupError::file("read", &self.state.join(&path))(gone));
            }
        }
        Ok(())
    }

    /// Copies logs, and returns how many there were: an attempt that printed nothing yet has none, and one whose log
    /// could not be written neither.
    fn logs(&mut self, attempts: &[nixci_protocol::nixci::control::AttemptId]) -> Result<u64, BackupError> {
        let mut found = 0;
        let mut made = None;
        for attempt in attempts {
            let path = Path::new(LOGS).join(logs::file_of(*attempt));
            let parent = path.parent().map(Path::to_owned);
            if parent != made {
                if let Some(parent) = &parent {
                    folder(&self.to.join(parent))?;
                }
                made = parent;
            }
            found += u64::from(self.file(&path)?.is_some());
        }
        Ok(found)
    }

    fn file(&mut self, path: &Path) -> Result<Option<Sum>, BackupError> {
        let sum = self.copier.copy(&self.state.join(path), &self.to.join(path))?;
        if let Some(sum) = &sum {
            self.sums.add(path, sum)?;
        }
        Ok(sum)
    }
}
