use std::collections::BTreeSet;

use super::Limits;
use crate::types::StoreDir;
use crate::version::Version;

/// Realisations are keyed by derivation path and not by hash (Nix 2.35).
pub const FEATURE_REALISATION_PATHS: &str = "realisation-with-path-not-hash";
/// `CollectGarbage` may delete the referrers of specific paths (Nix 2.35).
pub const FEATURE_GC_REFERRERS: &str = "delete-dead-specific-referrers";

/// What the two sides of a connection agreed on, and what decides the form of every value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Negotiated {
    /// The lower of both versions.
    pub version: Version,
    /// The features both know.
    pub features: BTreeSet<String>,
    /// The directory of all paths on the wire.
    pub store_dir: StoreDir,
    /// What we take into memory.
    pub limits: Limits,
}

impl Negotiated {
    /// A connection of some version without features.
    #[must_use]
    pub fn plain(version: Version, store_dir: StoreDir) -> Self {
        Self {
            version,
            features: BTreeSet::new(),
            store_dir,
            limits: Limits::default(),
        }
    }

    /// Whether both sides know a feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }
}
