//! Putting objects into a store.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};

use super::{Ack, Call, FramedCall, Operation, Unsupported, needs_version, operations};
use crate::types::{AddMethod, ContentAddressMethod, HashAlgo, PathInfo, Signature, StorePath};
use crate::version::Version;
use crate::wire::primitive::{put_string, text};
use crate::wire::{Negotiated, Source, Wire, WireError, read, wire_struct};

operations! {
    /// Adds a text. Obsolete since 1.25.
    AddTextToStore = 8;
    reply StorePath;
    {
        /// The object's name.
        name: String,
        /// The content.
        text: Bytes,
        /// Paths it names.
        references: BTreeSet<StorePath>,
    }

    /// Adds signatures to a valid path, unverified.
    AddSignatures = 37;
    reply Ack;
    {
        /// The path.
        path: StorePath,
        /// The signatures.
        signatures: BTreeSet<Signature>,
    }

    /// Adds several paths: a framed stream of a count and that many path infos (always in the layout of 1.16), each
    /// followed by its NAR; references first.
    AddMultipleToStore = 44;
    since ADD_MULTIPLE;
    reply ();
    {
        /// Overwrite what is there.
        repair: bool,
        /// Take unsigned paths; heeded for trusted clients only.
        dont_check_sigs: bool,
    }

    /// Stores a build log, sent in frames.
    AddBuildLog = 45;
    since ADD_MULTIPLE;
    reply Ack;
    {
        /// The derivation.
        drv: BaseName,
    }
}

impl FramedCall for AddMultipleToStore {}
impl FramedCall for AddBuildLog {}

/// A path without the store directory, the form two operations want it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseName(pub StorePath);

impl Wire for BaseName {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|on, input| {
            let (rest, text) = text(on.limits.string(), input)?;
            let path = StorePath::from_base_name(text).map_err(|error| nom::Err::Failure(error.into()))?;
            Ok((rest, Self(path)))
        })
        .await
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        put_string(self.0.base_name().as_bytes(), out);
    }
}

/// Adds one object, whose path the server computes; its content follows in frames.
///
/// The content is the bytes of a file for [`ContentAddressMethod::Text`] and [`ContentAddressMethod::Flat`], otherwise a
/// NAR. Servers before 1.25 get another form, which only a server of ours reads; the client refuses to send it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddToStore {
    /// The object's name.
    pub name: String,
    /// How its path is made.
    pub method: AddMethod,
    /// Paths it names.
    pub references: BTreeSet<StorePath>,
    /// Overwrite what is there.
    pub repair: bool,
}

impl Operation for AddToStore {
    const OP: u32 = 7;
    const NAME: &'static str = "AddToStore";

    fn check(on: &Negotiated) -> Result<(), Unsupported> {
        needs_version(Self::NAME, Version::NEW_ADD_TO_STORE, on)
    }
}

impl Call for AddToStore {
    type Reply = PathInfo;
}

impl FramedCall for AddToStore {
    // Stock servers that cannot read the method report it without having read the frames.
    const ERROR_LOSES_STEP: bool = true;
}

impl Wire for AddToStore {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        let name = read(from).await?;
        if from.on().version >= Version::NEW_ADD_TO_STORE {
            return Ok(Self {
                name,
                method: read(from).await?,
                references: read(from).await?,
                repair: read(from).await?,
            });
        }
        let fixed = bool::read(from).await?;
        let recursive = bool::read(from).await?;
        let algo = String::read(from).await?;
        // Without `fixed` the other two say nothing, and a NAR hashed with SHA-256 is meant.
        let method = if fixed {
            AddMethod {
                method: if recursive {
                    ContentAddressMethod::Nar
                } else {
                    ContentAddressMethod::Flat
                },
                algo: algo.parse().map_err(WireError::from)?,
            }
        } else {
            AddMethod {
                method: ContentAddressMethod::Nar,
                algo: HashAlgo::Sha256,
            }
        };
        Ok(Self {
            name,
            method,
            references: BTreeSet::new(),
            repair: false,
        })
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        self.name.encode(on, out);
        if on.version >= Version::NEW_ADD_TO_STORE {
            self.method.encode(on, out);
            self.references.encode(on, out);
            self.repair.encode(on, out);
            return;
        }
        let recursive = self.method.method != ContentAddressMethod::Flat;
        let fixed = !(recursive && self.method.algo == HashAlgo::Sha256);
        fixed.encode(on, out);
        recursive.encode(on, out);
        put_string(self.method.algo.name().as_bytes(), out);
    }
}

/// Adds one path; its NAR follows in frames (before 1.23 otherwise, which only a server of ours reads).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AddToStoreNar {
    /// The path and what shall be known of it.
    pub info: PathInfo,
    /// Overwrite what is there.
    pub repair: bool,
    /// Take an unsigned path; heeded for trusted clients only.
    pub dont_check_sigs: bool,
}

impl Operation for AddToStoreNar {
    const OP: u32 = 39;
    const NAME: &'static str = "AddToStoreNar";

    fn check(on: &Negotiated) -> Result<(), Unsupported> {
        needs_version(Self::NAME, Version::FRAMED_NAR, on)
    }
}

impl Call for AddToStoreNar {
    type Reply = ();
}

impl FramedCall for AddToStoreNar {}

wire_struct!(AddToStoreNar {
    info,
    repair,
    dont_check_sigs
});
