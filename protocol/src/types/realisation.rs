use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde_json::{Map, Value, json};

use super::store_path::shorten;
use super::{Hash, HashAlgo, HashError, OutputName, Signature, SignatureError, StorePath, StorePathError};

/// An output of a derivation known by its hash modulo inputs: `sha256:<hex>!out`. Peers up to 2.34.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DrvOutput {
    /// The derivation's hash.
    pub drv_hash: Hash,
    /// The output.
    pub output: OutputName,
}

/// An output of a derivation known by its path. Peers with `realisation-with-path-not-hash`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DrvOutputKey {
    /// The derivation.
    pub drv: StorePath,
    /// The output.
    pub output: OutputName,
}

/// The path an output was realised at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnkeyedRealisation {
    /// The path.
    pub out_path: StorePath,
    /// Who says so.
    pub signatures: BTreeSet<Signature>,
}

/// The path an output was realised at, in the JSON form of peers up to 2.34.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Realisation {
    /// Which output.
    pub id: DrvOutput,
    /// The path.
    pub out_path: StorePath,
    /// Who says so, in the spelling it came in; none when the field was absent.
    pub signatures: Option<RealisationSignatures>,
    /// Realisations it was made with; none when the field was absent.
    pub dependencies: Option<BTreeMap<DrvOutput, StorePath>>,
}

/// Signatures of a [`Realisation`]. Some versions of Nix write objects, others strings, and each reads only its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RealisationSignatures {
    /// `name:base64`.
    Text(BTreeSet<Signature>),
    /// `{"keyName":name,"sig":base64}`.
    Objects(BTreeSet<Signature>),
}

/// Why a text is not `sha256:<hex>!<output>`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DrvOutputError {
    /// No `!`.
    #[error("{0:?} is not a derivation output: expected sha256:<hash>!<output>")]
    Shape(String),
    /// The hash is not one.
    #[error("{text:?} is not a derivation output: {error}")]
    Hash {
        /// The text.
        text: String,
        /// What is wrong with the hash.
        error: HashError,
    },
    /// The output name is not one.
    #[error("{text:?} is not a derivation output: {error}")]
    Output {
        /// The text.
        text: String,
        /// What is wrong with the name.
        error: StorePathError,
    },
}

/// Why a text is not a realisation.
#[derive(Debug, thiserror::Error)]
pub enum RealisationError {
    /// Not JSON.
    #[error("a realisation is not JSON: {0}")]
    Json(serde_json::Error),
    /// A field is missing or of another type.
    #[error("a realisation has no valid field {0:?}")]
    Field(&'static str),
    /// A key is not a derivation output.
    #[error("a realisation has a bad key: {0}")]
    Id(DrvOutputError),
    /// A path is not one.
    #[error("a realisation has a bad path: {0}")]
    Path(StorePathError),
    /// A signature is not one.
    #[error("a realisation has a bad signature: {0}")]
    Signature(SignatureError),
}

impl UnkeyedRealisation {
    /// A path nobody signed for.
    #[must_use]
    pub fn unsigned(out_path: StorePath) -> Self {
        Self {
            out_path,
            signatures: BTreeSet::new(),
        }
    }
}

impl DrvOutput {
    /// A key with the hash of zeros that Nix 2.35 sends to peers that know only hashes.
    #[must_use]
    pub fn with_dummy_hash(output: OutputName) -> Self {
        Self {
            drv_hash: Hash::from_sha256([0; 32]),
            output,
        }
    }
}

impl Realisation {
    /// Reads the JSON form.
    pub fn from_json(text: &[u8]) -> Result<Self, RealisationError> {
        let value: Value = serde_json::from_slice(text).map_err(RealisationError::Json)?;
        let id = value
            .get("id")
            .and_then(Value::as_str)
            .ok_or(RealisationError::Field("id"))?;
        let out_path = value.get("outPath").and_then(Value::as_str);
        Ok(Self {
            id: id.parse().map_err(RealisationError::Id)?,
            out_path: path(out_path.ok_or(RealisationError::Field("outPath"))?)?,
            signatures: value.get("signatures").map(signatures).transpose()?,
            dependencies: value.get("dependentRealisations").map(dependencies).transpose()?,
        })
    }

    /// The JSON form: compact, keys sorted, absent fields left out.
    #[must_use]
    pub fn to_json(&self) -> String {
        let mut object = Map::new();
        if let Some(dependencies) = &self.dependencies {
            let entries = dependencies
                .iter()
                .map(|(id, path)| (id.to_string(), Value::from(path.to_string())));
            object.insert("dependentRealisations".into(), Value::Object(entries.collect()));
        }
        object.insert("id".into(), self.id.to_string().into());
        object.insert("outPath".into(), self.out_path.to_string().into());
        let list = match &self.signatures {
            None => None,
            Some(RealisationSignatures::Text(set)) => Some(set.iter().map(|s| Value::from(s.to_string())).collect()),
            Some(RealisationSignatures::Objects(set)) => Some(
                set.iter()
                    .map(|s| json!({"keyName": s.name(), "sig": s.base64()}))
                    .collect(),
            ),
        };
        if let Some(list) = list {
            object.insert("signatures".into(), Value::Array(list));
        }
        Value::Object(object).to_string()
    }
}

fn path(text: &str) -> Result<StorePath, RealisationError> {
    StorePath::from_base_name(text).map_err(RealisationError::Path)
}

fn signatures(value: &Value) -> Result<RealisationSignatures, RealisationError> {
    const BAD: RealisationError = RealisationError::Field("signatures");
    let list = value.as_array().ok_or(BAD)?;
    let text = |item: &Value| match item {
        Value::String(text) => Some(text.clone()),
        Value::Object(object) => {
            let name = object.get("keyName")?.as_str()?;
            let signature = object.get("sig")?.as_str()?;
            Some(format!("{name}:{signature}"))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => None,
    };
    let parse = |item: &Value| text(item).ok_or(BAD)?.parse().map_err(RealisationError::Signature);
    let set = list.iter().map(parse).collect::<Result<_, _>>()?;
    Ok(match list.first() {
        Some(Value::Object(_)) => RealisationSignatures::Objects(set),
        Some(_) | None => RealisationSignatures::Text(set),
    })
}

fn dependencies(value: &Value) -> Result<BTreeMap<DrvOutput, StorePath>, RealisationError> {
    const BAD: RealisationError = RealisationError::Field("dependentRealisations");
    let object = value.as_object().ok_or(BAD)?;
    let entry = |(id, value): (&String, &Value)| {
        let id = id.parse().map_err(RealisationError::Id)?;
        Ok((id, path(value.as_str().ok_or(BAD)?)?))
    };
    object.iter().map(entry).collect()
}

impl FromStr for DrvOutput {
    type Err = DrvOutputError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let shape = || DrvOutputError::Shape(shorten(text));
        let (hash, output) = text.split_once('!').ok_or_else(shape)?;
        let drv_hash: Hash = hash.parse().map_err(|error| DrvOutputError::Hash {
            text: shorten(text),
            error,
        })?;
        if drv_hash.algo() != HashAlgo::Sha256 {
            return Err(shape());
        }
        let output = output.parse().map_err(|error| DrvOutputError::Output {
            text: shorten(text),
            error,
        })?;
        Ok(Self { drv_hash, output })
    }
}

impl fmt::Display for DrvOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}!{}", self.drv_hash.algo(), self.drv_hash.hex(), self.output)
    }
}
