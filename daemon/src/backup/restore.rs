//! Checking a backup, and making it the state of a daemon.
//!
//! **Whose it is.** Run as root, what is restored belongs to the owner of the state folder where there is one, else to the
//! user `nixci` where there is one; its modes let nobody else in. Run as another user, it is that user's.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, lchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::unistd::User;
use nixci_store::index::snapshot;
use nixci_store::spool;

use super::copy::{Copier, folder, has_room, sum, sync_folder};
use super::error::BackupError;
use super::manifest::{Manifest, sums};
use super::{INDEX, LOGS, SPOOL};
use crate::config::Config;
use crate::core::now;
use crate::listen::StateLock;

/// The folder in a state folder that what is restored is written into. No daemon starts while it is there.
const UNFINISHED: &str = ".restore-unfinished";
/// What a stopped daemon, or the file system, leaves in a state folder that is empty otherwise.
const HARMLESS: [&str; 2] = ["lock", "lost+found"];
/// The user a service runs as.
const SERVICE_USER: &str = "nixci";

/// A backup that was restored.
#[derive(Debug, Clone)]
pub struct Restored {
    /// What was in it.
    pub manifest: Manifest,
    /// Whose it is now, as user and group.
    pub owner: (u32, u32),
    /// How long it took.
    pub took: Duration,
}

/// Whether a restore into this state folder was cut off.
pub(crate) fn is_unfinished(state_dir: &Path) -> bool {
    fs::symlink_metadata(state_dir.join(UNFINISHED)).is_ok()
}

/// Reads all of a backup and says what is in it, or what is wrong with it. Blocks; changes nothing.
pub fn check(backup: &Path) -> Result<Manifest, BackupError> {
    let manifest = Manifest::read(backup)?;
    let mut files = 0;
    for entry in sums(backup, &manifest)? {
        let (path, hash) = entry?;
        let path = backup.join(path);
        if !path.is_file() {
            return Err(missing(path));
        }
        if sum(&path)?.sha256 != hash {
            return Err(changed(path));
        }
        files += 1;
    }
    check_content(backup, &manifest, files)?;
    Ok(manifest)
}

/// Makes a backup the state of the daemon with this configuration, which must not run and have no state yet. Blocks.
pub fn restore(config: &Config, backup: &Path) -> Result<Restored, BackupError> {
    let since = Instant::now();
    let manifest = Manifest::read(backup)?;
    let own = config.store_dir.to_string();
    if manifest.store_dir != own {
        return Err(BackupError::OtherStoreDir {
            found: manifest.store_dir,
            own,
        });
    }
    let state = &config.state_dir;
    let owner = owner(state)?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(state)
        .map_err(BackupError::file("make the folder", state))?;
    let lock = StateLock::take(state)?;
    if let Some(owner) = owner {
        // Also where nothing is restored in the end, or the daemon could not take its lock.
        own_all(state, owner, 0)?;
    }
    remove_unfinished(state)?;
    check_empty(state)?;
    has_room(state, manifest.bytes)?;

    let unfinished = Unfinished::begin(state)?;
    fill(backup, &manifest, &unfinished.0)?;
    snapshot::take_up(&unfinished.0.join(INDEX), manifest.created_ms, now())?;
    if let Some(owner) = owner {
        own_all(state, owner, 0)?;
    }
    Copier::new(&unfinished.0)?.sync()?;
    for name in [SPOOL, LOGS, INDEX] {
        let to = state.join(name);
        fs::rename(unfinished.0.join(name), &to).map_err(BackupError::file("rename", &to))?;
    }
    sync_folder(state)?;
    unfinished.end()?;
    sync_folder(state)?;
    drop(lock);
    let about = fs::metadata(state.join(INDEX)).map_err(BackupError::file("look at", state))?;
    Ok(Restored {
        manifest,
        owner: (about.uid(), about.gid()),
        took: since.elapsed(),
    })
}

/// Copies all files, and checks what arrives.
fn fill(backup: &Path, manifest: &Manifest, to: &Path) -> Result<(), BackupError> {
    let mut copier = Copier::new(to)?;
    let mut files = 0;
    for name in [SPOOL, LOGS] {
        folder(&to.join(name))?;
    }
    folder(&spool::snapshot::large_files(&to.join(SPOOL)))?;
    for entry in sums(backup, manifest)? {
        let (path, hash) = entry?;
        let target = to.join(&path);
        if let Some(parent) = target.parent() {
            folder(parent)?;
        }
        match copier.copy(&backup.join(&path), &target)? {
            None => return Err(missing(backup.join(path))),
            Some(sum) if sum.sha256 != hash => return Err(changed(backup.join(path))),
            Some(_) => files += 1,
        }
    }
    check_content(to, manifest, files)
}

/// What hashes cannot say: that the databases are sound, and that files which are named are there.
fn check_content(folder: &Path, manifest: &Manifest, files: u64) -> Result<(), BackupError> {
    let not_all = |what: String| BackupError::NotABackup {
        path: folder.to_owned(),
        what,
    };
    if files != manifest.files {
        return Err(not_all(format!("{files} files are listed, of {}", manifest.files)));
    }
    for name in [Path::new(INDEX), &spool::snapshot::database(Path::new(SPOOL))] {
        if !folder.join(name).is_file() {
            return Err(not_all(format!("it has no {}", name.display())));
        }
    }
    let index = snapshot::check(&folder.join(INDEX), manifest.schemas.index)?;
    let contents = snapshot::contents(&index)?;
    if contents.evaluations != manifest.evaluations {
        return Err(not_all(format!(
            "its index has {} evaluations, and not {}",
            contents.evaluations, manifest.evaluations
        )));
    }
    let of_spool = folder.join(SPOOL);
    let conn = snapshot::check(&spool::snapshot::database(&of_spool), manifest.schemas.spool)?;
    let large = spool::snapshot::large_files(&of_spool);
    let named = spool::snapshot::files(&conn)?;
    match named.into_iter().find(|name| !large.join(name).is_file()) {
        Some(name) => Err(missing(large.join(name))),
        None => Ok(()),
    }
}

fn missing(path: PathBuf) -> BackupError {
    BackupError::Damaged {
        path,
        what: "it is missing".to_owned(),
    }
}

fn changed(path: PathBuf) -> BackupError {
    BackupError::Damaged {
        path,
        what: "its hash is another".to_owned(),
    }
}

/// What is being restored. Dropped before its end it is removed, with what has its place already.
struct Unfinished(PathBuf);

impl Unfinished {
    fn begin(state: &Path) -> Result<Self, BackupError> {
        let path = state.join(UNFINISHED);
        folder(&path)?;
        sync_folder(state)?;
        Ok(Self(path))
    }

    fn end(self) -> Result<(), BackupError> {
        fs::remove_dir(&self.0).map_err(BackupError::file("remove", &self.0))
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(state) = self.0.parent()
            && is_unfinished(state)
        {
            // If this fails, the next restore removes it, and no daemon starts before.
            let _ = remove_unfinished(state);
        }
    }
}

/// Removes what a restore has left that was cut off. It began with an empty folder, so that all of it is its own.
fn remove_unfinished(state: &Path) -> Result<(), BackupError> {
    if !is_unfinished(state) {
        return Ok(());
    }
    for name in [INDEX, LOGS, SPOOL, UNFINISHED] {
        let path = state.join(name);
        let removed = match fs::symlink_metadata(&path) {
            Ok(about) if about.is_dir() => fs::remove_dir_all(&path),
            Ok(_) => fs::remove_file(&path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        removed.map_err(BackupError::file("remove", &path))?;
    }
    sync_folder(state)
}

/// The state folder is often the home of a user too, so that hidden files are not in the way.
fn check_empty(state: &Path) -> Result<(), BackupError> {
    let looking = || BackupError::file("look into", state);
    for entry in fs::read_dir(state).map_err(looking())? {
        let name = entry.map_err(looking())?.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with('.') && !HARMLESS.contains(&name.as_ref()) {
            return Err(BackupError::StateNotEmpty {
                path: state.to_owned(),
                entry: name.into_owned(),
            });
        }
    }
    Ok(())
}

/// Who is to own what is restored, where it is not who runs this.
fn owner(state: &Path) -> Result<Option<(u32, u32)>, BackupError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    match fs::metadata(state) {
        Ok(about) => Ok(Some((about.uid(), about.gid()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let user = User::from_name(SERVICE_USER)
                .map_err(|error| BackupError::file("look up the owner of", state)(error.into()))?;
            Ok(user.map(|user| (user.uid.as_raw(), user.gid.as_raw())))
        }
        Err(error) => Err(BackupError::file("look at", state)(error)),
    }
}

/// Gives the state folder, its lock and what is being restored to their owner. Other hidden files of a home stay as
/// they are.
fn own_all(path: &Path, owner: (u32, u32), depth: usize) -> Result<(), BackupError> {
    let owning = || BackupError::file("give to its owner", path);
    lchown(path, Some(owner.0), Some(owner.1)).map_err(owning())?;
    if !fs::symlink_metadata(path).map_err(owning())?.is_dir() {
        return Ok(());
    }
    for entry in fs::read_dir(path).map_err(owning())? {
        let entry = entry.map_err(owning())?;
        let name = entry.file_name();
        if depth > 0 || name == UNFINISHED || name == "lock" {
            own_all(&entry.path(), owner, depth + 1)?;
        }
    }
    Ok(())
}
