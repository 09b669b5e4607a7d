//! GitLab CI.

use std::collections::BTreeMap;

use super::{AGAIN, Context, Env, real_commit};

/// What the environment says.
///
/// In a merged-results pipeline the checked-out commit is a merge; the commit whose checks these are is
/// the source branch's, and the merge becomes the label `merge`. A job that was started by hand gets the label [`AGAIN`];
/// one that was retried cannot be told from its first try.
pub(super) fn context(env: Env<'_>) -> Context {
    let mut labels = BTreeMap::new();
    if let Some(url) = env("CI_JOB_URL") {
        labels.insert("run".to_owned(), url);
    }
    if env("CI_JOB_MANUAL").is_some_and(|value| value == "true") {
        labels.insert(AGAIN.to_owned(), "started by hand".to_owned());
    }
    let checked_out = env("CI_COMMIT_SHA").and_then(real_commit);
    let source = env("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA").and_then(real_commit);
    if let (Some(merge), Some(_)) = (&checked_out, &source) {
        labels.insert("merge".to_owned(), merge.clone());
    }
    Context {
        project: env("CI_PROJECT_PATH"),
        commit: source.or(checked_out),
        git_ref: env("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME").or_else(|| env("CI_COMMIT_REF_NAME")),
        base: env("CI_MERGE_REQUEST_TARGET_BRANCH_SHA")
            .or_else(|| env("CI_MERGE_REQUEST_DIFF_BASE_SHA"))
            .or_else(|| env("CI_COMMIT_BEFORE_SHA"))
            .and_then(real_commit),
        pull_request: env("CI_MERGE_REQUEST_IID").and_then(|text| text.parse().ok()),
        labels,
    }
}
