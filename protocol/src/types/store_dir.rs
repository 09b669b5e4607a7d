use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use super::store_path::shorten;
use super::{StorePath, StorePathError};

/// The directory that store paths are in, `/nix/store` by default; it is part of their hashes.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StoreDir(Arc<str>);

/// Why a text is not a store directory, or not a path in this one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreDirError {
    /// A store directory is absolute, without a trailing slash and without empty, `.` or `..` parts.
    #[error("{0:?} is not a store directory: expected an absolute path in its shortest form")]
    Directory(String),
    /// The path is somewhere else.
    #[error("path {path:?} is not in the store directory {dir}")]
    Outside {
        /// The path.
        path: String,
        /// The store directory.
        dir: StoreDir,
    },
    /// The path is below a store path, or the directory itself.
    #[error("path {0:?} is not a store path by itself")]
    NotTopLevel(String),
    /// The last part is not `<hash>-<name>`.
    #[error(transparent)]
    Name(#[from] StorePathError),
}

impl StoreDir {
    /// Takes an absolute path in its shortest form.
    pub fn new(dir: &str) -> Result<Self, StoreDirError> {
        let parts_are_plain = dir
            .strip_prefix('/')
            .is_some_and(|rest| rest.split('/').all(|part| !matches!(part, "" | "." | "..")));
        if parts_are_plain && !dir.contains('\0') {
            Ok(Self(dir.into()))
        } else {
            Err(StoreDirError::Directory(shorten(dir)))
        }
    }

    /// The directory as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads a full path. Doubled slashes, `/./` and a trailing slash are overlooked, as stock Nix does;
    /// `..` and anything below a store path are refused.
    pub fn parse(&self, full: &str) -> Result<StorePath, StoreDirError> {
        if let Some(base) = full.strip_prefix(&*self.0).and_then(|rest| rest.strip_prefix('/'))
            && !base.contains('/')
            && !base.is_empty()
        {
            return Ok(StorePath::from_base_name(base)?);
        }
        self.parse_untidy(full)
    }

    fn parse_untidy(&self, full: &str) -> Result<StorePath, StoreDirError> {
        let outside = || StoreDirError::Outside {
            path: shorten(full),
            dir: self.clone(),
        };
        if !full.starts_with('/') {
            return Err(outside());
        }
        let mut parts = full.split('/').filter(|part| !part.is_empty() && *part != ".");
        for expected in self.0.split('/').skip(1) {
            if parts.next() != Some(expected) {
                return Err(outside());
            }
        }
        match (parts.next(), parts.next()) {
            (Some(base), None) => Ok(StorePath::from_base_name(base)?),
            (None | Some(_), _) => Err(StoreDirError::NotTopLevel(shorten(full))),
        }
    }

    /// The full path, as text.
    #[must_use]
    pub fn display<'a>(&'a self, path: &'a StorePath) -> StorePathDisplay<'a> {
        StorePathDisplay { dir: self, path }
    }
}

impl Default for StoreDir {
    fn default() -> Self {
        Self("/nix/store".into())
    }
}

impl fmt::Display for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for StoreDir {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for StoreDir {
    type Err = StoreDirError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

/// A store path with its directory in front.
#[derive(Debug, Clone, Copy)]
pub struct StorePathDisplay<'a> {
    dir: &'a StoreDir,
    path: &'a StorePath,
}

impl fmt::Display for StorePathDisplay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.dir.0, self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo";

    #[test]
    fn untidy_paths_are_read_and_foreign_ones_named() {
        let dir = StoreDir::default();
        for good in ["/nix/store/X", "/nix/store/X/", "//nix/./store//X", "/nix/store/X//."] {
            let path = dir.parse(&good.replace('X', BASE)).unwrap();
            assert_eq!(dir.display(&path).to_string(), format!("/nix/store/{BASE}"));
        }
        for bad in [
            "",
            "/not/store",
            "X",
            "/nix/store",
            "/nix/store/",
            "/nix/store/X/bin",
            "/nix/store/../X",
            "nix/store/X",
        ] {
            let bad = bad.replace('X', BASE);
            assert!(dir.parse(&bad).is_err(), "{bad}");
        }
        assert_eq!(
            dir.parse("/not/store").unwrap_err().to_string(),
            r#"path "/not/store" is not in the store directory /nix/store"#
        );
    }

    #[test]
    fn directories_are_absolute_and_tidy() {
        assert!(StoreDir::new("/srv/nix/store").is_ok());
        for bad in ["", "/", "nix/store", "/nix/store/", "/nix//store", "/nix/../store"] {
            assert!(StoreDir::new(bad).is_err(), "{bad}");
        }
    }
}
