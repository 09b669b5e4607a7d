//! Nix's own bytes: every recorded value is read, compared with its JSON where there is one, and written again.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use bytes::BytesMut;
use data_encoding::BASE64;
use nixci_protocol::handshake::{Agreed, ClientHandshake, HandshakeError, Offer};
use nixci_protocol::types::{
    BuildMode, BuildResult, BuiltOutputs, ContentAddress, ContentAddressMethod, DerivedPath, DrvOutput, DrvOutputKey,
    Hash, KeyedBuildResult, OutputsSpec, PathInfo, Realisation, RealisationSignatures, Signature, SingleDerivedPath,
    StoreDir, StorePath, Trust, UnkeyedPathInfo, UnkeyedRealisation,
};
use nixci_protocol::version::Version;
use nixci_protocol::wire::{FEATURE_REALISATION_PATHS, Negotiated, Wire, decode, encode};
use serde_json::{Value, json};

/// Vectors this version does not read, by folder and stem.
const NOT_COVERED: &[&str] = &[];

/// Vectors whose bytes are not values but a handshake; checked by a test of their own.
const HANDSHAKES: &[&str] = &[
    "worker-protocol/client-handshake-info_1_30",
    "worker-protocol/client-handshake-info_1_33",
    "worker-protocol/client-handshake-info_1_35",
    "worker-protocol/handshake-to-client",
];

/// A value that knows Nix's JSON form of itself.
trait Described: Wire {
    /// The JSON as Nix writes it; fields our type does not have are taken from `like`.
    fn describe(&self, like: &Value) -> Value;
}

/// Reads values to the end of the bytes, compares each with its JSON, writes them again.
fn check<T: Described>(version: u8, features: &[&str], bytes: &[u8], json: &Value) -> Result<(), String> {
    let mut on = Negotiated::plain(
        Version {
            major: 1,
            minor: version,
        },
        StoreDir::default(),
    );
    on.features = features.iter().map(|feature| (*feature).to_owned()).collect();
    let list = match json {
        Value::Array(list) => list.clone(),
        one => vec![one.clone()],
    };
    let mut rest = bytes;
    let mut again = Vec::new();
    for expected in &list {
        let (value, after) = decode::<T>(&on, rest).map_err(|error| error.to_string())?;
        let found = value.describe(expected);
        if found != *expected {
            return Err(format!("expected {expected}\nfound {found}"));
        }
        again.extend_from_slice(&encode(&on, &value));
        rest = after;
    }
    if !rest.is_empty() {
        return Err(format!("{} bytes are left", rest.len()));
    }
    if again != bytes {
        return Err("written bytes differ from those read".to_owned());
    }
    Ok(())
}

/// None for a vector nobody wrote a case for.
fn check_vector(name: &str, bytes: &[u8], json: &Value) -> Option<Result<(), String>> {
    let (folder, stem) = name.split_once('/')?;
    let features: &[&str] = if stem.ends_with("realisation-with-path-not-hash") {
        &[FEATURE_REALISATION_PATHS]
    } else {
        &[]
    };
    let (kind, minor) = match stem.strip_suffix("-realisation-with-path-not-hash") {
        Some(kind) => (kind, 38),
        None => match stem.strip_suffix("-compat").unwrap_or(stem).rsplit_once("-1.") {
            Some((kind, minor)) => (kind, minor.parse().ok()?),
            None => (stem, 38),
        },
    };
    assert!(folder == "worker-protocol" || folder == "common-protocol");
    let keyed = !features.is_empty();
    Some(match kind {
        "build-mode" => check::<BuildMode>(minor, features, bytes, json),
        "build-result" => check::<BuildResult>(minor, features, bytes, json),
        "keyed-build-result" => check::<KeyedBuildResult>(minor, features, bytes, json),
        "content-address" => check::<ContentAddress>(minor, features, bytes, json),
        "optional-content-address" => check::<Option<ContentAddress>>(minor, features, bytes, json),
        "derived-path" => check::<DerivedPath>(minor, features, bytes, json),
        "drv-output" if keyed => check::<DrvOutputKey>(minor, features, bytes, json),
        "drv-output" => check::<DrvOutput>(minor, features, bytes, json),
        "store-path" => check::<StorePath>(minor, features, bytes, json),
        "optional-store-path" => check::<Option<StorePath>>(minor, features, bytes, json),
        "optional-trusted-flag" => check::<Trust>(minor, features, bytes, json),
        "realisation" if keyed => check::<(DrvOutputKey, UnkeyedRealisation)>(minor, features, bytes, json),
        "realisation" | "realisation-with-deps" => check::<Realisation>(minor, features, bytes, json),
        "unkeyed-realisation" => check::<UnkeyedRealisation>(minor, features, bytes, json),
        "set" => check_nested::<BTreeSet<String>, BTreeSet<BTreeSet<String>>>(bytes, json),
        "vector" => check_nested::<Vec<String>, Vec<Vec<String>>>(bytes, json),
        "string" => check::<String>(minor, features, bytes, json),
        "unkeyed-valid-path-info" => check::<UnkeyedPathInfo>(minor, features, bytes, json),
        "valid-path-info" => check::<PathInfo>(minor, features, bytes, json),
        _ => return None,
    })
}

/// Three collections of strings and one of collections.
fn check_nested<A: Described, B: Described>(bytes: &[u8], json: &Value) -> Result<(), String> {
    let on = Negotiated::plain(Version::MAX, StoreDir::default());
    let list = json.as_array().ok_or("no list")?;
    let (flat, nested) = list.split_at(3);
    let mut rest = bytes;
    for _ in flat {
        rest = decode::<A>(&on, rest).map_err(|error| error.to_string())?.1;
    }
    check::<A>(38, &[], &bytes[..bytes.len() - rest.len()], &flat.into())?;
    check::<B>(38, &[], rest, &nested.into())
}

#[test]
fn every_vector_is_read_and_written_again() {
    let mut failures = Vec::new();
    for (name, path) in vectors() {
        if HANDSHAKES.contains(&name.as_str()) {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        let json = fs::read(path.with_extension("json")).unwrap();
        let json = serde_json::from_slice(&json).unwrap();
        let listed = NOT_COVERED.contains(&name.as_str());
        match check_vector(&name, &bytes, &json) {
            Some(Ok(())) if listed => failures.push(format!("{name}: is listed as not covered, but passes")),
            Some(Ok(())) => {}
            Some(Err(_)) | None if listed => {}
            Some(Err(error)) => failures.push(format!("{name}: {error}")),
            None => failures.push(format!("{name}: has no case and is not listed as not covered")),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn recorded_handshakes_are_understood() {
    let vectors: BTreeMap<_, _> = vectors().into_iter().collect();
    let read = |name: &str| fs::read(&vectors[&format!("worker-protocol/{name}")]).unwrap();

    // A server of 1.10 says who it is, and is too old.
    let error = shake_hands(&read("handshake-to-client")).unwrap_err().to_string();
    assert_eq!(error, "the peer speaks protocol 1.10, we need 1.18 or a later 1.x");

    // What a server says of itself: nothing, its version, whether it trusts us. Two values in each file.
    for (name, minor, values) in [
        ("client-handshake-info_1_30", 30, [None, None]),
        (
            "client-handshake-info_1_33",
            33,
            [Some(("foo", Trust::Unknown)), Some(("bar", Trust::Unknown))],
        ),
        (
            "client-handshake-info_1_35",
            35,
            [Some(("foo", Trust::NotTrusted)), Some(("bar", Trust::Trusted))],
        ),
    ] {
        let bytes = read(name);
        for (bytes, expected) in bytes.chunks(bytes.len().div_ceil(2).max(1)).zip(values) {
            let mut said = b"oixd\0\0\0\0".to_vec();
            said.extend_from_slice(&(0x100_u64 | minor).to_le_bytes());
            said.extend_from_slice(bytes);
            let agreed = shake_hands(&said).unwrap();
            let found = agreed.daemon_version.as_deref().map(|text| (text, agreed.trust));
            assert_eq!(found, expected, "{name}");
        }
    }
}

fn shake_hands(said: &[u8]) -> Result<Agreed, HandshakeError> {
    let mut out = BytesMut::new();
    let progress = ClientHandshake::start(Offer::default(), &mut out).receive(said, &mut out)?;
    assert_eq!(progress.consumed, said.len());
    Ok(progress.done.expect("the bytes are a whole handshake"))
}

fn vectors() -> Vec<(String, PathBuf)> {
    let root = common::data_dir().join("nix-vectors");
    let mut found = Vec::new();
    for folder in ["common-protocol", "worker-protocol"] {
        let entries = fs::read_dir(root.join(folder));
        let entries = entries.unwrap_or_else(|error| panic!("no vectors in {}: {error}", root.join(folder).display()));
        for entry in entries {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "bin") {
                found.push((format!("{folder}/{}", stem(&path)), path));
            }
        }
    }
    assert!(found.len() > 30, "only {} vectors in {}", found.len(), root.display());
    found.sort();
    found
}

fn stem(path: &Path) -> String {
    path.file_stem().unwrap().to_str().unwrap().to_owned()
}

fn texts<'a, T: ToString + 'a>(values: impl IntoIterator<Item = &'a T>) -> Value {
    values.into_iter().map(ToString::to_string).collect::<Vec<_>>().into()
}

fn sri(hash: Hash) -> String {
    format!("{}-{}", hash.algo(), BASE64.encode(hash.as_bytes()))
}

fn signature(signature: &Signature) -> Value {
    json!({"keyName": signature.name(), "sig": signature.base64()})
}

impl Described for String {
    fn describe(&self, _: &Value) -> Value {
        self.as_str().into()
    }
}

impl Described for BTreeSet<String> {
    fn describe(&self, _: &Value) -> Value {
        texts(self)
    }
}

impl Described for Vec<String> {
    fn describe(&self, _: &Value) -> Value {
        texts(self)
    }
}

impl Described for BTreeSet<BTreeSet<String>> {
    fn describe(&self, _: &Value) -> Value {
        self.iter().map(texts).collect::<Vec<_>>().into()
    }
}

impl Described for Vec<Vec<String>> {
    fn describe(&self, _: &Value) -> Value {
        self.iter().map(texts).collect::<Vec<_>>().into()
    }
}

impl Described for BuildMode {
    fn describe(&self, _: &Value) -> Value {
        (*self as u8).into()
    }
}

impl Described for Trust {
    fn describe(&self, _: &Value) -> Value {
        match self {
            Self::Unknown => Value::Null,
            Self::Trusted => true.into(),
            Self::NotTrusted => false.into(),
        }
    }
}

impl Described for StorePath {
    fn describe(&self, _: &Value) -> Value {
        self.to_string().into()
    }
}

impl Described for Option<StorePath> {
    fn describe(&self, _: &Value) -> Value {
        self.as_ref().map(ToString::to_string).into()
    }
}

impl Described for ContentAddress {
    fn describe(&self, _: &Value) -> Value {
        let method = match self.method {
            ContentAddressMethod::Text => "text",
            ContentAddressMethod::Flat => "flat",
            ContentAddressMethod::Nar => "nar",
            ContentAddressMethod::Git => "git",
        };
        json!({"hash": sri(self.hash), "method": method})
    }
}

impl Described for Option<ContentAddress> {
    fn describe(&self, like: &Value) -> Value {
        self.as_ref().map_or(Value::Null, |ca| ca.describe(like))
    }
}

impl Described for DerivedPath {
    fn describe(&self, _: &Value) -> Value {
        match self {
            Self::Opaque(path) => path.to_string().into(),
            Self::Built {
                drv: SingleDerivedPath::Opaque(drv),
                outputs,
            } => {
                let outputs = match outputs {
                    OutputsSpec::All => json!(["*"]),
                    OutputsSpec::Names(names) => texts(names),
                };
                json!({"drvPath": drv.to_string(), "outputs": outputs})
            }
            Self::Built { .. } => panic!("no vector nests"),
        }
    }
}

impl Described for DrvOutput {
    fn describe(&self, _: &Value) -> Value {
        self.to_string().into()
    }
}

impl Described for DrvOutputKey {
    fn describe(&self, _: &Value) -> Value {
        json!({"drvPath": self.drv.to_string(), "outputName": self.output.as_str()})
    }
}

impl Described for UnkeyedRealisation {
    fn describe(&self, _: &Value) -> Value {
        let signatures: Vec<_> = self.signatures.iter().map(signature).collect();
        json!({"outPath": self.out_path.to_string(), "signatures": signatures})
    }
}

impl Described for (DrvOutputKey, UnkeyedRealisation) {
    fn describe(&self, like: &Value) -> Value {
        json!({"key": self.0.describe(like), "value": self.1.describe(like)})
    }
}

impl Described for Realisation {
    fn describe(&self, _: &Value) -> Value {
        let signatures = match self.signatures.as_ref().unwrap() {
            RealisationSignatures::Text(set) => texts(set),
            RealisationSignatures::Objects(set) => set.iter().map(signature).collect::<Vec<_>>().into(),
        };
        let dependencies: BTreeMap<_, _> = self.dependencies.as_ref().unwrap().iter().collect();
        let dependencies: serde_json::Map<_, _> = dependencies
            .into_iter()
            .map(|(id, path)| (id.to_string(), path.to_string().into()))
            .collect();
        json!({
            "dependentRealisations": dependencies,
            "id": self.id.to_string(),
            "outPath": self.out_path.to_string(),
            "signatures": signatures,
        })
    }
}

impl Described for UnkeyedPathInfo {
    fn describe(&self, _: &Value) -> Value {
        let signatures: Vec<_> = self.signatures.iter().map(signature).collect();
        json!({
            "ca": self.ca.describe(&Value::Null),
            "deriver": self.deriver.describe(&Value::Null),
            "narHash": sri(self.nar_hash.into()),
            "narSize": self.nar_size,
            "references": texts(&self.references),
            "registrationTime": self.registration_time,
            "signatures": signatures,
            "storeDir": "/nix/store",
            "ultimate": self.ultimate,
            "version": 3,
        })
    }
}

impl Described for PathInfo {
    fn describe(&self, like: &Value) -> Value {
        let mut value = self.info.describe(like);
        value["path"] = self.path.to_string().into();
        value
    }
}

impl Described for BuildResult {
    fn describe(&self, like: &Value) -> Value {
        let success = self.status.is_success();
        let mut value = json!({
            "status": format!("{:?}", self.status),
            "success": success,
            "timesBuilt": self.times_built,
            "startTime": self.start_time,
            "stopTime": self.stop_time,
        });
        if success {
            value["builtOutputs"] = outputs(&self.built_outputs, &like["builtOutputs"]);
        } else {
            value["errorMsg"] = self.error_msg.as_str().into();
            value["isNonDeterministic"] = self.is_non_deterministic.into();
        }
        for (name, time) in [("cpuUser", self.cpu_user), ("cpuSystem", self.cpu_system)] {
            if let Some(time) = time {
                value[name] = time.into();
            }
        }
        value
    }
}

/// The older form is described in full only where the vector has it in full.
fn outputs(outputs: &BuiltOutputs, like: &Value) -> Value {
    let unsigned = |path: &StorePath| json!({"outPath": path.to_string(), "signatures": []});
    let entries = match outputs {
        BuiltOutputs::Named(map) => map
            .iter()
            .map(|(name, value)| (name.to_string(), value.describe(like)))
            .collect(),
        BuiltOutputs::Hashed(map) => {
            let entry = |(key, value): (&DrvOutput, &Realisation)| {
                let name = key.output.to_string();
                let full = like[&name].get("id").is_some();
                let value = if full {
                    value.describe(like)
                } else {
                    unsigned(&value.out_path)
                };
                (name, value)
            };
            map.iter().map(entry).collect::<serde_json::Map<_, _>>()
        }
    };
    entries.into()
}

impl Described for KeyedBuildResult {
    fn describe(&self, like: &Value) -> Value {
        let mut value = self.result.describe(like);
        value["path"] = self.path.describe(like);
        value
    }
}
