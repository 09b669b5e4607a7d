//! What deliveries ask for, in words that are the same for every forge. This is what waits in the queue: bodies are never
//! kept.

use jiff::Timestamp;
use nixci_protocol::nixci::control::Millis;
use serde::{Deserialize, Serialize};

/// The longest name of a repository or a ref that is taken, in bytes; git's own refs are bounded by file names.
const NAME_BYTES: usize = 1_024;

/// What a delivery says, once it is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reading {
    /// Something is to be done.
    Ask(Ask),
    /// Nothing is, and why.
    Nothing(String),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "kebab-case")]
pub(super) enum Ask {
    /// A pull request is as it is told here.
    PullRequest(PullRequest),
    /// A ref was moved.
    Push(Push),
    /// One check run is to run again.
    Rerun(CheckRun),
    /// All of a commit is to run again.
    RerunAll(CheckSuite),
    /// What a check run is of is to stop.
    Cancel(CheckRun),
    /// What we may do at repositories has changed.
    Access(Access),
}

/// A repository of the forge that sent the delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Repository {
    /// `owner/name`, `group/subgroup/name`.
    pub(super) name: String,
    /// The forge's number of it.
    pub(super) id: u64,
}

/// A pull request (merge request) as its forge tells of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PullRequest {
    /// The repository it is to be merged into.
    pub(super) repository: Repository,
    pub(super) number: u64,
    pub(super) head: String,
    pub(super) head_ref: Option<String>,
    pub(super) base: Option<String>,
    pub(super) base_ref: Option<String>,
    pub(super) is_open: bool,
    pub(super) is_fork: bool,
    /// When it was last changed, by the forge's clock; none where it does not say.
    pub(super) changed: Option<Millis>,
    /// Where its head was before, where this says that it moved and the forge says from where.
    pub(super) before: Option<String>,
    /// Whether it was made just now: nothing that was told of it can be older.
    pub(super) is_new: bool,
}

/// A branch or tag was made, moved or removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Push {
    pub(super) repository: Repository,
    pub(super) git_ref: String,
    pub(super) old: Option<String>,
    pub(super) new: Option<String>,
}

/// A check run of ours.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CheckRun {
    pub(super) repository: Repository,
    pub(super) commit: String,
    /// What we have called it.
    pub(super) external_id: String,
    /// The forge's number of it.
    pub(super) remote_id: String,
}

/// All check runs of ours at a commit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CheckSuite {
    pub(super) repository: Repository,
    pub(super) commit: String,
}

/// We were given something at the repositories of an owner.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Access {
    pub(super) owner: String,
}

/// A delivery that was signed rightly and cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(super) struct Malformed(pub(super) String);

impl Malformed {
    pub(super) fn field(name: &str, what: &str) -> Self {
        Self(format!("`{name}` is not {what}"))
    }
}

/// Reads JSON, of which only some fields are looked at.
pub(super) fn json<'b, T: Deserialize<'b>>(body: &'b [u8]) -> Result<T, Malformed> {
    serde_json::from_slice(body).map_err(|error| {
        // Its text may quote the body; where it is and of which kind is enough.
        let what = match error.classify() {
            serde_json::error::Category::Data => "holds a field that is not what the forge documents",
            serde_json::error::Category::Eof => "ends too early",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "is not JSON",
        };
        Malformed(format!(
            "the body {what}, at line {} column {}",
            error.line(),
            error.column()
        ))
    })
}

/// The name of a commit: 40 or 64 digits.
pub(super) fn commit(field: &str, text: &str) -> Result<String, Malformed> {
    let is_commit = matches!(text.len(), 40 | 64) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_commit {
        Ok(text.to_ascii_lowercase())
    } else {
        Err(Malformed::field(field, "the name of a commit"))
    }
}

/// The same, or none for the zeros that stand for no commit, and for nothing at all.
pub(super) fn commit_or_none(field: &str, text: Option<String>) -> Result<Option<String>, Malformed> {
    match text {
        Some(text) if !text.is_empty() && text.bytes().any(|byte| byte != b'0') => commit(field, &text).map(Some),
        Some(_) | None => Ok(None),
    }
}

/// A name that may stand in a row: of a repository, of a ref.
pub(super) fn name(field: &str, text: String) -> Result<String, Malformed> {
    if !text.is_empty() && text.len() <= NAME_BYTES && !text.chars().any(char::is_control) {
        Ok(text)
    } else {
        Err(Malformed::field(field, "a name"))
    }
}

/// A time, in milliseconds since 1970: as most forges write it, and as GitLab writes some, `2017-09-15 16:52:00 UTC`. None
/// where it is neither.
pub(super) fn time(text: &str) -> Option<Millis> {
    let zoned = text.strip_suffix(" UTC").map(|local| format!("{local}Z"));
    let text = zoned.as_deref().unwrap_or(text);
    let stamp: Timestamp = text.parse().ok()?;
    Some(stamp.as_millisecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_forges_write_them() {
        let expected = Some(1_505_494_320_000);
        for text in [
            "2017-09-15T16:52:00Z",
            "2017-09-15 16:52:00 UTC",
            "2017-09-15T18:52:00+02:00",
            "2017-09-15T16:52:00.000Z",
        ] {
            assert_eq!(time(text), expected, "{text}");
        }
        for text in ["", "yesterday", "2017-09-15"] {
            assert_eq!(time(text), None, "{text}");
        }
    }

    #[test]
    fn commits_are_whole_and_zeros_are_none() {
        let sha = "A".repeat(40);
        assert_eq!(commit("head", &sha).unwrap(), "a".repeat(40));
        for text in ["", "abc", &"g".repeat(40), &"0".repeat(41)] {
            commit("head", text).unwrap_err();
        }
        assert_eq!(commit_or_none("before", Some("0".repeat(40))).unwrap(), None);
        assert_eq!(commit_or_none("before", Some(sha)).unwrap(), Some("a".repeat(40)));
        commit_or_none("before", Some("main".to_owned())).unwrap_err();
    }

    #[test]
    fn errors_of_bodies_do_not_quote_them() {
        for body in ["{\"owner\": 7}", "{\"owner\": \"x", "secret", "[[\"secret\"]]"] {
            let error = json::<Access>(body.as_bytes()).unwrap_err().to_string();
            assert!(error.contains("at line 1") && !error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn what_waits_is_read_back() {
        let ask = Ask::RerunAll(CheckSuite {
            repository: Repository {
                name: "a/b".to_owned(),
                id: 7,
            },
            commit: "0".repeat(40),
        });
        let json = serde_json::to_string(&ask).unwrap();
        assert_eq!(serde_json::from_str::<Ask>(&json).unwrap(), ask, "{json}");
    }
}
