//! Where a submission comes from: project, commit, ref, base and pull request.
//!
//! A CI says so in its environment ([`github`], [`gitlab`]; Forgejo and Gitea Actions speak GitHub's
//! words); elsewhere git is asked ([`git`]). What the user says on the command line wins over both.

mod git;
mod github;
mod gitlab;

use std::collections::BTreeMap;
use std::path::Path;

use crate::args::About;

pub(crate) use git::{project_of_url, resolve};
pub(crate) use github::RUN_ID;

/// The label that says that somebody wants this commit built also where its pull request is closed or has moved on, as
/// when a job is run again. The daemon cancels others at once.
pub(crate) const AGAIN: &str = "again";

/// What is known about where a submission comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Context {
    /// `owner/name` on a forge, else the name of a folder.
    pub(crate) project: Option<String>,
    /// The commit whose checks these are.
    pub(crate) commit: Option<String>,
    /// The branch or tag, without `refs/heads/`.
    pub(crate) git_ref: Option<String>,
    /// The commit to compare with.
    pub(crate) base: Option<String>,
    /// The number of the pull request.
    pub(crate) pull_request: Option<u64>,
    /// Anything else worth showing.
    pub(crate) labels: BTreeMap<String, String>,
}

/// The CI this process runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ci {
    /// GitHub Actions, and Forgejo and Gitea Actions, which read the same workflow commands.
    Actions,
    /// GitLab CI.
    GitLab,
}

/// Reads one environment variable; empty counts as absent, since CIs set what they do not know to "".
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The environment of this process.
pub(crate) fn process_env(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

impl Ci {
    /// The CI that `env` speaks of.
    pub(crate) fn detect(env: Env<'_>) -> Option<Self> {
        let is_true = |name: &str| env(name).is_some_and(|value| value == "true" || value == "1");
        if ["GITHUB_ACTIONS", "FORGEJO_ACTIONS", "GITEA_ACTIONS"]
            .into_iter()
            .any(is_true)
        {
            Some(Self::Actions)
        } else if is_true("GITLAB_CI") {
            Some(Self::GitLab)
        } else {
            None
        }
    }
}

impl Context {
    /// What the CI's environment says, else what git says about `dir`. Blocks: it may start git.
    pub(crate) fn detect(env: Env<'_>, dir: &Path) -> Self {
        match Ci::detect(env) {
            Some(_) => Self::of_ci(env),
            None => git::context(dir),
        }
    }

    /// What the CI's environment says; nothing elsewhere. Blocks: it may read the event's file.
    pub(crate) fn of_ci(env: Env<'_>) -> Self {
        match Ci::detect(env) {
            Some(Ci::Actions) => github::context(env, &|path| std::fs::read_to_string(path).ok()),
            Some(Ci::GitLab) => gitlab::context(env),
            None => Self::default(),
        }
    }

    /// With the user's own words in place of what was found.
    ///
    /// A pull request or base that was found belongs to the commit that was found: when the user names
    /// another commit, they go.
    pub(crate) fn overridden(mut self, about: &About) -> Self {
        if about.commit.is_some() && about.commit != self.commit {
            self.base = None;
            self.pull_request = None;
            self.labels.remove(git::DIRTY);
        }
        self.project = about.project.clone().or(self.project);
        self.commit = about.commit.clone().or(self.commit);
        self.git_ref = about.git_ref.clone().or(self.git_ref);
        self.base = about.base.clone().or(self.base);
        self.pull_request = about.pull_request.or(self.pull_request);
        if about.again {
            self.labels.insert(AGAIN.to_owned(), "asked for".to_owned());
        }
        self.labels.extend(about.labels.iter().cloned());
        self
    }
}

/// A branch or tag as people write it.
fn short_ref(full: &str) -> String {
    let short = full
        .strip_prefix("refs/heads/")
        .or_else(|| full.strip_prefix("refs/tags/"));
    short.unwrap_or(full).to_owned()
}

/// A commit, unless it is the forty zeros that mean "none".
fn real_commit(text: String) -> Option<String> {
    (!text.is_empty() && text.chars().any(|c| c != '0')).then_some(text)
}

#[cfg(test)]
mod tests;
