//! Making outputs exist.

use std::collections::BTreeSet;

use super::{Ack, operations};
use crate::types::{BasicDerivation, BuildMode, BuildResult, DerivedPath, DrvPath, KeyedBuildResult, StorePath};
use crate::wire::wire_struct;

operations! {
    /// Builds or substitutes; any failure is an error.
    BuildPaths = 9;
    reply Ack;
    {
        /// What.
        paths: Vec<DerivedPath>,
        /// How.
        mode: BuildMode,
    }

    /// Substitutes a path that is not valid; never builds.
    EnsurePath = 10;
    reply Ack;
    {
        /// The path.
        path: StorePath,
    }

    /// Builds a derivation that need not be in the store.
    BuildDerivation = 36;
    reply BuildResult;
    {
        /// Names the log and the deriver.
        drv: DrvPath,
        /// The derivation, its inputs resolved to valid paths.
        derivation: BasicDerivation,
        /// How.
        mode: BuildMode,
    }

    /// What building would build and fetch. Does neither.
    QueryMissing = 40;
    reply Missing;
    {
        /// What.
        paths: Vec<DerivedPath>,
    }

    /// Builds or substitutes; failures are results, one for each request.
    BuildPathsWithResults = 46;
    since BUILD_RESULTS;
    reply Vec<KeyedBuildResult>;
    {
        /// What.
        paths: Vec<DerivedPath>,
        /// How.
        mode: BuildMode,
    }
}

/// What building would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// Derivations to build.
    pub will_build: BTreeSet<StorePath>,
    /// Paths to fetch.
    pub will_substitute: BTreeSet<StorePath>,
    /// Paths nobody knows how to get.
    pub unknown: BTreeSet<StorePath>,
    /// Bytes to download.
    pub download_size: u64,
    /// Bytes of their NARs.
    pub nar_size: u64,
}

wire_struct!(Missing {
    will_build,
    will_substitute,
    unknown,
    download_size,
    nar_size
});
