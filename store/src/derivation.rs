//! Derivations as the index and the scheduler see them, and how they are read from the bytes of a `.drv`.
//!
//! The grammar is the business of `nix-derivation`; its types end in this file.

use std::collections::BTreeSet;

use nixci_protocol::types::{DrvPath, NotADerivation, StoreDir, StorePath, StorePathError};

/// The feature a builder must have where output paths are only known after the build.
const CONTENT_ADDRESSED: &str = "ca-derivations";

/// What matters of one `.drv`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Derivation {
    /// The path of the `.drv`.
    pub path: StorePath,
    /// Its name, without hash and `.drv`.
    pub name: String,
    /// The system it builds on: `x86_64-linux`, `builtin`.
    pub system: String,
    /// The program that builds it.
    pub builder: String,
    /// System features it requires.
    pub required_features: Vec<String>,
    /// Its outputs, by name.
    pub outputs: Vec<Output>,
    /// The derivations it needs directly.
    pub input_drvs: Vec<StorePath>,
    /// The other paths it needs directly.
    pub input_srcs: Vec<StorePath>,
}

/// One output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Output {
    /// `out`, `dev`.
    pub name: String,
    /// Its path, where it is known before the build.
    pub path: Option<StorePath>,
    /// Whether a hash fixes its content.
    pub is_fixed: bool,
}

/// Why a `.drv` cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path} is not a derivation that can be read: {reason}")]
pub struct DerivationError {
    /// The path of the `.drv`.
    pub path: DrvPath,
    /// What is wrong with its content.
    pub reason: DerivationFault,
}

/// What is wrong with the content of a `.drv`.
#[derive(Debug, thiserror::Error)]
pub enum DerivationFault {
    /// It does not follow the grammar, or names a path that is none.
    #[error(transparent)]
    Content(#[from] nix_derivation::Error),
    /// It names a store path that is none of ours.
    #[error(transparent)]
    Path(#[from] StorePathError),
    /// It names an input derivation that is none.
    #[error(transparent)]
    Input(#[from] NotADerivation),
    /// It has no output, so there is nothing to build.
    #[error("it has no output")]
    NoOutput,
    /// The store directory cannot be that of a derivation.
    #[error(transparent)]
    StoreDir(#[from] nix_derivation::store_path::Error),
}

impl Derivation {
    /// Reads the content of a `.drv`. The content is not compared with the path; that is the spool's business.
    pub fn parse(path: &DrvPath, dir: &StoreDir, content: &[u8]) -> Result<Self, DerivationError> {
        parse(path, dir, content).map_err(|reason| DerivationError {
            path: path.clone(),
            reason,
        })
    }

    /// Everything the `.drv` refers to, and that must be valid before it can be: its input derivations and sources.
    pub fn references(&self) -> impl Iterator<Item = &StorePath> {
        self.input_drvs.iter().chain(&self.input_srcs)
    }
}

/// What building a derivation would take: for the question what would be built.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The derivations it needs directly, and which outputs of each.
    pub inputs: Vec<(StorePath, BTreeSet<String>)>,
    /// Whether it needs outputs of derivations that are outputs themselves.
    pub has_dynamic_inputs: bool,
    /// Whether its outputs may be substituted.
    pub may_be_substituted: bool,
}

impl Recipe {
    /// Reads the content of a `.drv`.
    pub fn parse(path: &DrvPath, dir: &StoreDir, content: &[u8]) -> Result<Self, DerivationError> {
        let read = || {
            let dir = nix_derivation::StoreDir::new(dir.as_str())?;
            let parsed = nix_derivation::Derivation::from_aterm_bytes_in(content, path.name(), dir)?;
            let mut inputs = Vec::with_capacity(parsed.input_derivations().len());
            let mut has_dynamic_inputs = false;
            for (input, wanted) in parsed.input_derivations() {
                has_dynamic_inputs |= !wanted.dynamic_outputs().is_empty();
                inputs.push((ours(input)?, wanted.outputs().clone()));
            }
            Ok(Self {
                inputs,
                has_dynamic_inputs,
                may_be_substituted: may_be_substituted(&parsed),
            })
        };
        read().map_err(|reason| DerivationError {
            path: path.clone(),
            reason,
        })
    }
}

/// `allowSubstitutes`, which is on unless set otherwise.
fn may_be_substituted(parsed: &nix_derivation::Derivation) -> bool {
    const KEY: &str = "allowSubstitutes";
    if let Some(attributes) = parsed.structured_attrs() {
        return attributes.get(KEY).and_then(serde_json::Value::as_bool).unwrap_or(true);
    }
    parsed.environment().get(KEY).is_none_or(|value| value == b"1")
}

fn parse(path: &DrvPath, dir: &StoreDir, content: &[u8]) -> Result<Derivation, DerivationFault> {
    let dir = nix_derivation::StoreDir::new(dir.as_str())?;
    let parsed = nix_derivation::Derivation::from_aterm_bytes_in(content, path.name(), dir.clone())?;
    let mut outputs = Vec::with_capacity(parsed.outputs().len());
    for (name, output) in parsed.outputs() {
        outputs.push(Output {
            name: name.clone(),
            path: output
                .path_in(&dir, path.name(), name)?
                .map(|path| ours(&path))
                .transpose()?,
            is_fixed: output.fixed_content_address().is_some(),
        });
    }
    if outputs.is_empty() {
        return Err(DerivationFault::NoOutput);
    }
    let mut input_drvs = Vec::with_capacity(parsed.input_derivations().len());
    for input in parsed.input_derivations().keys() {
        input_drvs.push(DrvPath::try_from(ours(input)?)?.into_path());
    }
    let input_srcs = parsed.input_sources().iter().map(ours).collect::<Result<_, _>>()?;
    let mut required_features = required_features(&parsed);
    if outputs.iter().any(|output| output.path.is_none()) {
        required_features.push(CONTENT_ADDRESSED.to_owned());
    }
    required_features.sort();
    required_features.dedup();
    Ok(Derivation {
        path: path.path().clone(),
        name: path.name().to_owned(),
        system: parsed.system().to_owned(),
        builder: parsed.builder().to_owned(),
        required_features,
        outputs,
        input_drvs,
        input_srcs,
    })
}

fn ours(path: &nix_derivation::StorePath) -> Result<StorePath, StorePathError> {
    StorePath::new(*path.digest(), path.name())
}

/// `requiredSystemFeatures`: words in the environment, or a list in structured attributes.
fn required_features(parsed: &nix_derivation::Derivation) -> Vec<String> {
    const KEY: &str = "requiredSystemFeatures";
    if let Some(attributes) = parsed.structured_attrs() {
        let list = attributes.get(KEY).and_then(serde_json::Value::as_array);
        return list
            .into_iter()
            .flatten()
            .filter_map(|feature| feature.as_str().map(str::to_owned))
            .collect();
    }
    let words = parsed
        .environment()
        .get(KEY)
        .map(|value| String::from_utf8_lossy(value));
    words
        .iter()
        .flat_map(|words| words.split_ascii_whitespace())
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q";

    fn parse(content: &str) -> Result<Derivation, DerivationError> {
        let path = format!("{HASH}-thing.drv").parse().unwrap();
        Derivation::parse(&path, &StoreDir::default(), content.replace('H', HASH).as_bytes())
    }

    #[test]
    fn inputs_outputs_and_features_are_found() {
        let drv = parse(
            r#"Derive([("dev","/nix/store/H-thing-dev","",""),("out","/nix/store/H-thing","","")],[("/nix/store/H-a.drv",["out"])],["/nix/store/H-src"],"x86_64-linux","/bin/sh",[],[("requiredSystemFeatures","kvm  big-parallel kvm")])"#,
        )
        .unwrap();
        assert_eq!((drv.name.as_str(), drv.system.as_str()), ("thing", "x86_64-linux"));
        assert_eq!(drv.required_features, ["big-parallel", "kvm"]);
        assert_eq!(
            drv.references().map(ToString::to_string).collect::<Vec<_>>(),
            [format!("{HASH}-a.drv"), format!("{HASH}-src")]
        );
        let outputs = drv
            .outputs
            .iter()
            .map(|o| (o.name.as_str(), o.path.as_ref().map(StorePath::name), o.is_fixed));
        assert_eq!(
            outputs.collect::<Vec<_>>(),
            [("dev", Some("thing-dev"), false), ("out", Some("thing"), false)]
        );
    }

    #[test]
    fn structured_attributes_and_floating_outputs_require_features() {
        let drv = parse(
            r#"Derive([("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",[],[("__json","{\"requiredSystemFeatures\":[\"kvm\"]}")])"#,
        )
        .unwrap();
        assert_eq!(drv.required_features, ["ca-derivations", "kvm"]);
        assert_eq!(
            drv.outputs,
            [Output {
                name: "out".to_owned(),
                path: None,
                is_fixed: false
            }]
        );
    }

    #[test]
    fn a_recipe_says_which_outputs_are_needed_and_whether_others_may_bring_them() {
        let recipe = |environment: &str| {
            let path = format!("{HASH}-thing.drv").parse().unwrap();
            let content = format!(
                r#"Derive([("out","/nix/store/H-thing","","")],[("/nix/store/H-a.drv",["dev","out"])],[],"s","b",[],[{environment}])"#
            );
            Recipe::parse(&path, &StoreDir::default(), content.replace('H', HASH).as_bytes()).unwrap()
        };
        let plain = recipe("");
        let (input, outputs) = &plain.inputs[0];
        assert_eq!(input.name(), "a.drv");
        assert!(outputs.iter().eq(["dev", "out"]) && plain.may_be_substituted && !plain.has_dynamic_inputs);
        for (environment, may) in [
            (r#"("allowSubstitutes","1")"#, true),
            (r#"("allowSubstitutes","")"#, false),
            (r#"("__json","{\"allowSubstitutes\":false}")"#, false),
            (r#"("__json","{\"allowSubstitutes\":true}")"#, true),
        ] {
            assert_eq!(recipe(environment).may_be_substituted, may, "{environment}");
        }
    }

    #[test]
    fn errors_name_the_path_and_the_reason() {
        for (content, reason) in [
            ("Derive([", "byte"),
            (r#"Derive([],[],[],"s","b",[],[])"#, "no output"),
            (
                r#"Derive([("out","/elsewhere/H-thing","","")],[],[],"s","b",[],[])"#,
                "store path",
            ),
            (
                r#"Derive([("out","/nix/store/H-thing","","")],[("/nix/store/H-a",["out"])],[],"s","b",[],[])"#,
                ".drv",
            ),
        ] {
            let error = parse(content).unwrap_err().to_string();
            assert!(
                error.starts_with(&format!("{HASH}-thing.drv is not a derivation")),
                "{error}"
            );
            assert!(error.contains(reason), "{error}");
        }
    }
}
