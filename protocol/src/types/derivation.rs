use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use super::{OutputName, StorePath};

/// A derivation whose inputs are resolved to paths, as `BuildDerivation` sends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasicDerivation {
    /// Its outputs.
    pub outputs: BTreeMap<OutputName, DerivationOutput>,
    /// The roots of its input closure.
    pub input_srcs: BTreeSet<StorePath>,
    /// The system it builds on.
    pub platform: Bytes,
    /// The program to run.
    pub builder: Bytes,
    /// Its arguments.
    pub args: Vec<Bytes>,
    /// Its environment; structured attributes are the one variable `__json`.
    pub env: BTreeMap<Bytes, Bytes>,
}

/// What is known of an output before it is built, as the wire spells it.
///
/// | kind | path | method and algorithm | hash |
/// |---|---|---|---|
/// | input-addressed | set | empty | empty |
/// | fixed | set | set | hexadecimal |
/// | floating | none | set | empty |
/// | deferred | none | empty | empty |
/// | impure | none | set | `impure` |
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DerivationOutput {
    /// Where it will be, where that is known.
    pub path: Option<StorePath>,
    /// `sha256`, `r:sha256`, `git:…`, `text:…` or empty.
    pub hash_algo: String,
    /// The promised hash in hexadecimal, `impure` or empty.
    pub hash: String,
}
