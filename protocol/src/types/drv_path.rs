use std::fmt;
use std::str::FromStr;

use super::{StorePath, StorePathError};

/// A store path that ends in `.drv`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DrvPath(StorePath);

/// The path does not end in `.drv`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotADerivation {
    /// A store path, but of something else.
    #[error("{0} is not the path of a derivation: it does not end in .drv")]
    Suffix(StorePath),
    /// No store path at all.
    #[error(transparent)]
    Path(#[from] StorePathError),
}

impl DrvPath {
    /// The path.
    #[must_use]
    pub fn path(&self) -> &StorePath {
        &self.0
    }

    /// The path.
    #[must_use]
    pub fn into_path(self) -> StorePath {
        self.0
    }

    /// The derivation's name: that of the path, without `.drv`.
    #[must_use]
    pub fn name(&self) -> &str {
        let name = self.0.name();
        name.strip_suffix(".drv").unwrap_or(name)
    }
}

impl TryFrom<StorePath> for DrvPath {
    type Error = NotADerivation;

    fn try_from(path: StorePath) -> Result<Self, Self::Error> {
        if path.is_derivation() {
            Ok(Self(path))
        } else {
            Err(NotADerivation::Suffix(path))
        }
    }
}

impl From<DrvPath> for StorePath {
    fn from(drv: DrvPath) -> Self {
        drv.0
    }
}

impl FromStr for DrvPath {
    type Err = NotADerivation;

    fn from_str(base_name: &str) -> Result<Self, Self::Err> {
        Self::try_from(StorePath::from_base_name(base_name)?)
    }
}

impl fmt::Display for DrvPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for DrvPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}
