//! What is there.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BytesMut;

use super::operations;
use crate::types::{ContentAddress, DrvPath, OutputName, StorePath, SubstitutablePathInfo, UnkeyedPathInfo};
use crate::version::Version;
use crate::wire::{Negotiated, Source, Wire, read};

operations! {
    /// Whether a path is valid. Takes no temporary root.
    IsValidPath = 1;
    reply bool;
    {
        /// The path.
        path: StorePath,
    }

    /// The valid paths whose references name a path.
    QueryReferrers = 6;
    reply BTreeSet<StorePath>;
    {
        /// The path.
        path: StorePath,
    }

    /// The derivation that built a path. Obsolete.
    QueryDeriver = 18;
    reply Option<StorePath>;
    {
        /// The path.
        path: StorePath,
    }

    /// What substituters know of a path. Obsolete.
    QuerySubstitutablePathInfo = 21;
    reply Option<SubstitutablePathInfo>;
    {
        /// The path.
        path: StorePath,
    }

    /// The output paths of a derivation. Obsolete.
    QueryDerivationOutputs = 22;
    reply BTreeSet<StorePath>;
    {
        /// The derivation.
        drv: DrvPath,
    }

    /// Every valid path; may be tens of megabytes.
    QueryAllValidPaths = 23;
    reply BTreeSet<StorePath>;
    {}

    /// What is known of a path; nothing when it is not valid.
    QueryPathInfo = 26;
    reply Option<UnkeyedPathInfo>;
    {
        /// The path.
        path: StorePath,
    }

    /// The output names of a derivation. Obsolete.
    QueryDerivationOutputNames = 28;
    reply BTreeSet<OutputName>;
    {
        /// The derivation.
        drv: DrvPath,
    }

    /// The valid path with a hash part.
    QueryPathFromHashPart = 29;
    reply Option<StorePath>;
    {
        /// 32 base 32 characters.
        hash_part: String,
    }

    /// What substituters know of several paths.
    QuerySubstitutablePathInfos = 30;
    reply Vec<(StorePath, SubstitutablePathInfo)>;
    {
        /// The paths.
        paths: SubstitutablePaths,
    }

    /// The valid ones among some paths. Takes no temporary roots.
    QueryValidPaths = 31;
    reply BTreeSet<StorePath>;
    {
        /// The paths.
        paths: BTreeSet<StorePath>,
        /// Whether to substitute what is missing first. Since 1.27.
        [SUBSTITUTE_FLAG] substitute: bool,
    }

    /// The paths among some that substituters have.
    QuerySubstitutablePaths = 32;
    reply BTreeSet<StorePath>;
    {
        /// The paths.
        paths: BTreeSet<StorePath>,
    }

    /// The valid derivations that have a path as output.
    QueryValidDerivers = 33;
    reply BTreeSet<StorePath>;
    {
        /// The output.
        path: StorePath,
    }

    /// The NAR of a valid path, which follows the log without a length.
    NarFromPath = 38;
    {
        /// The path.
        path: StorePath,
    }

    /// The output paths of a derivation by name, where they are known.
    QueryDerivationOutputMap = 41;
    since SUBSTITUTABLE_CA;
    reply BTreeMap<OutputName, Option<StorePath>>;
    {
        /// The derivation.
        drv: DrvPath,
    }
}

/// Paths and what they were made from, where that is known. Before 1.22 only the paths are sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SubstitutablePaths(pub BTreeMap<StorePath, Option<ContentAddress>>);

impl Wire for SubstitutablePaths {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        if from.on().version >= Version::SUBSTITUTABLE_CA {
            return Ok(Self(read(from).await?));
        }
        let paths = BTreeSet::read(from).await?;
        Ok(Self(paths.into_iter().map(|path| (path, None)).collect()))
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        if on.version >= Version::SUBSTITUTABLE_CA {
            self.0.encode(on, out);
        } else {
            self.0.keys().cloned().collect::<BTreeSet<_>>().encode(on, out);
        }
    }
}
