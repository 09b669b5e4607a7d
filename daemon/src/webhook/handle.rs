//! What each delivery does.
//!
//! A delivery may only touch evaluations of projects that the configuration puts into the very repository it is about, at the
//! forge that sent it. Everything here may be done twice.

use std::collections::BTreeMap;

use nixci_protocol::nixci::control::{EvaluationId, Millis, Selector, Target};
use nixci_protocol::nixci::report::{StatusRole, StatusState};
use nixci_store::index::deliveries::{DeliveryRow, Outcome};
use nixci_store::index::evaluations;
use nixci_store::index::pull_requests::{self, PullRequestRow};
use nixci_store::index::pushes::PushRow;
use nixci_store::index::statuses::{self, StatusId, StatusRow};

use super::ask::{Ask, CheckRun, CheckSuite, PullRequest, Push, Repository};
use crate::ci::Ci;
use crate::config::{Config, Home};
use crate::error::CiError;
use crate::forge::EXTERNAL_ID;
use crate::steer;
use crate::submit::superseded::News;

/// What came of a delivery, and what is to be written with that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Settled {
    pub(super) outcome: Outcome,
    /// In words, for the log and the row.
    pub(super) text: String,
    pub(super) changes: Vec<Change>,
}

/// A change in the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    PullRequest(News),
    /// This commit was the head of a pull request that is so by now.
    FormerHead(PullRequestRow, String),
    Push(PushRow),
}

impl Settled {
    fn handled(text: String, changes: Vec<Change>) -> Self {
        Self {
            outcome: Outcome::Handled,
            text,
            changes,
        }
    }

    pub(super) fn ignored(text: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Ignored,
            text: text.into(),
            changes: Vec::new(),
        }
    }

    pub(super) fn failed(text: String) -> Self {
        Self {
            outcome: Outcome::Failed,
            text,
            changes: Vec::new(),
        }
    }
}

/// Does what a delivery asks for.
pub(super) async fn handle(ci: &Ci, row: &DeliveryRow) -> Result<Settled, CiError> {
    let Ok(ask) = serde_json::from_str::<Ask>(&row.content) else {
        return Ok(Settled::failed(
            "it was queued by another version, and cannot be read".to_owned(),
        ));
    };
    match ask {
        Ask::PullRequest(told) => pull_request(ci, row, told).await,
        Ask::Push(told) => Ok(push(row, told)),
        Ask::Rerun(run) => rerun(ci, &row.forge, &run).await,
        Ask::RerunAll(suite) => rerun_all(ci, &row.forge, &suite).await,
        Ask::Cancel(run) => cancel(ci, &row.forge, &run).await,
        Ask::Access(access) => allow(ci, &row.forge, &access.owner).await,
    }
}

/// Tries all repositories of an owner again.
async fn allow(ci: &Ci, forge: &str, owner: &str) -> Result<Settled, CiError> {
    let mut allowed = 0;
    for refused in ci.core.index.read(statuses::refused).await? {
        let of = refused.repository.split_once('/').map(|(owner, _)| owner);
        if refused.forge == forge && of.is_some_and(|of| of.eq_ignore_ascii_case(owner)) {
            ci.core.outbox.allow_repository(forge, &refused.repository).await?;
            allowed += 1;
        }
    }
    let text = format!("repositories of {owner} that are tried again: {allowed}");
    Ok(Settled::handled(text, Vec::new()))
}

fn push(row: &DeliveryRow, told: Push) -> Settled {
    let text = format!("{} of {} was pushed", told.git_ref, told.repository.name);
    let push = PushRow {
        forge: row.forge.clone(),
        repository: told.repository.name,
        git_ref: told.git_ref,
        old_commit: told.old,
        new_commit: told.new,
        received: row.received,
    };
    Settled::handled(text, vec![Change::Push(push)])
}

/// Whether the configuration puts a project into this repository.
fn is_in(config: &Config, project: &str, forge: &str, repository: &Repository) -> bool {
    Home::of(&config.projects, project).is_some_and(|home| home.is(forge, &repository.name, Some(repository.id)))
}

/// Whether what is told now is what holds, although something was told before.
fn is_current(known: &PullRequestRow, told: &PullRequest, changed: Millis) -> bool {
    if changed != known.changed || told.head == known.head {
        return changed >= known.changed;
    }
    // Forges count whole seconds, and Gitea does not count pushes at all: the chain of heads decides, as far as it is told.
    match &told.before {
        Some(before) => *before == known.head,
        None => !told.is_new,
    }
}

/// Keeps in mind how a pull request is, and which heads it had. What nobody waits for any more is cancelled with that:
/// all evaluations of one that is closed, and those of other commits when the head has moved. Builds that others want go on.
async fn pull_request(ci: &Ci, row: &DeliveryRow, told: PullRequest) -> Result<Settled, CiError> {
    let changed = told.changed.unwrap_or(row.received);
    let (forge, name, number) = (row.forge.clone(), told.repository.name.clone(), told.number);
    let known = ci
        .core
        .index
        .read(move |conn| pull_requests::get(conn, &forge, &name, number))
        .await?;
    let what = format!("{}#{}", told.repository.name, told.number);
    if let Some(known) = known.clone().filter(|known| !is_current(known, &told, changed)) {
        let mut settled = Settled::ignored(format!("{what} has changed since"));
        // In one and the same second it may be the news that is older.
        if changed < known.changed {
            let heads = [Some(told.head), told.before].into_iter().flatten();
            settled.changes = heads.map(|head| Change::FormerHead(known.clone(), head)).collect();
        }
        return Ok(settled);
    }
    let has_moved = match &known {
        Some(known) => known.head != told.head,
        None => told.before.is_some(),
    };
    let state = if told.is_open { "open" } else { "closed" };
    let text = format!("{what} is {state} at {}", told.head);
    let now = PullRequestRow {
        forge: row.forge.clone(),
        repository: told.repository.name,
        repository_id: Some(told.repository.id),
        number: told.number,
        head: told.head,
        head_ref: told.head_ref,
        base: told.base,
        base_ref: told.base_ref,
        is_open: told.is_open,
        is_fork: told.is_fork,
        changed,
    };
    let before = told.before.map(|before| Change::FormerHead(now.clone(), before));
    let news = News {
        row: now,
        has_moved,
        received: row.received,
    };
    let all = before.into_iter().chain([Change::PullRequest(news)]).collect();
    Ok(Settled::handled(text, all))
}

/// The status a check run shows and the evaluation it is of, if both are of this repository.
async fn status_of(ci: &Ci, forge: &str, run: &CheckRun) -> Result<Option<StatusRow>, CiError> {
    let number = run
        .external_id
        .strip_prefix(EXTERNAL_ID)
        .and_then(|number| number.parse().ok());
    let (of_forge, wanted) = (forge.to_owned(), run.clone());
    let found = ci.core.index.read(move |conn| {
        if let Some(number) = number
            && let Some(row) = statuses::get(conn, StatusId(number))?
        {
            return Ok(Some(row));
        }
        let rows = statuses::of_commit(conn, &of_forge, &wanted.repository.name, &wanted.commit)?;
        let is_it = |row: &StatusRow| row.remote_id.as_deref() == Some(wanted.remote_id.as_str());
        Ok(rows.into_iter().find(is_it))
    });
    let Some(row) = found.await? else { return Ok(None) };
    let key = &row.wanted.key;
    let is_here = key.forge == forge
        && key.repository.eq_ignore_ascii_case(&run.repository.name)
        && key.commit == run.commit
        && is_of(ci, row.wanted.evaluation, forge, &run.repository).await?;
    Ok(is_here.then_some(row))
}

/// Whether an evaluation is of a project in this repository.
async fn is_of(ci: &Ci, evaluation: EvaluationId, forge: &str, repository: &Repository) -> Result<bool, CiError> {
    let row = ci
        .core
        .index
        .read(move |conn| evaluations::get(conn, evaluation))
        .await?;
    Ok(row.is_some_and(|row| is_in(&ci.core.settings().config, &row.submission.project, forge, repository)))
}

/// Runs the job of a check run again, or all of its evaluation, and has the check run posted anew: only a new one has the
/// button again.
async fn rerun(ci: &Ci, forge: &str, run: &CheckRun) -> Result<Settled, CiError> {
    let Some(status) = status_of(ci, forge, run).await? else {
        return Ok(Settled::ignored("no status here is that check run"));
    };
    let evaluation = status.wanted.evaluation;
    let what = match (status.wanted.role, &status.wanted.attr) {
        (StatusRole::Job, Some(attr)) => {
            let attr = attr.clone();
            renew(ci, &[status]).await?;
            let changed = steer::restart_job(ci, evaluation, &attr).await?;
            format!("{attr}, {} builds", changed.builds)
        }
        (StatusRole::Summary | StatusRole::Evaluation | StatusRole::Verdict | StatusRole::Job, _) => {
            let mut rows = ci
                .core
                .index
                .read(move |conn| statuses::of_evaluation(conn, evaluation))
                .await?;
            // What is green stays so.
            let is_red = |row: &StatusRow| row.sent_state.is_some_and(StatusState::is_red);
            rows.retain(|row| row.id == status.id || is_red(row) && row.wanted.key.forge == forge);
            renew(ci, &rows).await?;
            format!("all of it, {} builds", restart(ci, evaluation).await?)
        }
    };
    let text = format!("evaluation {} runs again: {what}", evaluation.0);
    Ok(Settled::handled(text, Vec::new()))
}

/// Has statuses sent as new ones. One that is not final at the forge is only changed, as it would stay so for ever.
async fn renew(ci: &Ci, rows: &[StatusRow]) -> Result<(), CiError> {
    let is_over = |row: &&StatusRow| row.sent_state.is_none_or(StatusState::is_final);
    let rows = rows.iter().filter(is_over).map(|row| row.id).collect();
    Ok(ci.core.outbox.renew(rows).await?)
}

/// Runs all that is shown at a commit again.
async fn rerun_all(ci: &Ci, forge: &str, suite: &CheckSuite) -> Result<Settled, CiError> {
    let (of_forge, name, commit) = (forge.to_owned(), suite.repository.name.clone(), suite.commit.clone());
    let rows = ci
        .core
        .index
        .read(move |conn| statuses::of_commit(conn, &of_forge, &name, &commit))
        .await?;
    let mut of: BTreeMap<EvaluationId, Vec<StatusRow>> = BTreeMap::new();
    for row in rows {
        of.entry(row.wanted.evaluation).or_default().push(row);
    }
    let mut again = 0;
    for (evaluation, rows) in of {
        if is_of(ci, evaluation, forge, &suite.repository).await? {
            again += rows.len();
            renew(ci, &rows).await?;
            restart(ci, evaluation).await?;
        }
    }
    if again == 0 {
        return Ok(Settled::ignored("no status of that commit is here"));
    }
    let text = format!("all {again} check runs of {} run again", suite.commit);
    Ok(Settled::handled(text, Vec::new()))
}

async fn restart(ci: &Ci, evaluation: EvaluationId) -> Result<u64, CiError> {
    let changed = steer::restart(ci, &Target::Evaluation(Selector::Evaluation(evaluation))).await?;
    Ok(changed.builds)
}

/// Cancels the evaluation that a check run is the summary of. One job is not cancelled by itself: its build may be wanted by
/// other repositories.
async fn cancel(ci: &Ci, forge: &str, run: &CheckRun) -> Result<Settled, CiError> {
    let Some(status) = status_of(ci, forge, run).await? else {
        return Ok(Settled::ignored("no status here is that check run"));
    };
    match status.wanted.role {
        StatusRole::Summary | StatusRole::Evaluation => {}
        StatusRole::Job | StatusRole::Verdict => {
            return Ok(Settled::ignored("only the summary can be cancelled"));
        }
    }
    let evaluation = status.wanted.evaluation;
    let changed = steer::cancel(ci, &Target::Evaluation(Selector::Evaluation(evaluation))).await?;
    let text = format!("evaluation {} is cancelled: {} builds", evaluation.0, changed.builds);
    Ok(Settled::handled(text, Vec::new()))
}
