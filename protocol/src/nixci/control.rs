//! The control messages: what `nixci` asks the daemon, and what the HTTP API answers with.
//!
//! A [`Request`] is one JSON object with an `op`. Most are answered by one JSON value, named at each
//! variant; [`Request::Watch`] and [`Request::Log`] by a stream of JSON lines. Times are milliseconds
//! since the Unix epoch. Store paths are full paths in the daemon's store directory.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::attr_path::AttrPath;
use super::outcome::Outcome;
use super::verdict::Verdict;

/// Milliseconds since the Unix epoch.
pub type Millis = i64;

/// The number of an evaluation, as in the address of its page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EvaluationId(pub i64);

/// The number of an attempt, as in the address of its log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AttemptId(pub i64);

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Request {
    /// Who are you? → [`Info`]
    Info,
    /// A whole evaluation at once: what [`Self::SubmitBegin`], [`Self::SubmitJobs`] and [`Self::SubmitEnd`] say one after
    /// the other. Recorded whole or not at all. An evaluation of the same [`Submission::key`] that is complete stays
    /// as it is, so it may be said twice; one that still receives gets these jobs and is closed. → [`Submitted`]
    Submit {
        /// What it says of itself.
        submission: Submission,
        /// All of its jobs; their derivations must be valid here.
        jobs: Vec<NewJob>,
        /// Why the evaluation as a whole failed, if it did.
        error: Option<String>,
    },
    /// Opens an evaluation, or finds the one of the same [`Submission::key`]. → [`Begun`]
    SubmitBegin(Submission),
    /// Adds jobs; their derivations must be valid here. A job that is there already stays. → [`Accepted`]
    SubmitJobs {
        /// The evaluation.
        evaluation: EvaluationId,
        /// Its next jobs.
        jobs: Vec<NewJob>,
    },
    /// Says that there are no more jobs. → [`EvaluationSummary`]
    SubmitEnd {
        /// The evaluation.
        evaluation: EvaluationId,
        /// Why the evaluation as a whole failed, if it did.
        error: Option<String>,
    },
    /// The state of one evaluation. → [`EvaluationSummary`]
    Status {
        /// Which.
        which: Selector,
    },
    /// The newest evaluations, newest first. → `Vec<EvaluationSummary>`
    Evaluations {
        /// Only of this project.
        project: Option<String>,
        /// At most so many; the daemon caps it at 1,000.
        limit: u32,
    },
    /// The jobs of one evaluation, by attribute path. → `Vec<JobStatus>`
    Jobs {
        /// Which.
        which: Selector,
    },
    /// What an evaluation says, alone or against a base. → [`Verdict`]
    Verdict {
        /// The evaluation in question.
        head: Selector,
        /// What it is compared with; where none is given, the commit that the submission named, if that is known.
        base: Option<Selector>,
    },
    /// Follows an evaluation to its end. → stream of [`Event`]
    Watch {
        /// Which.
        which: Selector,
    },
    /// The log of a derivation's last attempt, or of the attempt given. → stream of [`LogEvent`]
    Log {
        /// Whose.
        of: LogOf,
        /// Whether to go on until a running attempt ends.
        follow: bool,
    },
    /// Forgets failures and tries again. → [`Changed`]
    Restart {
        /// What.
        what: Target,
    },
    /// Stops what nobody else wants. → [`Changed`]
    Cancel {
        /// What.
        what: Target,
    },
    /// The stores builds run on, and whether they answer. → `Vec<StoreStatus>`
    Stores,
    /// Everything that is known of one derivation. → [`BuildDetail`]
    Build {
        /// The full path of the derivation.
        drv_path: String,
    },
    /// The projects, by name. → `Vec<ProjectSummary>`
    Projects,
    /// What is shown of an evaluation on forges, and what they have of it. → `Vec<StatusReport>`
    Report {
        /// Which.
        which: Selector,
        /// Whether to send all of it again first, also what a forge has refused.
        again: bool,
    },
    /// The forges that are told, asked now whether they know the daemon, and what they do not take. → `Vec<ForgeStatus>`
    Forges,
    /// The issuers whose jobs are let in, asked now for their keys. → [`Vec<IssuerStatus>`](super::issuer::IssuerStatus)
    Issuers,
    /// Forgets old evaluations and collects what nobody needs of the daemon's own spool; only for users it trusts.
    /// → [`Collected`]
    CollectGarbage {
        /// Only says what would be collected.
        dry_run: bool,
    },
}

/// Who answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Info {
    /// Version of nixci: the number, then after a space, where it is known, what it was built from.
    pub version: String,
    /// The store directory whose paths it takes, `/nix/store` by default.
    pub store_dir: String,
    /// The address of its pages, without a trailing slash; none when HTTP is off.
    pub pages: Option<String>,
    /// Who the daemon takes the caller for: `uid:0`, `embedded`.
    pub principal: String,
    /// Whether the caller may upload what carries no proof of its content.
    pub trusted: bool,
}

/// What a submission says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Submission {
    /// Chosen by the client at random; the same key finds the same evaluation, so that a submission
    /// survives a lost connection or a restarted daemon.
    pub key: String,
    /// The project, `owner/name` on a forge or the name of a folder.
    pub project: String,
    /// The commit, forty hexadecimal digits, where there is one.
    pub commit: Option<String>,
    /// The branch or tag, without `refs/heads/`.
    pub git_ref: Option<String>,
    /// The commit to compare with.
    pub base: Option<String>,
    /// The number of the pull request.
    pub pull_request: Option<u64>,
    /// What was evaluated, as typed: `.#checks`, `--file ci.nix`.
    pub source: String,
    /// Anything else, shown as it is.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// One job of a submission.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NewJob {
    /// Its identity.
    pub attr: AttrPath,
    /// What the attribute evaluated to.
    pub result: Evaluated,
}

/// What an attribute evaluated to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Evaluated {
    /// The full path of a `.drv`.
    Drv(String),
    /// An evaluation error, without ANSI escapes.
    Error(String),
}

/// Answer to [`Request::SubmitBegin`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Begun {
    /// The evaluation.
    pub evaluation: EvaluationId,
    /// The address of its page.
    pub page: Option<String>,
    /// Whether it was begun before, by the same key.
    pub resumed: bool,
}

/// Answer to [`Request::Submit`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Submitted {
    /// Where it stands.
    pub summary: EvaluationSummary,
    /// Whether it was begun before, by the same key.
    pub resumed: bool,
}

/// Answer to [`Request::SubmitJobs`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Accepted {
    /// Jobs in the evaluation now.
    pub jobs: u64,
}

/// Answer to [`Request::Restart`] and [`Request::Cancel`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Changed {
    /// Builds that were restarted or cancelled.
    pub builds: u64,
}

/// Answer to [`Request::CollectGarbage`]: what is gone, or would be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Collected {
    /// Evaluations that were old enough.
    pub evaluations: u64,
    /// Attempts whose failures and logs only they were about; not counted where nothing is deleted.
    pub attempts: u64,
    /// Bytes of those logs.
    pub log_bytes: u64,
    /// Objects of the spool that nobody needed.
    pub objects: u64,
    /// Objects that were there before.
    pub objects_before: u64,
    /// Bytes of their NARs.
    pub nar_bytes: u64,
    /// Bytes of the disk they took; about so many where nothing is deleted.
    pub disk_bytes: u64,
    /// How long it took.
    pub duration_ms: u64,
}

/// Names one evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// By number.
    Evaluation(EvaluationId),
    /// The newest of a commit; a prefix of at least seven digits will do if it is the only one.
    Commit {
        /// Only of this project.
        project: Option<String>,
        /// The commit or its prefix.
        commit: String,
    },
    /// The newest of a project, or of all.
    Latest {
        /// The project.
        project: Option<String>,
    },
}

/// What [`Request::Restart`] and [`Request::Cancel`] act on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Everything of an evaluation that failed (restart) or is not finished (cancel).
    Evaluation(Selector),
    /// One derivation, by its full path.
    Derivation(String),
}

/// Whose log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogOf {
    /// The last attempt at this derivation (full path).
    Derivation(String),
    /// The last attempt at the derivation of this job; of its first root cause where it is blocked.
    Job {
        /// The evaluation.
        which: Selector,
        /// The job.
        attr: AttrPath,
    },
    /// This attempt.
    Attempt(AttemptId),
}

/// Where an evaluation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EvaluationState {
    /// Jobs still arrive.
    Receiving,
    /// All jobs are known; some are not final.
    Building,
    /// Every job is final.
    Done,
    /// Cancelled as a whole; jobs that were final stay so.
    Cancelled,
    /// The client went away before it said that there are no more jobs, and did not return in time.
    Abandoned,
}

/// How many jobs have come to what.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// All of them.
    pub jobs: u64,
    /// Outputs exist.
    pub succeeded: u64,
    /// Failed by themselves.
    pub failed: u64,
    /// Blocked by a root cause.
    pub blocked: u64,
    /// Failed to evaluate.
    pub evaluation_errors: u64,
    /// Cancelled.
    pub cancelled: u64,
    /// An attempt is running.
    pub building: u64,
    /// Waiting, or on the way to a store.
    pub queued: u64,
}

/// One evaluation in a list, and the head of its page.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EvaluationSummary {
    /// Its number.
    pub evaluation: EvaluationId,
    /// Its project.
    pub project: String,
    /// Its commit.
    pub commit: Option<String>,
    /// Its branch or tag.
    pub git_ref: Option<String>,
    /// The commit it asked to be compared with.
    pub base: Option<String>,
    /// The number of its pull request.
    pub pull_request: Option<u64>,
    /// What was evaluated.
    pub source: String,
    /// Where it stands.
    pub state: EvaluationState,
    /// Why the evaluation as a whole failed, if it did.
    pub error: Option<String>,
    /// When it was begun.
    pub created: Millis,
    /// When its last job became final.
    pub ended: Option<Millis>,
    /// What its jobs have come to.
    pub counts: Counts,
    /// The address of its page.
    pub page: Option<String>,
}

/// One job and what it has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// Its identity.
    pub attr: AttrPath,
    /// Full path of its derivation; none after an evaluation error.
    pub drv_path: Option<String>,
    /// What it has come to.
    pub outcome: Outcome,
    /// How long its last attempt took.
    pub duration_ms: Option<i64>,
    /// The last attempt, whose log can be asked for.
    pub attempt: Option<AttemptId>,
}

/// A build that is running now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunningBuild {
    /// Full path of the derivation.
    pub drv_path: String,
    /// Where it runs.
    pub store: String,
    /// Since when.
    pub started: Millis,
    /// Its phase, where the builder names one.
    pub phase: Option<String>,
    /// The last line it printed, without ANSI escapes, at most 200 characters.
    pub last_line: Option<String>,
    /// The attempt.
    pub attempt: AttemptId,
}

/// What happens to an evaluation while it is watched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum Event {
    /// Where it stands: sent first, and then at most ten times a second when anything changed.
    Progress {
        /// The summary.
        summary: EvaluationSummary,
        /// What of it runs now, oldest first, at most 32.
        running: Vec<RunningBuild>,
        /// Builds that are wanted and not final, dependencies of jobs included.
        builds_left: u64,
    },
    /// A job became final. Jobs that were final when the watch began are sent too, once.
    Job(JobStatus),
    /// Nothing more will happen by itself; the last event.
    Done {
        /// The summary.
        summary: EvaluationSummary,
        /// The verdict, against the submission's base where it named one that is known.
        verdict: Box<Verdict>,
    },
}

/// One piece of a log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case", rename_all_fields = "camelCase")]
pub enum LogEvent {
    /// Whose log this is; sent first.
    Attempt {
        /// The attempt.
        attempt: AttemptId,
        /// Full path of the derivation.
        drv_path: String,
        /// Where it ran.
        store: String,
        /// When it began.
        started: Millis,
    },
    /// A line as it was printed, without its newline, ANSI escapes kept.
    Line {
        /// The line.
        text: String,
    },
    /// The builder entered a phase.
    Phase {
        /// Its name.
        name: String,
    },
    /// The attempt ended; the last event, unless a running attempt was not followed.
    End {
        /// What the derivation has come to.
        outcome: Outcome,
    },
}

/// One store builds run on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoreStatus {
    /// Its name in the configuration.
    pub name: String,
    /// Its URI.
    pub uri: String,
    /// Builds it may run at once.
    pub slots: u32,
    /// Builds it runs now.
    pub running: u32,
    /// The version it told, when it answered.
    pub version: Option<String>,
    /// The protocol that was negotiated, `1.38`.
    pub protocol: Option<String>,
    /// What is wrong with it, and what to do.
    pub error: Option<String>,
    /// Known holes that its Nix has, by the version it told.
    #[serde(default)]
    pub advisories: Vec<Advisory>,
}

/// A hole in the Nix of a store that was made known, and mended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Advisory {
    /// Its number or numbers, `CVE-2026-39860`.
    pub id: String,
    /// What somebody could do.
    pub what: String,
    /// The nearest release without it.
    pub fixed_in: String,
    /// False where no advisory says whether the branch of this release was mended too.
    pub certain: bool,
}

impl Advisory {
    /// In one line.
    #[must_use]
    pub fn line(&self) -> String {
        let Self {
            id,
            what,
            fixed_in,
            certain,
        } = self;
        let doubt = if *certain {
            ""
        } else {
            ", unless its branch was mended, which no advisory says"
        };
        format!("{id}{doubt}: {what}; mended in {fixed_in}")
    }
}

/// Everything that is known of one derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildDetail {
    /// Its full path.
    pub drv_path: String,
    /// Its name without hash and `.drv`.
    pub name: String,
    /// The system it is built on.
    pub system: String,
    /// Features that a store must offer to build it.
    pub features: Vec<String>,
    /// What it has come to.
    pub outcome: Outcome,
    /// Derivations it needs directly, those that are not fine first.
    pub inputs: Vec<InputStatus>,
    /// Its outputs.
    pub outputs: Vec<OutputDetail>,
    /// The tries, newest first.
    pub attempts: Vec<AttemptSummary>,
    /// Jobs that evaluated to it, newest evaluation first, at most 100.
    pub used_by: Vec<BuildUse>,
    /// Derivations that need it directly.
    pub dependents: u64,
}

/// A derivation that another one needs, and what it has come to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InputStatus {
    /// Its full path.
    pub drv_path: String,
    /// What it has come to.
    pub outcome: Outcome,
}

/// One output of a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutputDetail {
    /// `out`, `dev`, …
    pub name: String,
    /// Its full path; none where only the build tells it.
    pub path: Option<String>,
    /// Bytes of its NAR, once it was seen.
    pub nar_size: Option<u64>,
}

/// One try at a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AttemptSummary {
    /// Its number.
    pub attempt: AttemptId,
    /// The store it ran on.
    pub store: String,
    /// When it began.
    pub started: Millis,
    /// When it ended; none while it runs.
    pub ended: Option<Millis>,
    /// What it came to.
    pub outcome: Outcome,
    /// What the store said of its end, without ANSI escapes; empty where it said nothing.
    pub message: String,
}

/// A job that evaluated to a derivation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BuildUse {
    /// The evaluation.
    pub evaluation: EvaluationId,
    /// Its project.
    pub project: String,
    /// Its commit.
    pub commit: Option<String>,
    /// The job.
    pub attr: AttrPath,
}

/// One project in a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProjectSummary {
    /// Its name.
    pub project: String,
    /// Its newest evaluation.
    pub latest: Option<EvaluationSummary>,
    /// The address of its page.
    pub page: Option<String>,
}
