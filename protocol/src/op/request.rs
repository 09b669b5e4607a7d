use bytes::BytesMut;

use super::{
    AddBuildLog, AddIndirectRoot, AddMultipleToStore, AddPermRoot, AddSignatures, AddTempRoot, AddTextToStore,
    AddToStore, AddToStoreNar, BuildDerivation, BuildPaths, BuildPathsWithResults, CollectGarbage, EnsurePath,
    FindRoots, IsValidPath, NarFromPath, Operation, OptimiseStore, QueryAllValidPaths, QueryDerivationOutputMap,
    QueryDerivationOutputNames, QueryDerivationOutputs, QueryDeriver, QueryMissing, QueryPathFromHashPart,
    QueryPathInfo, QueryRealisation, QueryReferrers, QuerySubstitutablePathInfo, QuerySubstitutablePathInfos,
    QuerySubstitutablePaths, QueryValidDerivers, QueryValidPaths, RegisterDrvOutput, ReplyShape, SetOptions,
    SyncWithGc, VerifyStore,
};
use crate::nixci::{AddClosure, Control, QueryValidBatch};
use crate::types::ContentAddressMethod;
use crate::version::Version;
use crate::wire::primitive::put_number;
use crate::wire::{Negotiated, Source, Wire, WireError, read};

/// What follows a request's fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyKind {
    /// Nothing.
    None,
    /// Frames up to an empty one.
    Framed,
    /// A NAR that the server asks for piece by piece.
    Pulled,
    /// A bare NAR.
    Nar,
    /// A bare NAR of one file, whose content is the body.
    NarOfFile,
}

macro_rules! requests {
    ($($name:ident $shape:ident;)*) => {
        /// Everything a server can be asked; of what follows a request in frames, only that it follows.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Request {
            $(
                #[doc = concat!("See [`", stringify!($name), "`].")]
                $name($name),
            )*
        }

        impl Request {
            /// Reads the fields of an operation.
            pub async fn read<S: Source>(number: u64, from: &mut S) -> Result<Self, S::Error> {
                let unknown = WireError::Operation(number);
                let Ok(op) = u32::try_from(number) else { return Err(unknown.into()) };
                match op {
                    $(
                        <$name as Operation>::OP if Self::exists::<$name>(from.on()) => {
                            Ok(Self::$name(read(from).await?))
                        }
                    )*
                    _ => Err(unknown.into()),
                }
            }

            /// The name of the operation with a number, for messages.
            #[must_use]
            pub fn name_of(number: u64) -> Option<&'static str> {
                $(if number == u64::from(<$name as Operation>::OP) { return Some(<$name as Operation>::NAME); })*
                None
            }

            /// The number of the operation.
            #[must_use]
            pub fn op(&self) -> u32 {
                match self {
                    $(Self::$name(_) => <$name as Operation>::OP,)*
                }
            }

            /// The name of the operation.
            #[must_use]
            pub fn name(&self) -> &'static str {
                match self {
                    $(Self::$name(_) => <$name as Operation>::NAME,)*
                }
            }

            /// Appends the number and the fields.
            pub fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
                put_number(u64::from(self.op()), out);
                match self {
                    $(Self::$name(request) => Wire::encode(request, on, out),)*
                }
            }

            /// The form its reply must have.
            #[must_use]
            pub fn reply_shape(&self) -> ReplyShape {
                match self {
                    $(Self::$name(_) => ReplyShape::$shape,)*
                }
            }
        }

        $(
            impl From<$name> for Request {
                fn from(request: $name) -> Self {
                    Self::$name(request)
                }
            }
        )*
    };
}

requests! {
    IsValidPath Bool;
    QueryReferrers Paths;
    AddToStore Added;
    AddTextToStore Path;
    BuildPaths Ack;
    EnsurePath Ack;
    AddTempRoot Ack;
    AddIndirectRoot Ack;
    SyncWithGc Ack;
    FindRoots Roots;
    QueryDeriver MaybePath;
    SetOptions Nothing;
    CollectGarbage Collected;
    QuerySubstitutablePathInfo Substitutable;
    QueryDerivationOutputs Paths;
    QueryAllValidPaths Paths;
    QueryPathInfo PathInfo;
    QueryDerivationOutputNames OutputNames;
    QueryPathFromHashPart MaybePath;
    QuerySubstitutablePathInfos Substitutables;
    QueryValidPaths Paths;
    QuerySubstitutablePaths Paths;
    QueryValidDerivers Paths;
    OptimiseStore Ack;
    VerifyStore Bool;
    BuildDerivation Built;
    AddSignatures Ack;
    NarFromPath Nar;
    AddToStoreNar Nothing;
    QueryMissing Missing;
    QueryDerivationOutputMap OutputMap;
    RegisterDrvOutput Nothing;
    QueryRealisation Realisations;
    AddMultipleToStore Nothing;
    AddBuildLog Ack;
    BuildPathsWithResults BuiltAll;
    AddPermRoot Link;
    QueryValidBatch Bitmap;
    AddClosure Count;
    Control Json;
}

impl Request {
    /// Stock servers answer operations of any version; only the two with an older form that was never released
    /// and those of a feature are unknown where they were not negotiated.
    fn exists<T: Operation>(on: &Negotiated) -> bool {
        match T::check(on) {
            Ok(()) => true,
            Err(super::Unsupported::Feature { .. }) => false,
            Err(super::Unsupported::Version { .. }) => T::OP != 42 && T::OP != 43,
        }
    }

    /// What follows its fields.
    #[must_use]
    pub fn body(&self, on: &Negotiated) -> BodyKind {
        match self {
            Self::AddMultipleToStore(_) | Self::AddBuildLog(_) | Self::AddClosure(_) => BodyKind::Framed,
            Self::AddToStore(_) if on.version >= Version::NEW_ADD_TO_STORE => BodyKind::Framed,
            Self::AddToStore(add) => match add.method.method {
                ContentAddressMethod::Flat | ContentAddressMethod::Text => BodyKind::NarOfFile,
                ContentAddressMethod::Nar | ContentAddressMethod::Git => BodyKind::Nar,
            },
            Self::AddToStoreNar(_) if on.version >= Version::FRAMED_NAR => BodyKind::Framed,
            Self::AddToStoreNar(_) if on.version >= Version::PULLED_NAR => BodyKind::Pulled,
            Self::AddToStoreNar(_) => BodyKind::Nar,
            Self::IsValidPath(_)
            | Self::QueryReferrers(_)
            | Self::AddTextToStore(_)
            | Self::BuildPaths(_)
            | Self::EnsurePath(_)
            | Self::AddTempRoot(_)
            | Self::AddIndirectRoot(_)
            | Self::SyncWithGc(_)
            | Self::FindRoots(_)
            | Self::QueryDeriver(_)
            | Self::SetOptions(_)
            | Self::CollectGarbage(_)
            | Self::QuerySubstitutablePathInfo(_)
            | Self::QueryDerivationOutputs(_)
            | Self::QueryAllValidPaths(_)
            | Self::QueryPathInfo(_)
            | Self::QueryDerivationOutputNames(_)
            | Self::QueryPathFromHashPart(_)
            | Self::QuerySubstitutablePathInfos(_)
            | Self::QueryValidPaths(_)
            | Self::QuerySubstitutablePaths(_)
            | Self::QueryValidDerivers(_)
            | Self::OptimiseStore(_)
            | Self::VerifyStore(_)
            | Self::BuildDerivation(_)
            | Self::AddSignatures(_)
            | Self::NarFromPath(_)
            | Self::QueryMissing(_)
            | Self::QueryDerivationOutputMap(_)
            | Self::RegisterDrvOutput(_)
            | Self::QueryRealisation(_)
            | Self::BuildPathsWithResults(_)
            | Self::AddPermRoot(_)
            | Self::QueryValidBatch(_)
            | Self::Control(_) => BodyKind::None,
        }
    }
}
