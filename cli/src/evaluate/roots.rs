//! Roots of the garbage collector for as long as an evaluation lives.
//!
//! They are links in a folder of their own, which Nix knows as indirect roots: when the folder goes, so
//! do they. One root covers a whole batch: a derivation that is never built and has all of the batch
//! among its inputs.

use std::fs;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Folders of roots are called `nixci-roots-PID-NUMBER`.
const PREFIX: &str = "nixci-roots-";

/// The folder; dropping it removes it.
#[derive(Debug)]
pub(super) struct Roots {
    folder: PathBuf,
}

impl Roots {
    /// Makes a folder that only this user can read. Folders that a killed process left are removed.
    pub(super) fn create() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        sweep(&parent);
        let number = RandomState::new().hash_one(std::process::id());
        let folder = parent.join(format!("{PREFIX}{}-{number:x}", std::process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .map_err(|error| io::Error::new(error.kind(), format!("cannot make {}: {error}", folder.display())))?;
        Ok(Self { folder })
    }

    /// Where the links go.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Roots {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            tracing::warn!(folder = %self.folder.display(), %error, "cannot remove the roots of an evaluation");
        }
    }
}

/// Removes what processes left that are gone. It is only tidiness, so it passes over what it may not do.
fn sweep(parent: &Path) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name
            .to_str()
            .and_then(|name| name.strip_prefix(PREFIX))
            .and_then(|rest| rest.split('-').next())
            .and_then(|pid| pid.parse::<u32>().ok());
        if let Some(owner) = owner
            && Path::new("/proc/self").exists()
            && !Path::new(&format!("/proc/{owner}")).exists()
        {
            drop(fs::remove_dir_all(entry.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_folder_goes_with_its_owner() {
        let roots = Roots::create().unwrap();
        let folder = roots.folder().to_owned();
        fs::write(folder.join("x"), "").unwrap();
        drop(roots);
        assert!(!folder.exists());
    }

    #[test]
    fn only_folders_of_processes_that_are_gone_are_swept() {
        let parent = tempfile::tempdir().unwrap();
        // No process has this number: the kernel's largest is 2^22.
        let gone = parent.path().join(format!("{PREFIX}4194399-1"));
        let mine = parent.path().join(format!("{PREFIX}{}-1", std::process::id()));
        let other = parent.path().join("something-else");
        for folder in [&gone, &mine, &other] {
            fs::create_dir(folder).unwrap();
        }
        sweep(parent.path());
        assert!(!gone.exists());
        assert!(mine.exists() && other.exists());
    }
}
