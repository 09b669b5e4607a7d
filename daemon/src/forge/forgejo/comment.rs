//! The one comment on a pull request: made once, edited in place afterwards.
//!
//! It is known by a marker in its last line, which is not shown: `<!-- nixci DIGEST EVALUATION -->`, with a digest of the
//! summary's context and the number of the evaluation it tells of. So it is found again when its number was lost, and by
//! statuses of later commits, and what an older evaluation says never stands after what a newer one said. Of what others
//! wrote nothing is edited, whatever it holds.

use reqwest::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use nixci_protocol::nixci::report::StatusRole;

use super::super::text::code;
use super::super::{Outgoing, SendError};
use super::status::{Place, Remote};
use super::{Forgejo, User};

#[derive(Debug, Deserialize)]
struct Comment {
    id: u64,
    #[serde(default)]
    body: String,
    user: Option<User>,
}

#[derive(Debug, Serialize)]
struct Body<'a> {
    body: &'a str,
}

/// Whether a status goes with a comment.
pub(super) fn is_wanted(status: &Outgoing) -> bool {
    status.comment && status.role == StatusRole::Summary && status.pull_request.is_some()
}

impl Forgejo {
    /// After a status is there: writes the comment that goes with it, and keeps its number.
    pub(super) async fn write_comment(
        &self,
        place: &Place,
        status: &Outgoing,
        remote: &mut Remote,
    ) -> Result<(), SendError> {
        let Some(number) = status.pull_request else {
            return Ok(());
        };
        match self.comment(place, status, number, remote.comment).await {
            Ok(id) => remote.comment = Some(id),
            Err(SendError::Refused { why, .. }) => {
                tracing::warn!(pull_request = number, "the status is shown, the comment is not: {why}");
            }
            Err(SendError::Limited { why, .. } | SendError::Failed { why } | SendError::Lost { why }) => {
                return Err(SendError::Lost { why });
            }
        }
        Ok(())
    }

    /// Makes the comment say what the status says, and gives its number.
    async fn comment(&self, place: &Place, status: &Outgoing, pull: u64, known: Option<u64>) -> Result<u64, SendError> {
        // The semaphore is never closed; with it or without, one comment is written.
        let _one_at_a_time = self.commenting.acquire().await.ok();
        let what = format!("the comment on pull request {pull} of `{}`", status.repository);
        let marker = Marker::of(status);
        let body = format!("{}\n\n{}", text(status), marker.text());
        let mut found = match known {
            Some(id) => self.known_comment(place, status, id, &what).await?,
            None => None,
        };
        if found.is_none() {
            found = self.find_comment(place, status, pull, &what).await?;
        }
        let (method, path) = match &found {
            // Nothing to do, or a newer evaluation has told.
            Some(comment) if comment.body == body || marker.newest(&comment.body) > Some(status.evaluation.0) => {
                return Ok(comment.id);
            }
            Some(comment) => {
                let path = format!("{}/issues/comments/{}", place.repository, comment.id);
                (Method::PATCH, path)
            }
            None => (Method::POST, format!("{}/issues/{pull}/comments", place.repository)),
        };
        let answer = self.api.ask(method, &path, Some(&Body { body: &body })).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer, &status.repository, &what));
        }
        match found {
            // The answer to an edit may be empty.
            Some(comment) => Ok(comment.id),
            None => Ok(self.api.read::<Comment>(&answer)?.id),
        }
    }

    /// The comment with this number, unless somebody has deleted it.
    async fn known_comment(
        &self,
        place: &Place,
        status: &Outgoing,
        id: u64,
        what: &str,
    ) -> Result<Option<Comment>, SendError> {
        let path = format!("{}/issues/comments/{id}", place.repository);
        let answer = self.api.ask(Method::GET, &path, None::<&()>).await?;
        match answer.status {
            // Forgejo has no content to give of what is no comment any more.
            StatusCode::NOT_FOUND | StatusCode::NO_CONTENT => Ok(None),
            code if code.is_success() => self.api.read(&answer).map(Some),
            _ => Err(self.refused(&answer, &status.repository, what)),
        }
    }

    /// Our oldest comment with our marker. The list has no pages there.
    async fn find_comment(
        &self,
        place: &Place,
        status: &Outgoing,
        pull: u64,
        what: &str,
    ) -> Result<Option<Comment>, SendError> {
        let path = format!("{}/issues/{pull}/comments", place.repository);
        let answer = self.api.ask(Method::GET, &path, None::<&()>).await?;
        if !answer.status.is_success() {
            return Err(self.refused(&answer, &status.repository, what));
        }
        let marker = Marker::of(status);
        let mut comments: Vec<Comment> = self.api.read(&answer)?;
        comments.retain(|comment| marker.newest(&comment.body).is_some());
        if comments.is_empty() {
            return Ok(None);
        }
        let user = self.user().await?;
        let ours = comments.into_iter().filter(|comment| {
            match (user, &comment.user) {
                (Some(user), Some(author)) => author.login.eq_ignore_ascii_case(user),
                // Without a name only the marker tells.
                (None, _) => true,
                (Some(_), None) => false,
            }
        });
        Ok(ours.min_by_key(|comment| comment.id))
    }
}

/// What a comment is known by.
struct Marker {
    digest: String,
    evaluation: i64,
}

impl Marker {
    fn of(status: &Outgoing) -> Self {
        let digest = Sha256::digest(status.context.as_bytes());
        Self {
            digest: data_encoding::HEXLOWER.encode(&digest[..8]),
            evaluation: status.evaluation.0,
        }
    }

    fn text(&self) -> String {
        format!("<!-- nixci {} {} -->", self.digest, self.evaluation)
    }

    /// The evaluation that a comment with our marker tells of; none where it has no such.
    fn newest(&self, body: &str) -> Option<i64> {
        let start = format!("<!-- nixci {} ", self.digest);
        let (number, _) = body.rsplit_once(&start)?.1.split_once(" -->")?;
        number.parse().ok()
    }
}

/// What the comment says.
fn text(status: &Outgoing) -> String {
    let content = &status.content;
    let mut parts = vec![format!("**{}**", code(&status.context))];
    if content.summary.trim().is_empty() {
        parts.push(code(&content.description));
    } else {
        parts.push(content.summary.trim().to_owned());
    }
    if !content.text.trim().is_empty() {
        parts.push(content.text.trim().to_owned());
    }
    if let Some(url) = &content.url {
        parts.push(format!("<{url}>"));
    }
    parts.join("\n\n")
}
