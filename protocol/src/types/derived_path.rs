use std::collections::BTreeSet;
use std::fmt;

use super::store_path::shorten;
use super::{DrvPath, OutputName, StoreDir, StoreDirError, StorePath, StorePathError};

/// How many `!` a derived path may nest, a guard against hostile depth.
const MAX_DEPTH: usize = 16;

/// A store path, or one output of a derivation that may itself be an output.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SingleDerivedPath {
    /// The path itself.
    Opaque(StorePath),
    /// An output of what `drv` stands for.
    Built {
        /// The derivation.
        drv: Box<SingleDerivedPath>,
        /// Its output.
        output: OutputName,
    },
}

/// Which outputs.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OutputsSpec {
    /// All of them: `*`.
    All,
    /// These; never empty.
    Names(BTreeSet<OutputName>),
}

/// What a build request asks for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum DerivedPath {
    /// Make this path valid; a `.drv` stands for the file itself.
    Opaque(StorePath),
    /// Build these outputs.
    Built {
        /// The derivation.
        drv: SingleDerivedPath,
        /// Its outputs.
        outputs: OutputsSpec,
    },
}

/// Why a text is not a derived path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DerivedPathError {
    /// The path in front is not one.
    #[error("derived path {text:?}: {error}")]
    Path {
        /// The text.
        text: String,
        /// What is wrong with its path.
        error: StoreDirError,
    },
    /// An output name is not one.
    #[error("derived path {text:?}: {error}")]
    Output {
        /// The text.
        text: String,
        /// What is wrong with its output name.
        error: StorePathError,
    },
    /// Too many `!`.
    #[error("derived path {0:?} nests more than {MAX_DEPTH} derivations")]
    Depth(String),
}

impl DerivedPath {
    /// All outputs of a derivation: `D!*`.
    #[must_use]
    pub fn all_outputs(drv: &DrvPath) -> Self {
        Self::Built {
            drv: SingleDerivedPath::Opaque(drv.path().clone()),
            outputs: OutputsSpec::All,
        }
    }

    /// Reads the form of 1.30 and later: `P`, `D!*`, `D!out,dev`, `D!out!bin`.
    pub fn parse(dir: &StoreDir, text: &str) -> Result<Self, DerivedPathError> {
        let Some((drv, outputs)) = text.rsplit_once('!') else {
            return opaque(dir, text, text).map(Self::Opaque);
        };
        let outputs = if outputs == "*" {
            OutputsSpec::All
        } else {
            OutputsSpec::Names(
                outputs
                    .split(',')
                    .map(|name| output_name(name, text))
                    .collect::<Result<_, _>>()?,
            )
        };
        let drv = SingleDerivedPath::parse_in(dir, drv, text)?;
        Ok(Self::Built { drv, outputs })
    }

    /// Reads the form before 1.30, where a bare `.drv` stands for all its outputs.
    pub fn parse_legacy(dir: &StoreDir, text: &str) -> Result<Self, DerivedPathError> {
        match Self::parse(dir, text)? {
            Self::Opaque(path) if path.is_derivation() => Ok(Self::Built {
                drv: SingleDerivedPath::Opaque(path),
                outputs: OutputsSpec::All,
            }),
            other => Ok(other),
        }
    }

    /// The form of 1.30 and later.
    #[must_use]
    pub fn to_text(&self, dir: &StoreDir) -> String {
        match self {
            Self::Opaque(path) => dir.display(path).to_string(),
            Self::Built { drv, outputs } => format!("{}!{outputs}", drv.to_text(dir)),
        }
    }

    /// The form before 1.30. It cannot say "the `.drv` file itself": such a request becomes its outputs.
    #[must_use]
    pub fn to_legacy_text(&self, dir: &StoreDir) -> String {
        match self {
            Self::Built {
                drv: SingleDerivedPath::Opaque(drv),
                outputs: OutputsSpec::All,
            } => dir.display(drv).to_string(),
            Self::Opaque(_) | Self::Built { .. } => self.to_text(dir),
        }
    }
}

impl SingleDerivedPath {
    /// Reads `P` or `D!out!bin`.
    pub fn parse(dir: &StoreDir, text: &str) -> Result<Self, DerivedPathError> {
        Self::parse_in(dir, text, text)
    }

    fn parse_in(dir: &StoreDir, part: &str, text: &str) -> Result<Self, DerivedPathError> {
        let mut parts = part.split('!');
        let path = opaque(dir, parts.next().unwrap_or_default(), text)?;
        let mut this = Self::Opaque(path);
        for (depth, name) in parts.enumerate() {
            if depth == MAX_DEPTH {
                return Err(DerivedPathError::Depth(shorten(text)));
            }
            this = Self::Built {
                drv: Box::new(this),
                output: output_name(name, text)?,
            };
        }
        Ok(this)
    }

    /// `P` or `D!out!bin`.
    #[must_use]
    pub fn to_text(&self, dir: &StoreDir) -> String {
        match self {
            Self::Opaque(path) => dir.display(path).to_string(),
            Self::Built { drv, output } => format!("{}!{output}", drv.to_text(dir)),
        }
    }

    /// The store path everything begins with.
    #[must_use]
    pub fn root(&self) -> &StorePath {
        match self {
            Self::Opaque(path) => path,
            Self::Built { drv, .. } => drv.root(),
        }
    }
}

fn opaque(dir: &StoreDir, path: &str, text: &str) -> Result<StorePath, DerivedPathError> {
    dir.parse(path).map_err(|error| DerivedPathError::Path {
        text: shorten(text),
        error,
    })
}

fn output_name(name: &str, text: &str) -> Result<OutputName, DerivedPathError> {
    name.parse().map_err(|error| DerivedPathError::Output {
        text: shorten(text),
        error,
    })
}

impl fmt::Display for OutputsSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("*"),
            Self::Names(names) => {
                for (i, name) in names.iter().enumerate() {
                    let comma = if i == 0 { "" } else { "," };
                    write!(f, "{comma}{name}")?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-bar.drv";

    #[test]
    fn both_forms_are_read_and_written() {
        let dir = StoreDir::default();
        for tail in ["", "!*", "!out", "!dev,out", "!out!bin", "!a!b!*"] {
            let text = format!("{D}{tail}");
            assert_eq!(DerivedPath::parse(&dir, &text).unwrap().to_text(&dir), text);
            let legacy = DerivedPath::parse_legacy(&dir, &text).unwrap();
            let again = DerivedPath::parse_legacy(&dir, &legacy.to_legacy_text(&dir)).unwrap();
            assert_eq!(again, legacy);
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let dir = StoreDir::default();
        for tail in ["!", "!out,", "!!out", "^out", "!*,out", &"!out".repeat(30)] {
            assert!(DerivedPath::parse(&dir, &format!("{D}{tail}")).is_err(), "{tail}");
        }
    }
}
