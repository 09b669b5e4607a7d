//! What a verdict is made of and what it says.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::nixci::attr_path::AttrPath;
use crate::nixci::control::{AttemptId, EvaluationId, EvaluationState};
use crate::nixci::outcome::{FailureClass, Outcome};

/// Where a job of head stands against base. The order is that of the reader's interest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Bucket {
    /// Was fine on base, is not on head.
    NewlyFailing,
    /// Not on base, fails on head.
    AddedFailing,
    /// Fails and there is no base to compare with, or base does not say.
    Failing,
    /// Failed on both.
    StillFailing,
    /// Failed on base, is fine on head.
    Fixed,
    /// Head has no answer: the store failed, timed out, no store offers it, cancelled.
    NotAnswered,
    /// Head is not final yet.
    Running,
    /// Fine on head, and not known on base.
    Ok,
    /// Fine on both, from different derivations.
    StillOk,
    /// Not on base, fine on head.
    AddedOk,
    /// The same derivation on both sides, and fine.
    Unchanged,
    /// On base, not on head.
    Removed,
}

/// Whether it may be merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Conclusion {
    /// Everything is answered and nothing is newly wrong.
    Success,
    /// Something that counts against head failed.
    Failure,
    /// Nothing failed, but not everything was answered.
    Incomplete,
    /// Not final yet.
    Running,
}

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Side {
    /// The evaluation.
    pub evaluation: EvaluationId,
    /// Its project.
    pub project: String,
    /// Its commit.
    pub commit: Option<String>,
    /// Its jobs.
    pub jobs: u64,
}

/// One job in a verdict.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// The job.
    pub attr: AttrPath,
    /// Where it stands.
    pub bucket: Bucket,
    /// Its outcome on head; none where it was removed.
    pub head: Option<Outcome>,
    /// Its outcome on base; none where it was added or there is no base.
    pub base: Option<Outcome>,
    /// Full path of its derivation on head.
    pub drv_path: Option<String>,
}

/// A failed derivation and what waits on it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RootCause {
    /// Full path of the derivation.
    pub drv_path: String,
    /// Its name without hash and `.drv`.
    pub name: String,
    /// In which way it failed.
    pub class: FailureClass,
    /// What the store said, first line first, without ANSI escapes.
    pub message: String,
    /// The last lines it printed, ANSI escapes kept; at most 20.
    pub log_tail: Vec<String>,
    /// The attempt that failed; none where nothing was tried, as when no store offers its system.
    pub attempt: Option<AttemptId>,
    /// Jobs that it blocks, itself not counted.
    pub blocks: u64,
    /// The job that is this derivation, if one is.
    pub attr: Option<AttrPath>,
    /// Whether it failed on base too.
    pub on_base: bool,
}

/// What an evaluation says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Verdict {
    /// The evaluation in question.
    pub head: Side,
    /// What it is compared with.
    pub base: Option<Side>,
    /// Whether it may be merged.
    pub conclusion: Conclusion,
    /// The verdict in one sentence, the same on every surface.
    pub sentence: String,
    /// How many jobs are in each bucket; empty buckets are left out.
    pub counts: BTreeMap<Bucket, u64>,
    /// The rows that are not `Unchanged`, `StillOk`, `AddedOk` or `Ok`: by bucket, then by attribute.
    pub rows: Vec<Row>,
    /// The failed derivations, those that block most first.
    pub root_causes: Vec<RootCause>,
    /// Why the evaluation as a whole failed, if it did.
    pub error: Option<String>,
}

/// One side of a comparison, as the index and the scheduler know it: what [`verdict`](super::verdict) reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SideInput {
    /// The evaluation.
    pub evaluation: EvaluationId,
    /// Its project.
    pub project: String,
    /// Its commit.
    pub commit: Option<String>,
    /// Where it stands: it decides whether a missing job is known to be missing.
    pub state: EvaluationState,
    /// Why the evaluation as a whole failed, if it did.
    pub error: Option<String>,
    /// Its jobs, in any order; each attribute path at most once.
    pub jobs: Vec<JobInput>,
}

/// One job of a side.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobInput {
    /// Its identity.
    pub attr: AttrPath,
    /// Full path of its derivation; none after an evaluation error.
    pub drv_path: Option<String>,
    /// What it has come to.
    pub outcome: Outcome,
}

/// A failed derivation, before it is known what it blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// Full path of the derivation.
    pub drv_path: String,
    /// In which way it failed.
    pub class: FailureClass,
    /// What the store said, first line first, without ANSI escapes.
    pub message: String,
    /// The last lines it printed, ANSI escapes kept; at most 20.
    pub log_tail: Vec<String>,
    /// The attempt that failed.
    pub attempt: Option<AttemptId>,
}
