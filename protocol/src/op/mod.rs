//! The operations: one struct per request, with its number and the type of its reply.

mod add;
mod build;
mod collect;
mod options;
mod query;
mod realise;
mod reply;
mod request;
mod roots;

pub use add::{AddBuildLog, AddMultipleToStore, AddSignatures, AddTextToStore, AddToStore, AddToStoreNar, BaseName};
pub use build::{BuildDerivation, BuildPaths, BuildPathsWithResults, EnsurePath, Missing, QueryMissing};
pub use collect::{CollectGarbage, Collected, GcAction, GcScope, OptimiseStore, VerifyStore};
pub use options::SetOptions;
pub use query::{
    IsValidPath, NarFromPath, QueryAllValidPaths, QueryDerivationOutputMap, QueryDerivationOutputNames,
    QueryDerivationOutputs, QueryDeriver, QueryPathFromHashPart, QueryPathInfo, QueryReferrers,
    QuerySubstitutablePathInfo, QuerySubstitutablePathInfos, QuerySubstitutablePaths, QueryValidDerivers,
    QueryValidPaths, SubstitutablePaths,
};
pub use realise::{QueryRealisation, RealisationKey, Realisations, RegisterDrvOutput};
pub use reply::{JsonLines, Nar, NarSource, Reply, ReplyShape};
pub use request::{BodyKind, Request};
pub use roots::{AddIndirectRoot, AddPermRoot, AddTempRoot, FindRoots, Root, SyncWithGc};

use crate::version::Version;
use crate::wire::{Negotiated, Wire, wire_tag};

/// A request: its fields, and the number in front of them.
pub trait Operation: Wire + Sync {
    /// The number.
    const OP: u32;
    /// The name, as Nix spells it.
    const NAME: &'static str;

    /// Whether the peer knows it.
    fn check(_on: &Negotiated) -> Result<(), Unsupported> {
        Ok(())
    }
}

/// An operation answered by one value.
pub trait Call: Operation {
    /// The value.
    type Reply: Wire;
}

/// An operation whose fields are followed by a framed stream.
pub trait FramedCall: Call {
    /// Whether an error may leave the server out of step, so that the connection cannot be used again.
    const ERROR_LOSES_STEP: bool = false;
}

/// The peer does not know an operation; it was not sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unsupported {
    /// Its version is too low.
    #[error("{operation} needs protocol {needs}, the peer speaks {found}")]
    Version {
        /// The operation.
        operation: &'static str,
        /// The lowest version that has it.
        needs: Version,
        /// The version negotiated.
        found: Version,
    },
    /// It did not list the feature.
    #[error("{operation} needs the feature {needs}, which the peer does not have")]
    Feature {
        /// The operation.
        operation: &'static str,
        /// The feature.
        needs: &'static str,
    },
}

pub(crate) fn needs_version(operation: &'static str, needs: Version, on: &Negotiated) -> Result<(), Unsupported> {
    if on.version >= needs {
        return Ok(());
    }
    Err(Unsupported::Version {
        operation,
        needs,
        found: on.version,
    })
}

pub(crate) fn needs_feature(operation: &'static str, needs: &'static str, on: &Negotiated) -> Result<(), Unsupported> {
    if on.has(needs) {
        return Ok(());
    }
    Err(Unsupported::Feature { operation, needs })
}

/// The number 1: the operation is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Ack {
    /// The only value.
    #[default]
    Done,
}

wire_tag!(Ack, "acknowledgement", { 1 Done });

/// Defines request structs: `Name = number [since VERSION] [with FEATURE] [=> Reply] { fields }`, where a field that
/// exists only since a version has it in brackets in front.
macro_rules! operations {
    ($(
        $(#[$meta:meta])*
        $name:ident = $number:expr;
        $(since $min:ident;)?
        $(with $feature:path;)?
        $(reply $reply:ty;)?
        { $($(#[$field_meta:meta])* $([$since:ident])? $field:ident: $type:ty),* $(,)? }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_meta])* pub $field: $type),*
        }

        impl $crate::op::Operation for $name {
            const OP: u32 = $number;
            const NAME: &'static str = stringify!($name);

            fn check(on: &$crate::wire::Negotiated) -> Result<(), $crate::op::Unsupported> {
                let _ = on;
                $($crate::op::needs_version(Self::NAME, $crate::version::Version::$min, on)?;)?
                $($crate::op::needs_feature(Self::NAME, $feature, on)?;)?
                Ok(())
            }
        }

        $(impl $crate::op::Call for $name {
            type Reply = $reply;
        })?

        $crate::wire::wire_struct!($name { $($field $(since $since)?),* });
    )*};
}
pub(crate) use operations;
