use std::collections::BTreeMap;

use super::{DerivedPath, DrvOutput, OutputName, Realisation, StorePath, UnkeyedRealisation};

/// What to do about outputs that exist.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BuildMode {
    /// Nothing.
    #[default]
    Normal,
    /// Rebuild those that are damaged; trusted clients only.
    Repair,
    /// Build again and compare.
    Check,
}

/// How a build ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum BuildStatus {
    /// Built now.
    Built,
    /// Fetched from a substituter.
    Substituted,
    /// Was there.
    AlreadyValid,
    /// The builder failed.
    PermanentFailure,
    /// The derivation cannot be built here.
    InputRejected,
    /// The outputs are not what was promised; a hash mismatch.
    OutputRejected,
    /// The builder may succeed another time.
    TransientFailure,
    /// Unused.
    CachedFailure,
    /// Ran or was silent too long.
    TimedOut,
    /// Anything else.
    MiscFailure,
    /// Something it needs failed.
    DependencyFailed,
    /// Printed too much.
    LogLimitExceeded,
    /// Two builds differed.
    NotDeterministic,
    /// Resolved to a derivation whose outputs were there.
    ResolvesToAlreadyValid,
    /// No substituter has it and it cannot be built.
    NoSubstituters,
}

impl BuildStatus {
    /// Whether the outputs exist now.
    #[must_use]
    pub fn is_success(self) -> bool {
        match self {
            Self::Built | Self::Substituted | Self::AlreadyValid | Self::ResolvesToAlreadyValid => true,
            Self::PermanentFailure
            | Self::InputRejected
            | Self::OutputRejected
            | Self::TransientFailure
            | Self::CachedFailure
            | Self::TimedOut
            | Self::MiscFailure
            | Self::DependencyFailed
            | Self::LogLimitExceeded
            | Self::NotDeterministic
            | Self::NoSubstituters => false,
        }
    }
}

/// The outputs of a build in whichever form the peer knows.
///
/// The forms cannot be turned into each other without the derivation's closure. Towards a peer that
/// knows only the other one, names and paths are kept, and the key's hash is zero, as Nix 2.35 does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BuiltOutputs {
    /// Keyed by derivation hash: peers up to 2.34.
    Hashed(BTreeMap<DrvOutput, Realisation>),
    /// Keyed by name: peers with `realisation-with-path-not-hash`.
    Named(BTreeMap<OutputName, UnkeyedRealisation>),
}

impl BuiltOutputs {
    /// The paths by output name.
    pub fn paths(&self) -> impl Iterator<Item = (&OutputName, &StorePath)> {
        let (hashed, named) = match self {
            Self::Hashed(map) => (Some(map), None),
            Self::Named(map) => (None, Some(map)),
        };
        let hashed = hashed
            .into_iter()
            .flatten()
            .map(|(key, value)| (&key.output, &value.out_path));
        let named = named.into_iter().flatten().map(|(name, value)| (name, &value.out_path));
        hashed.chain(named)
    }
}

impl Default for BuiltOutputs {
    fn default() -> Self {
        Self::Named(BTreeMap::new())
    }
}

impl FromIterator<(OutputName, StorePath)> for BuiltOutputs {
    fn from_iter<T: IntoIterator<Item = (OutputName, StorePath)>>(outputs: T) -> Self {
        let unsigned = |(name, path)| (name, UnkeyedRealisation::unsigned(path));
        Self::Named(outputs.into_iter().map(unsigned).collect())
    }
}

/// What came of building one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BuildResult {
    /// How it ended.
    pub status: BuildStatus,
    /// What went wrong; several lines, ANSI escapes included; empty on success.
    pub error_msg: String,
    /// How often it was built; real servers send 0. Since 1.29.
    pub times_built: u64,
    /// Whether builds differed. Since 1.29.
    pub is_non_deterministic: bool,
    /// Seconds since the epoch, or 0. Since 1.29.
    pub start_time: u64,
    /// Seconds since the epoch, or 0. Since 1.29.
    pub stop_time: u64,
    /// Microseconds. Since 1.37.
    pub cpu_user: Option<u64>,
    /// Microseconds. Since 1.37.
    pub cpu_system: Option<u64>,
    /// What exists now. Since 1.28.
    pub built_outputs: BuiltOutputs,
}

impl BuildResult {
    /// A result with nothing but a status and a message.
    #[must_use]
    pub fn new(status: BuildStatus, error_msg: impl Into<String>) -> Self {
        Self {
            status,
            error_msg: error_msg.into(),
            times_built: 0,
            is_non_deterministic: false,
            start_time: 0,
            stop_time: 0,
            cpu_user: None,
            cpu_system: None,
            built_outputs: BuiltOutputs::default(),
        }
    }
}

/// What came of building one of several things.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyedBuildResult {
    /// What was asked for.
    pub path: DerivedPath,
    /// What came of it.
    pub result: BuildResult,
}
