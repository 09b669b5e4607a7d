//! What an answer that is no success means, and what to do about it.

use reqwest::Method;
use reqwest::header::LOCATION;

use super::super::http::Answer;
use super::super::text::line;
use super::super::{Outgoing, Scope, SendError};
use super::Forgejo;
use super::status::Place;

impl Forgejo {
    /// Why a status was not taken. Asks for the commit and for the repository where the answer does not tell which of
    /// them is missing: an unknown commit is answered with 404 or 500, as a broken server would.
    pub(super) async fn why_not(&self, place: &Place, status: &Outgoing, answer: &Answer) -> SendError {
        let what = format!("status `{}` of commit {}", line(&status.context, 80), status.commit);
        let refused = self.refused(answer, &status.repository, &what);
        if !matches!(answer.status.as_u16(), 404 | 500) {
            return refused;
        }
        let commit = format!(
            "{}/git/commits/{}?stat=false&verification=false&files=false",
            place.repository, place.commit
        );
        if !self.is_missing(&commit).await {
            return refused;
        }
        let (forge, repository) = (self.api.http.forge(), &status.repository);
        if self.is_missing(&place.repository).await {
            return SendError::Refused {
                scope: Scope::Repository,
                why: format!(
                    "`{forge}` has no repository `{repository}` that our user may see; set `repository` of the \
                     project, or give the user access"
                ),
            };
        }
        SendError::Refused {
            scope: Scope::Status,
            why: format!(
                "`{forge}` does not know commit {} in `{repository}`; push it there, then run `nixci report`",
                status.commit
            ),
        }
    }

    /// Whether this is certainly not there.
    async fn is_missing(&self, path: &str) -> bool {
        let answer = self.api.ask(Method::GET, path, None::<&()>).await;
        answer.is_ok_and(|answer| answer.status.as_u16() == 404)
    }

    /// What an answer that is no success means for `what`.
    pub(super) fn refused(&self, answer: &Answer, repository: &str, what: &str) -> SendError {
        let refused = answer.refused(self.api.http.forge(), what);
        let hint = match answer.status.as_u16() {
            301 | 302 | 307 | 308 => Some(moved(answer)),
            401 => Some((
                Scope::Forge,
                "make a new token and write it into `token_file`".to_owned(),
            )),
            403 => Some((
                Scope::Repository,
                format!(
                    "its user needs write access to the code of `{repository}`, and the token the scope \
                     `write:repository` (and `write:issue` for comments)"
                ),
            )),
            // An archived repository, or a conversation that is locked.
            423 => Some((
                Scope::Repository,
                "it is archived or locked; leave it out of the configuration, or open it again".to_owned(),
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

/// What to do about a repository that is elsewhere now. The address it was sent to is not followed, as the token would go
/// there too.
fn moved(answer: &Answer) -> (Scope, String) {
    let location = answer.headers.get(LOCATION).and_then(|value| value.to_str().ok());
    let new = location.and_then(|location| {
        let (_, path) = location.split_once("/repos/")?;
        let mut names = path.split(['/', '?']);
        Some(format!("{}/{}", names.next()?, names.next()?))
    });
    let hint = match new {
        Some(name) => format!(
            "it is now `{}`; set `repository` of the project to that",
            line(&name, 120)
        ),
        None => "it was moved; set `repository` of the project to its new name".to_owned(),
    };
    (Scope::Repository, hint)
}
