//! Protocol versions, and the places where the wire changed.

use std::fmt;

/// A version of the worker protocol, such as 1.38. Ordered by major, then minor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// 1 in every release.
    pub major: u8,
    /// Grows with each change of layout.
    pub minor: u8,
}

impl Version {
    /// The oldest peer we talk to (Nix 2.0 is 1.20; stock Nix since 2.32 draws the same line).
    pub const MIN: Self = Self::minor(18);
    /// The newest version we know (Nix 2.24 and later).
    pub const MAX: Self = Self::minor(38);

    /// Path infos gain `ultimate`, signatures and content address.
    pub const PATH_INFO_SIGNATURES: Self = Self::minor(16);
    /// Log messages have structure.
    pub const STRUCTURED_LOG: Self = Self::minor(20);
    /// `AddToStoreNar` pulls its data by `STDERR_READ`.
    pub const PULLED_NAR: Self = Self::minor(21);
    /// Content addresses in `QuerySubstitutablePathInfos`; `QueryDerivationOutputMap` exists.
    pub const SUBSTITUTABLE_CA: Self = Self::minor(22);
    /// `AddToStoreNar` sends its data in frames.
    pub const FRAMED_NAR: Self = Self::minor(23);
    /// The new form of `AddToStore`.
    pub const NEW_ADD_TO_STORE: Self = Self::minor(25);
    /// Errors have structure.
    pub const STRUCTURED_ERRORS: Self = Self::minor(26);
    /// `substitute` in `QueryValidPaths`.
    pub const SUBSTITUTE_FLAG: Self = Self::minor(27);
    /// `builtOutputs` in build results.
    pub const BUILT_OUTPUTS: Self = Self::minor(28);
    /// Times in build results.
    pub const BUILD_TIMES: Self = Self::minor(29);
    /// A bare `.drv` asks for the file itself.
    pub const DERIVED_PATHS: Self = Self::minor(30);
    /// Realisations are JSON.
    pub const JSON_REALISATIONS: Self = Self::minor(31);
    /// `AddMultipleToStore` exists.
    pub const ADD_MULTIPLE: Self = Self::minor(32);
    /// The server tells its version.
    pub const VERSION_TEXT: Self = Self::minor(33);
    /// `BuildPathsWithResults` exists.
    pub const BUILD_RESULTS: Self = Self::minor(34);
    /// The server tells whether it trusts the client.
    pub const TRUST: Self = Self::minor(35);
    /// `AddPermRoot` exists.
    pub const PERM_ROOT: Self = Self::minor(36);
    /// CPU times in build results.
    pub const CPU_TIMES: Self = Self::minor(37);
    /// Both sides send the features they know.
    pub const FEATURES: Self = Self::minor(38);

    const fn minor(minor: u8) -> Self {
        Self { major: 1, minor }
    }

    /// Reads a version word; bits above the sixteenth are ignored, as stock peers do.
    #[must_use]
    pub const fn from_word(word: u64) -> Self {
        Self {
            major: (word >> 8) as u8,
            minor: word as u8,
        }
    }

    /// The version word.
    #[must_use]
    pub const fn to_word(self) -> u64 {
        (self.major as u64) << 8 | self.minor as u64
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}
