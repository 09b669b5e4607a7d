//! Values made of several.

use std::collections::BTreeMap;

use bytes::BytesMut;

use super::primitive::{failure, number, put_number, put_string};
use super::texts::read_message;
use super::{FEATURE_REALISATION_PATHS, Negotiated, Source, Wire, WireError, read, wire_struct};
use crate::types::{
    BasicDerivation, BuildResult, BuiltOutputs, DerivationOutput, DrvOutput, DrvOutputKey, KeyedBuildResult, PathInfo,
    Realisation, SubstitutablePathInfo, UnkeyedPathInfo, UnkeyedRealisation,
};
use crate::version::Version;

wire_struct!(UnkeyedPathInfo {
    deriver,
    nar_hash,
    references,
    registration_time,
    nar_size,
    ultimate since PATH_INFO_SIGNATURES,
    signatures since PATH_INFO_SIGNATURES,
    ca since PATH_INFO_SIGNATURES,
});
wire_struct!(PathInfo { path, info });
wire_struct!(SubstitutablePathInfo {
    deriver,
    references,
    download_size,
    nar_size
});
wire_struct!(DerivationOutput { path, hash_algo, hash });
wire_struct!(BasicDerivation {
    outputs,
    input_srcs,
    platform,
    builder,
    args,
    env
});
wire_struct!(KeyedBuildResult { path, result });
wire_struct!(DrvOutputKey { drv, output });
wire_struct!(UnkeyedRealisation { out_path, signatures });

/// 0, or 1 and a value.
macro_rules! wire_option {
    ($($type:ty, $what:literal;)*) => {$(
        impl Wire for Option<$type> {
            async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
                let present = from.parse(|_, input| {
                    let (rest, value) = number(input)?;
                    match value {
                        0 => Ok((rest, false)),
                        1 => Ok((rest, true)),
                        _ => Err(failure(WireError::Tag { what: $what, value })),
                    }
                });
                Ok(if present.await? { Some(read(from).await?) } else { None })
            }

            fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
                put_number(u64::from(self.is_some()), out);
                if let Some(value) = self {
                    value.encode(on, out);
                }
            }
        }
    )*};
}

wire_option! {
    u64, "tag of an optional number";
    UnkeyedPathInfo, "tag of an optional path info";
    SubstitutablePathInfo, "tag of an optional path info";
    UnkeyedRealisation, "tag of an optional realisation";
}

impl Wire for BuildResult {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        let status = read(from).await?;
        let mut this = Self::new(status, read_message(from).await?);
        let version = from.on().version;
        if version >= Version::BUILD_TIMES {
            this.times_built = read(from).await?;
            this.is_non_deterministic = read(from).await?;
            this.start_time = read(from).await?;
            this.stop_time = read(from).await?;
        }
        if version >= Version::CPU_TIMES {
            this.cpu_user = read(from).await?;
            this.cpu_system = read(from).await?;
        }
        if version >= Version::BUILT_OUTPUTS {
            this.built_outputs = read(from).await?;
        }
        Ok(this)
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        self.status.encode(on, out);
        put_string(self.error_msg.as_bytes(), out);
        if on.version >= Version::BUILD_TIMES {
            self.times_built.encode(on, out);
            self.is_non_deterministic.encode(on, out);
            self.start_time.encode(on, out);
            self.stop_time.encode(on, out);
        }
        if on.version >= Version::CPU_TIMES {
            self.cpu_user.encode(on, out);
            self.cpu_system.encode(on, out);
        }
        if on.version >= Version::BUILT_OUTPUTS {
            self.built_outputs.encode(on, out);
        }
    }
}

impl Wire for BuiltOutputs {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        if from.on().has(FEATURE_REALISATION_PATHS) {
            Ok(Self::Named(read(from).await?))
        } else {
            Ok(Self::Hashed(read(from).await?))
        }
    }

    fn encode(&self, on: &Negotiated, out: &mut BytesMut) {
        match (self, on.has(FEATURE_REALISATION_PATHS)) {
            (Self::Named(outputs), true) => outputs.encode(on, out),
            (Self::Hashed(outputs), false) => outputs.encode(on, out),
            (Self::Hashed(outputs), true) => {
                let named = outputs.values().map(|realisation| {
                    let path = realisation.out_path.clone();
                    (realisation.id.output.clone(), UnkeyedRealisation::unsigned(path))
                });
                named.collect::<BTreeMap<_, _>>().encode(on, out);
            }
            (Self::Named(outputs), false) => {
                let hashed = outputs.iter().map(|(name, realisation)| {
                    let id = DrvOutput::with_dummy_hash(name.clone());
                    let value = Realisation {
                        id: id.clone(),
                        out_path: realisation.out_path.clone(),
                        signatures: None,
                        dependencies: None,
                    };
                    (id, value)
                });
                hashed.collect::<BTreeMap<_, _>>().encode(on, out);
            }
        }
    }
}
