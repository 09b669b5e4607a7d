//! Folded parts of a CI's log.

use crate::context::Ci;
use crate::render::now;

/// How a CI is told that lines belong together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fold {
    /// It is not; a title is a line.
    None,
    /// `::group::`, in GitHub, Forgejo and Gitea Actions.
    Actions,
    /// Section markers, in GitLab CI.
    GitLab,
}

impl Fold {
    /// How this CI folds.
    pub(crate) fn for_ci(ci: Option<Ci>) -> Self {
        match ci {
            None => Self::None,
            Some(Ci::Actions) => Self::Actions,
            Some(Ci::GitLab) => Self::GitLab,
        }
    }

    /// The line that opens a part. `id` is of letters, digits and underscores.
    pub(crate) fn open(self, id: &str, title: &str) -> String {
        match self {
            Self::None => String::new(),
            Self::Actions => format!("::group::{title}\n"),
            Self::GitLab => format!(
                "\x1b[0Ksection_start:{}:{id}[collapsed=true]\r\x1b[0K{title}\n",
                now() / 1000
            ),
        }
    }

    /// The line that closes it.
    pub(crate) fn close(self, id: &str) -> String {
        match self {
            Self::None => String::new(),
            Self::Actions => "::endgroup::\n".to_owned(),
            Self::GitLab => format!("\x1b[0Ksection_end:{}:{id}\r\x1b[0K\n", now() / 1000),
        }
    }
}
