//! Which path an output of a content-addressed derivation was realised at.

use bytes::BytesMut;

use super::{Call, Operation, Unsupported, needs_version};
use crate::types::{DrvOutput, DrvOutputKey, Realisation, UnkeyedRealisation};
use crate::version::Version;
use crate::wire::{FEATURE_REALISATION_PATHS, Negotiated, Source, Wire, read};

/// Records a realisation. The form must be the one the connection negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterDrvOutput {
    /// Without `realisation-with-path-not-hash`.
    Hashed(Realisation),
    /// With it.
    Named(DrvOutputKey, UnkeyedRealisation),
}

/// Asks for a realisation. The form must be the one the connection negotiated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryRealisation {
    /// Of which output.
    pub key: RealisationKey,
}

/// An output in either form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealisationKey {
    /// Without `realisation-with-path-not-hash`.
    Hashed(DrvOutput),
    /// With it.
    Named(DrvOutputKey),
}

/// The realisation, if there is one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Realisations {
    /// Without `realisation-with-path-not-hash`: none or one.
    Hashed(Vec<Realisation>),
    /// With it.
    Named(Option<UnkeyedRealisation>),
}

impl Operation for RegisterDrvOutput {
    const OP: u32 = 42;
    const NAME: &'static str = "RegisterDrvOutput";

    fn check(on: &Negotiated) -> Result<(), Unsupported> {
        needs_version(Self::NAME, Version::JSON_REALISATIONS, on)
    }
}

impl Call for RegisterDrvOutput {
    type Reply = ();
}

impl Operation for QueryRealisation {
    const OP: u32 = 43;
    const NAME: &'static str = "QueryRealisation";

    fn check(on: &Negotiated) -> Result<(), Unsupported> {
        needs_version(Self::NAME, Version::JSON_REALISATIONS, on)
    }
}

impl Call for QueryRealisation {
    type Reply = Realisations;
}

impl Wire for RegisterDrvOutput {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        if from.on().has(FEATURE_REALISATION_PATHS) {
            Ok(Self::Named(read(from).await?, read(from).await?))
        } else {
            Ok(Self::Hashed(read(from).await?))
        }
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        match self {
            Self::Hashed(realisation) => realisation.encode(on, out),
            Self::Named(key, value) => {
                key.encode(on, out);
                value.encode(on, out);
            }
        }
    }
}

impl Wire for QueryRealisation {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        let key = if from.on().has(FEATURE_REALISATION_PATHS) {
            RealisationKey::Named(read(from).await?)
        } else {
            RealisationKey::Hashed(read(from).await?)
        };
        Ok(Self { key })
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        match &self.key {
            RealisationKey::Hashed(key) => key.encode(on, out),
            RealisationKey::Named(key) => key.encode(on, out),
        }
    }
}

impl Wire for Realisations {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        if from.on().has(FEATURE_REALISATION_PATHS) {
            Ok(Self::Named(read(from).await?))
        } else {
            Ok(Self::Hashed(read(from).await?))
        }
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        match (self, on.has(FEATURE_REALISATION_PATHS)) {
            (Self::Hashed(list), false) => list.encode(on, out),
            (Self::Named(value), true) => value.encode(on, out),
            // The other form cannot be made from this one: "none" is true in both.
            (Self::Hashed(_) | Self::Named(_), _) => 0_u64.encode(on, out),
        }
    }
}
