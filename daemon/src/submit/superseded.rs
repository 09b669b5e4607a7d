//! Submissions that come when nobody waits for them any more: their pull request was closed, or its head is another by now.
//!
//! They are recorded and cancelled at once, as if the webhook that told of the change had come after them. What was told
//! counts; where that speaks against a submission, the forge is asked before it is believed, for the webhook of a reopened
//! pull request may come later than its jobs. Only a commit that *was* the head is superseded: one that nobody told of may
//! be the next one.
//!
//! Who wants such a commit all the same says so by the label [`AGAIN`] (`nixci submit --again`; the command gives it where
//! somebody has run a job of a CI again), or restarts the evaluation.

use std::time::Duration;

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState, Millis, Submission};
use nixci_store::index;
use nixci_store::index::evaluations::{self, EvaluationRow};
use nixci_store::index::pull_requests::{self, PullRequestRow};
use rusqlite::{Connection, Transaction};
use tracing::warn;

use crate::config::{Home, Project};
use crate::core::Core;
use crate::error::CiError;
use crate::forge::PullRequest;

/// The label that says that somebody wants it although it is superseded; its value is free.
const AGAIN: &str = "again";
/// The label that says why an evaluation was cancelled by itself.
pub(crate) const REASON: &str = "superseded";
/// How long the forge is given to answer before what it told last counts.
const ANSWER: Duration = Duration::from_secs(5);

/// What is known of a submission's pull request when it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// What webhooks have told counts, as it is when the evaluation is recorded.
    AsTold,
    /// The forge was asked just now, or somebody wants it in any case; why it is superseded, if it is.
    Known(Option<String>),
}

/// Finds out whether somebody still waits for it; `pull` is what the forge has answered already.
pub(super) async fn look(
    core: &Core,
    submission: &Submission,
    pull: Option<&PullRequest>,
) -> Result<Standing, CiError> {
    if submission.labels.contains_key(AGAIN) {
        return Ok(Standing::Known(None));
    }
    let settings = core.settings();
    let (Some(number), Some(home)) = (
        submission.pull_request,
        Home::of(&settings.config.projects, &submission.project),
    ) else {
        return Ok(Standing::AsTold);
    };
    let was_head = was_head(core, home, submission, number).await?;
    if let Some(pull) = pull {
        return Ok(Standing::Known(by_forge(pull, submission, was_head)));
    }
    let (in_read, wanted) = (settings.clone(), submission.clone());
    let told = core
        .index
        .read(move |conn| told(conn, &in_read.config.projects, &wanted))
        .await?;
    let (Some(_), Some(client)) = (told, settings.forges.client(home.forge)) else {
        return Ok(Standing::AsTold);
    };
    let asked = tokio::time::timeout(ANSWER, client.pull_request(home.repository, number)).await;
    match asked {
        Ok(Ok(Some(pull))) => Ok(Standing::Known(by_forge(&pull, submission, was_head))),
        Ok(Ok(None)) | Err(_) => Ok(Standing::AsTold),
        Ok(Err(error)) => {
            warn!(
                forge = home.forge,
                "pull request {number} of {} is taken to be as it was told last: {error}", home.repository
            );
            Ok(Standing::AsTold)
        }
    }
}

/// Whether the commit of a submission was the head of this pull request, and is not any more, as webhooks told.
pub(super) async fn was_head(
    core: &Core,
    home: Home<'_>,
    submission: &Submission,
    number: u64,
) -> Result<bool, CiError> {
    let Some(commit) = submission.commit.clone() else {
        return Ok(false);
    };
    let (forge, name, id) = (home.forge.to_owned(), home.repository.to_owned(), home.repository_id);
    let was = core.index.read(move |conn| {
        let home = Home {
            forge: &forge,
            repository: &name,
            repository_id: id,
        };
        match known(conn, home, number)? {
            Some(row) => pull_requests::was_head(conn, &row, &commit),
            None => Ok(false),
        }
    });
    Ok(was.await?)
}

fn known(conn: &Connection, home: Home<'_>, number: u64) -> index::Result<Option<PullRequestRow>> {
    let rows = pull_requests::of_number(conn, home.forge, number)?;
    Ok(rows
        .into_iter()
        .find(|row| home.is(&row.forge, &row.repository, row.repository_id)))
}

fn by_forge(pull: &PullRequest, submission: &Submission, was_head: bool) -> Option<String> {
    let is_head = |commit: &String| commit.eq_ignore_ascii_case(&pull.head);
    if !pull.is_open {
        Some(closed(pull.number))
    } else if was_head && !submission.commit.as_ref().is_some_and(is_head) {
        Some(moved(pull.number, &pull.head))
    } else {
        None
    }
}

/// Why nobody waits for a submission, as webhooks have told; none where somebody does.
pub(super) fn told(conn: &Connection, projects: &[Project], submission: &Submission) -> index::Result<Option<String>> {
    let (Some(number), Some(home)) = (submission.pull_request, Home::of(projects, &submission.project)) else {
        return Ok(None);
    };
    let Some(row) = known(conn, home, number)? else {
        return Ok(None);
    };
    if !row.is_open {
        return Ok(Some(closed(number)));
    }
    let was_head = match &submission.commit {
        Some(commit) => pull_requests::was_head(conn, &row, commit)?,
        None => false,
    };
    Ok(was_head.then(|| moved(number, &row.head)))
}

/// Marks an evaluation as one that nobody waits for. What was told to the scheduler of it, the caller takes back.
pub(super) fn mark(tx: &Transaction<'_>, evaluation: EvaluationId, why: &str, at: Millis) -> index::Result<()> {
    evaluations::set_label(tx, evaluation, REASON, Some(why))?;
    evaluations::set_state(tx, evaluation, EvaluationState::Cancelled, at)
}

/// What a webhook says of a pull request, for [`sweep`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct News {
    /// How it is.
    pub(crate) row: PullRequestRow,
    /// Whether its head was another when this was told.
    pub(crate) has_moved: bool,
    /// When we were told.
    pub(crate) received: Millis,
}

/// Marks the open evaluations that nobody waits for after this news, which are in the index already, and returns them.
///
/// One that began before it is superseded by it, whoever wanted it. One that began after that, while the news waited to be
/// handled, is as one that begins now.
pub(crate) fn sweep(
    tx: &Transaction<'_>,
    projects: &[Project],
    news: &News,
    at: Millis,
) -> index::Result<Vec<EvaluationId>> {
    let row = &news.row;
    let mut marked = Vec::new();
    for evaluation in evaluations::open_of_pull_request(tx, row.number)? {
        let home = Home::of(projects, &evaluation.submission.project);
        if !home.is_some_and(|home| home.is(&row.forge, &row.repository, row.repository_id)) {
            continue;
        }
        let why = if evaluation.created <= news.received {
            by_news(news, &evaluation)
        } else if evaluation.submission.labels.contains_key(AGAIN) {
            None
        } else {
            told(tx, projects, &evaluation.submission)?
        };
        if let Some(why) = why {
            mark(tx, evaluation.id, &why, at)?;
            marked.push(evaluation.id);
        }
    }
    Ok(marked)
}

fn by_news(news: &News, evaluation: &EvaluationRow) -> Option<String> {
    let row = &news.row;
    if !row.is_open {
        Some(closed(row.number))
    } else if news.has_moved && evaluation.submission.commit.as_ref() != Some(&row.head) {
        Some(moved(row.number, &row.head))
    } else {
        None
    }
}

fn closed(number: u64) -> String {
    format!("pull request {number} is closed")
}

fn moved(number: u64, head: &str) -> String {
    format!("the head of pull request {number} is {head} now")
}
