//! What became of a derivation, in the words every surface uses.

use serde::{Deserialize, Serialize};

/// Why an attempt did not succeed.
///
/// Only [`Build`](Self::Build) and [`HashMismatch`](Self::HashMismatch) say something about the
/// derivation itself and are remembered; the others say something about where or when it was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FailureClass {
    /// The builder failed.
    Build,
    /// A fixed-output derivation produced another hash than it promised.
    HashMismatch,
    /// The builder ran longer, or was silent longer, than allowed.
    Timeout,
    /// The builder printed more than allowed.
    LogLimit,
    /// No configured store offers the derivation's system and features.
    Unsupported,
    /// The store, not the derivation: connection lost, disk full, killed.
    Store,
}

impl FailureClass {
    /// Every class, in the order in which surfaces list them.
    pub const ALL: [Self; 6] = [
        Self::Build,
        Self::HashMismatch,
        Self::Timeout,
        Self::LogLimit,
        Self::Unsupported,
        Self::Store,
    ];

    /// Whether the failure belongs to the derivation and is remembered until it expires or is restarted.
    #[must_use]
    pub fn is_remembered(self) -> bool {
        match self {
            Self::Build | Self::HashMismatch => true,
            Self::Timeout | Self::LogLimit | Self::Unsupported | Self::Store => false,
        }
    }

    /// The words of a sentence: `libfoo (build failed)`.
    #[must_use]
    pub fn words(self) -> &'static str {
        match self {
            Self::Build => "build failed",
            Self::HashMismatch => "hash mismatch",
            Self::Timeout => "timed out",
            Self::LogLimit => "log too long",
            Self::Unsupported => "no store offers its system or features",
            Self::Store => "store failed",
        }
    }
}

/// How a derivation's outputs came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Success {
    /// Built by an attempt of ours.
    Built,
    /// Fetched by the store from one of its substituters.
    Substituted,
    /// The store had them already.
    AlreadyValid,
}

/// What a job, or the derivation behind it, has come to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum Outcome {
    /// Waits, for the stated reason.
    Queued {
        /// Why it waits, in words: "waits for 3 builds", "no free slot on `auto`".
        reason: String,
    },
    /// Its closure is on the way to the store that shall build it.
    Forwarding,
    /// An attempt is running.
    Building,
    /// The outputs exist.
    Succeeded {
        /// How they came to be.
        how: Success,
    },
    /// The last attempt failed and nothing more will be tried by itself.
    Failed {
        /// In which way.
        class: FailureClass,
    },
    /// It cannot be built because derivations below it failed: the root causes, never intermediates.
    Blocked {
        /// Full store paths of the failed derivations, sorted.
        by: Vec<String>,
    },
    /// Somebody cancelled it.
    Cancelled,
    /// There is no derivation: the attribute failed to evaluate.
    EvaluationError {
        /// What the evaluator said, without ANSI escapes.
        message: String,
    },
}

impl Outcome {
    /// Whether nothing more will happen by itself.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Queued { .. } | Self::Forwarding | Self::Building => false,
            Self::Succeeded { .. }
            | Self::Failed { .. }
            | Self::Blocked { .. }
            | Self::Cancelled
            | Self::EvaluationError { .. } => true,
        }
    }

    /// One word, or a few, for a table cell.
    #[must_use]
    pub fn words(&self) -> &'static str {
        match self {
            Self::Queued { .. } => "queued",
            Self::Forwarding => "forwarding",
            Self::Building => "building",
            Self::Succeeded { how: Success::Built } => "built",
            Self::Succeeded {
                how: Success::Substituted,
            } => "substituted",
            Self::Succeeded {
                how: Success::AlreadyValid,
            } => "already valid",
            Self::Failed { class } => class.words(),
            Self::Blocked { .. } => "blocked",
            Self::Cancelled => "cancelled",
            Self::EvaluationError { .. } => "evaluation error",
        }
    }
}
