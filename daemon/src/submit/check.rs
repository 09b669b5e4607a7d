//! What a submission may say of itself.

use nixci_protocol::nixci::control::Submission;

use crate::error::CiError;

/// The longest name, key or label in a submission, in bytes.
const TEXT_BYTES: usize = 4_096;
/// Labels of one submission.
const LABELS: usize = 64;

/// Refuses what cannot be recorded, before anything is.
pub(super) fn check(submission: &Submission) -> Result<(), CiError> {
    if submission.key.is_empty() || submission.project.is_empty() {
        return Err(CiError::Invalid("a submission needs a key and a project".to_owned()));
    }
    let texts = [
        Some(&submission.key),
        Some(&submission.project),
        Some(&submission.source),
    ]
    .into_iter()
    .chain([&submission.commit, &submission.git_ref, &submission.base].map(Option::as_ref))
    .flatten()
    .chain(submission.labels.iter().flat_map(|(name, value)| [name, value]));
    for text in texts {
        if text.len() > TEXT_BYTES {
            return Err(CiError::TooMuch(format!(
                "a text of the submission has {} bytes; at most {TEXT_BYTES} are taken",
                text.len()
            )));
        }
    }
    if submission.labels.len() > LABELS {
        return Err(CiError::TooMuch(format!(
            "the submission has {} labels; at most {LABELS} are taken",
            submission.labels.len()
        )));
    }
    for commit in [&submission.commit, &submission.base].into_iter().flatten() {
        let is_hex = commit.bytes().all(|byte| byte.is_ascii_hexdigit());
        if !is_hex || !matches!(commit.len(), 40 | 64) {
            return Err(CiError::Invalid(format!(
                "`{commit}` is not a commit; give all its hexadecimal digits"
            )));
        }
    }
    Ok(())
}
