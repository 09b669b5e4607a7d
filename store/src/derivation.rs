//! Derivations as the index and the scheduler see them.

use nixci_protocol::types::StorePath;

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
