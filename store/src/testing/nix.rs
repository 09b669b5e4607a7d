//! Which Nix versions the tests talk to, and where their programs are.

use std::fmt;
use std::path::PathBuf;

use super::cache_dir;

/// One installed version of Nix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NixVersion {
    /// 2.8.0, protocol 1.34: the version of Debian 12.
    V2_8,
    /// 2.26.3, protocol 1.38.
    V2_26,
    /// 2.34.8, protocol 1.38.
    V2_34,
}

impl NixVersion {
    /// All of them, oldest first.
    pub const ALL: [Self; 3] = [Self::V2_8, Self::V2_26, Self::V2_34];
    /// The newest, for tests that need only one.
    pub const NEWEST: Self = Self::V2_34;

    /// The number, as `nix --version` prints it.
    pub fn number(self) -> &'static str {
        match self {
            Self::V2_8 => "2.8.0",
            Self::V2_26 => "2.26.3",
            Self::V2_34 => "2.34.8",
        }
    }

    /// The minor number of the protocol it speaks.
    pub fn protocol_minor(self) -> u16 {
        match self {
            Self::V2_8 => 34,
            Self::V2_26 | Self::V2_34 => 38,
        }
    }

    /// The folder of its programs, to be put first on a `PATH`.
    ///
    /// Panics when this version is not installed.
    pub fn bin_dir(self) -> PathBuf {
        let dir = cache_dir().join(format!("nix-{}/bin", self.number()));
        assert!(
            dir.join("nix-daemon").exists(),
            "Nix {self} is not at {}; `make test` installs it",
            dir.display()
        );
        dir
    }

    /// The path of one of its programs: `nix`, `nix-daemon`, `nix-store`, …
    pub fn program(self, name: &str) -> PathBuf {
        let path = self.bin_dir().join(name);
        assert!(path.exists(), "Nix {self} has no program {name} at {}", path.display());
        path
    }
}

impl fmt::Display for NixVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.number())
    }
}
