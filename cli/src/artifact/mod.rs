//! A submission in a file, for jobs that may have no rights: `nixci submit --artifact FILE` writes it where a pull request
//! from a fork is evaluated, and `nixci submit --from-artifact FILE` sends it from a job that may submit.
//!
//! # The file
//!
//! | Part | Bytes |
//! |---|---|
//! | magic | `nixci artifact 1` and a newline; the number is the version of this format |
//! | head's length | a little-endian number of 64 bits |
//! | head | JSON, a [`Head`]: the jobs, what they are about, how many paths follow |
//! | closure | what `AddClosure` carries ([`nixci_store::upload::write`]): one zstd stream of path infos and NARs, references first |
//! | digest | the SHA-256 of all bytes before it |
//!
//! The closure holds derivations and sources, and never an output. All of it is checked as it is read, whatever the digest
//! says, for who wrote the file also wrote that: [`read`] takes nothing into memory without a limit ([`Limits`]), and every
//! path has to be what its name says. The head's words about project and commit are those of a job without rights. They are hints: what
//! counts the daemon takes from the token of whoever sends the file, and asks the forge for.

mod folder;
mod limits;
mod read;
mod write;

use std::collections::BTreeMap;
use std::path::Path;

use nixci_protocol::nixci::control::{NewJob, Submission};
use serde::{Deserialize, Serialize};

pub(crate) use limits::{Limit, Limits};
pub(crate) use read::{Unpacked, read};
pub(crate) use write::write;

/// What every version begins with.
const MAGIC: &[u8] = b"nixci artifact ";
/// The version this writes and reads, and the end of its line.
const VERSION: &[u8] = b"1\n";
/// Whether a file stands for standard input, or output.
pub(crate) fn is_standard(file: &Path) -> bool {
    file.as_os_str() == "-"
}

/// Bytes of the digest.
const DIGEST: u64 = 32;

/// What stands before the closure.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Head {
    /// The directory of all paths.
    pub(crate) store_dir: String,
    /// How many paths the closure has.
    pub(crate) paths: u64,
    /// What the submission says of itself.
    pub(crate) about: Hints,
    /// Its jobs; the derivation of each is in the closure.
    pub(crate) jobs: Vec<NewJob>,
    /// Why the evaluation as a whole failed, if it did.
    pub(crate) error: Option<String>,
}

/// What somebody without rights says of a submission; the fields of [`Submission`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct Hints {
    pub(crate) project: String,
    pub(crate) commit: Option<String>,
    pub(crate) git_ref: Option<String>,
    pub(crate) base: Option<String>,
    pub(crate) pull_request: Option<u64>,
    pub(crate) source: String,
    pub(crate) labels: BTreeMap<String, String>,
}

impl From<Submission> for Hints {
    fn from(said: Submission) -> Self {
        Self {
            project: said.project,
            commit: said.commit,
            git_ref: said.git_ref,
            base: said.base,
            pull_request: said.pull_request,
            source: said.source,
            labels: said.labels,
        }
    }
}

#[cfg(test)]
mod tests;
