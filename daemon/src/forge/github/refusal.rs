//! What GitHub's refusals mean.

use std::time::Duration;

use super::api::Api;
use super::repository::Repository;
use crate::forge::http::Answer;
use crate::forge::{Scope, SendError};

/// How long to wait where GitHub says "secondary rate limit" and no time: at least a minute, says its reference ("Best
/// practices for using the REST API").
const SECONDARY: Duration = Duration::from_mins(1);

/// What was tried, for the words of an error.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tried<'a> {
    pub(super) repository: &'a Repository<'a>,
    /// In words that follow "did not take".
    pub(super) what: &'a str,
    /// The permission it needs: `checks: write`.
    pub(super) needs: Option<&'a str>,
}

impl Api {
    /// What an answer that is no success means.
    pub(super) fn refused(&self, answer: &Answer, tried: &Tried<'_>) -> SendError {
        let Tried {
            repository,
            what,
            needs,
        } = *tried;
        let said = answer.said();
        let refused = |scope, why| SendError::Refused { scope, why };
        match answer.status.as_u16() {
            403 | 429 if answer.wait().is_some() || is_secondary(&said) => SendError::Limited {
                wait: Some(answer.wait().unwrap_or(SECONDARY)),
                why: format!("`{}` takes no more for a while: {said}", self.forge()),
            },
            403 => {
                // It tells what would be needed, `checks=write`, where that is what is missing.
                let accepted = answer.headers.get("x-accepted-github-permissions");
                let accepted = accepted
                    .and_then(|value| value.to_str().ok())
                    .map(|text| super::output::line(&text.replace('=', ": "), 100));
                let is_bare = said.starts_with("Forbidden") || said.starts_with("403");
                let is_permission = accepted.is_some() || is_bare || said.contains("not accessible by");
                let needs = accepted.or_else(|| needs.map(str::to_owned));
                match needs.filter(|_| is_permission) {
                    Some(needs) if self.app_id().is_some() => refused(
                        Scope::Repository,
                        format!(
                            "`{}`: the App lacks `{needs}` on `{repository}`; grant it in the App's settings, and accept \
                             it where the App is installed",
                            self.forge()
                        ),
                    ),
                    Some(needs) => refused(
                        Scope::Repository,
                        format!(
                            "`{}`: the token lacks `{needs}` on `{repository}`; make one that has it, of a user who may \
                             write there",
                            self.forge()
                        ),
                    ),
                    None => refused(
                        Scope::Repository,
                        format!("`{}` did not take {what} for `{repository}`: {said}", self.forge()),
                    ),
                }
            }
            404 | 410 => refused(
                Scope::Repository,
                format!(
                    "`{}` has no `{repository}` that we may see: {}, or mend the project's `repository`",
                    self.forge(),
                    if self.app_id().is_some() {
                        "install the App there"
                    } else {
                        "give the user of the token access"
                    }
                ),
            ),
            301 | 302 | 307 | 308 => refused(
                Scope::Repository,
                format!(
                    "`{repository}` has another name at `{}` now; set the project's `repository` to it",
                    self.forge()
                ),
            ),
            _ => answer.refused(self.forge(), &format!("{what} for `{repository}`")),
        }
    }
}

/// Limits that come without a header are known by their words alone.
fn is_secondary(said: &str) -> bool {
    let said = said.to_lowercase();
    ["secondary rate limit", "abuse detection", "rate limit exceeded"]
        .iter()
        .any(|words| said.contains(words))
}

/// The error of a question that changes nothing: what was lost may simply be asked again.
pub(super) fn nothing_done(error: SendError) -> SendError {
    match error {
        SendError::Lost { why } => SendError::Failed { why },
        SendError::Limited { .. } | SendError::Failed { .. } | SendError::Refused { .. } => error,
    }
}
