//! What an answer that is no success means, and what to do about it.

use super::super::http::Answer;
use super::super::text::line;
use super::super::{Outgoing, Scope, SendError};
use super::GitLab;
use super::status::{State, Status};

/// Whether a 400 says that the job is in this state already, or is past one that it cannot go back to:
/// `Cannot transition status via :run from :running`.
pub(super) fn is_already_so(answer: &Answer, wanted: State) -> bool {
    let said = answer.said();
    if answer.status.as_u16() != 400 {
        return false;
    }
    let Some((_, rest)) = said.split_once("Cannot transition status via :") else {
        return false;
    };
    let from = rest.split_once("from :").map_or("", |(_, from)| {
        from.split(|c: char| !(c.is_ascii_lowercase() || c == '_'))
            .next()
            .unwrap_or_default()
    });
    match wanted {
        State::Pending => matches!(from, "pending" | "running"),
        State::Running | State::Success | State::Failed | State::Canceled => from == wanted.word(),
    }
}

/// Whether a 404 is about the pipeline that was named.
pub(super) fn is_about_pipeline(answer: &Answer) -> bool {
    answer.said().contains("Pipeline")
}

impl GitLab {
    /// Why a status was not taken.
    pub(super) fn why_not(&self, status: &Outgoing, body: &Status, answer: &Answer) -> SendError {
        let (forge, repository, commit) = (self.api.http.forge(), &status.repository, &status.commit);
        let what = format!("status `{}` of commit {commit}", line(&status.context, 80));
        let refused = self.refused(answer, repository, &what);
        let said = answer.said();
        let of_status = |why: String| SendError::Refused {
            scope: Scope::Status,
            why,
        };
        match answer.status.as_u16() {
            // A transition that should have been possible: the job has changed meanwhile. What it is now decides.
            400 if said.contains("Cannot transition status") => SendError::Lost {
                why: format!("`{forge}` cannot make {what} {}: {said}", body.state.word()),
            },
            400 if said.contains("taken") => of_status(format!(
                "`{forge}` did not take {what}: {said}; a job of the pipeline has the same name, so set \
                 `context` and `job_context` of the project to other names"
            )),
            404 if said.contains("Commit") => of_status(format!(
                "`{forge}` does not know commit {commit} in `{repository}`; push it there, then run `nixci report`"
            )),
            404 if said.contains("References") => of_status(format!(
                "commit {commit} is on no branch or tag of `{repository}` at `{forge}`; push one, then run `nixci report`"
            )),
            // Another request for this commit is under way, and nothing was done.
            409 => SendError::Failed {
                why: format!("`{forge}` is busy with commit {commit} of `{repository}`: {said}"),
            },
            422 => of_status(format!(
                "`{forge}` did not take {what}: {said}; a pipeline may have only so many jobs, so show fewer with `detail` \
                 of the project, or ask the administrators for more"
            )),
            _ => refused,
        }
    }

    /// What an answer that is no success means for `what`.
    pub(super) fn refused(&self, answer: &Answer, repository: &str, what: &str) -> SendError {
        let refused = answer.refused(self.api.http.forge(), what);
        let hint = match answer.status.as_u16() {
            401 => Some((
                Scope::Forge,
                "make a new token with the scope `api` and write it into `token_file`".to_owned(),
            )),
            403 if answer.said().contains("scope") => {
                Some((Scope::Forge, "make a token with the scope `api`".to_owned()))
            }
            403 => Some((
                Scope::Repository,
                format!(
                    "our user must be at least Developer in `{repository}`, and may have to push or merge to the branch \
                     where it is protected"
                ),
            )),
            404 => Some((
                Scope::Repository,
                format!("there is no project `{repository}` that our user may see; set `repository`, or give access"),
            )),
            // GitLab answers a question about a project that was moved with a redirect, and all else with 405.
            301 | 302 | 307 | 308 | 405 => Some((
                Scope::Repository,
                format!("`{repository}` was moved; set `repository` of the project to its new name"),
            )),
            _ => None,
        };
        match (refused, hint) {
            (SendError::Refused { why, .. }, Some((scope, hint))) => SendError::Refused {
                scope,
                why: format!("{why}; {hint}"),
            },
            (refused, _) => refused,
        }
    }
}
