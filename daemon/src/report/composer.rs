//! Keeps the table of statuses what evaluations say: looks again at what changed, writes what is new, rings for who sends.
//!
//! Nothing here depends on seeing each change: they only say what to look at again. What was missed while the daemon was
//! not there is looked at when it starts.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState, Selector};
use nixci_store::index::evaluations::{self, EvaluationRow};
use nixci_store::index::statuses::{self, Stand, Want};
use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::compose::{self, Picture, Target};
use crate::ci::Ci;
use crate::config::{ForgeKind, Project};
use crate::core::{Core, now};
use crate::error::{CiError, told};
use crate::scheduler::Change;
use crate::settings::Settings;

/// How long evaluations that are being built are left alone after a look, at least.
const PAUSE: Duration = Duration::from_secs(2);
/// And so many times as long as the look took: large ones cost a tenth of a second.
const REST: u32 = 20;

/// The projects that are told somewhere, of one evaluation.
fn project_of<'c>(settings: &'c Settings, row: &EvaluationRow) -> Option<&'c Project> {
    let project = settings
        .config
        .projects
        .iter()
        .find(|project| project.fits(&row.submission.project))?;
    (project.forge.is_some() || !project.notify.is_empty()).then_some(project)
}

/// Where an evaluation is told. One without a commit is told to plain webhooks only.
fn targets<'a>(settings: &'a Settings, project: &'a Project, row: &'a EvaluationRow) -> Vec<Target<'a>> {
    let name = row.submission.project.as_str();
    let forge = project.forge.iter().filter_map(|forge| settings.forges.config(forge));
    let hooks = project.notify.iter().filter_map(|hook| settings.forges.config(hook));
    let commit = row.submission.commit.as_deref();
    forge
        .chain(hooks)
        .filter_map(|forge| match forge.kind {
            ForgeKind::Webhook => Some(Target {
                forge,
                project,
                repository: name,
                commit: commit.unwrap_or_default(),
            }),
            ForgeKind::GitHub | ForgeKind::Forgejo | ForgeKind::Gitea | ForgeKind::GitLab => Some(Target {
                forge,
                project,
                repository: project.repository_of(name),
                commit: commit?,
            }),
        })
        .collect()
}

/// Looks at what changes until the daemon stops.
pub(crate) async fn run(ci: Ci) {
    let stop = ci.core.stop.builds.clone();
    let mut composer = Composer {
        evaluations: ci.core.evaluations_changed.subscribe(),
        changes: ci.core.scheduler.changes(),
        open: BTreeMap::new(),
        has_changed: false,
        next: Instant::now(),
        ci,
    };
    let mut look = composer.missed().await;
    loop {
        if !composer.look(look).await {
            return;
        }
        match stop.run_until_cancelled(composer.wait()).await {
            Some(Some(found)) => look = found,
            Some(None) | None => return,
        }
    }
}

struct Composer {
    ci: Ci,
    evaluations: broadcast::Receiver<EvaluationId>,
    changes: broadcast::Receiver<Change>,
    /// Evaluations that go on and are told somewhere, and when they were looked at last.
    open: BTreeMap<EvaluationId, Instant>,
    /// Whether some build has changed since all of them were looked at.
    has_changed: bool,
    /// When they are looked at next.
    next: Instant,
}

impl Composer {
    /// What may have happened unseen.
    async fn missed(&self) -> BTreeSet<EvaluationId> {
        unfinished(&self.ci.core).await.unwrap_or_else(|error| {
            warn!("failed to find what forges are still to be told: {}", told(&error));
            BTreeSet::new()
        })
    }

    /// Writes down what these say. False when the daemon stops.
    async fn look(&mut self, evaluations: BTreeSet<EvaluationId>) -> bool {
        for evaluation in evaluations {
            match tell(&self.ci, evaluation).await {
                Ok(true) => {
                    self.open.insert(evaluation, Instant::now());
                }
                Ok(false) => {
                    self.open.remove(&evaluation);
                }
                Err(CiError::Stopping) => return false,
                Err(error) => {
                    // It stays among the open ones: the next look may work.
                    warn!(
                        evaluation = evaluation.0,
                        "failed to write down what forges are to be told: {}",
                        told(&error)
                    );
                }
            }
        }
        true
    }

    /// What to look at next; none when the daemon stops.
    async fn wait(&mut self) -> Option<BTreeSet<EvaluationId>> {
        loop {
            tokio::select! {
                changed = self.evaluations.recv() => match changed {
                    Ok(evaluation) if self.may_wait(evaluation).await => self.has_changed = true,
                    Ok(evaluation) => return Some(BTreeSet::from([evaluation])),
                    Err(RecvError::Lagged(_)) => {
                        let mut all = self.missed().await;
                        all.extend(self.open.keys());
                        return Some(all);
                    }
                    Err(RecvError::Closed) => return None,
                },
                changed = self.changes.recv() => match changed {
                    Ok(_) | Err(RecvError::Lagged(_)) => self.has_changed = true,
                    Err(RecvError::Closed) => return None,
                },
                () = tokio::time::sleep_until(self.next), if self.has_changed && !self.open.is_empty() => {
                    self.has_changed = false;
                    let began = Instant::now();
                    let all = self.open.keys().copied().collect();
                    if !self.look(all).await {
                        return None;
                    }
                    self.next = Instant::now() + PAUSE.max(began.elapsed() * REST);
                }
            }
        }
    }

    /// Whether an evaluation that changed goes on and was looked at a moment ago: jobs arrive in many batches, and each
    /// look reads all of them.
    async fn may_wait(&self, evaluation: EvaluationId) -> bool {
        let is_fresh = self.open.get(&evaluation).is_some_and(|at| at.elapsed() < PAUSE);
        if !is_fresh {
            return false;
        }
        let row = self.ci.reader().find(&Selector::Evaluation(evaluation)).await;
        row.is_ok_and(|row| goes_on(row.state))
    }
}

fn goes_on(state: EvaluationState) -> bool {
    match state {
        EvaluationState::Receiving | EvaluationState::Building => true,
        EvaluationState::Done | EvaluationState::Cancelled | EvaluationState::Abandoned => false,
    }
}

/// Evaluations that are open, and those that ended while nobody looked.
async fn unfinished(core: &Arc<Core>) -> Result<BTreeSet<EvaluationId>, CiError> {
    let since = now() - 24 * 60 * 60 * 1000;
    Ok(core
        .index
        .read(move |conn| {
            let mut found: BTreeSet<EvaluationId> = evaluations::open(conn)?.into_iter().map(|row| row.id).collect();
            found.extend(statuses::unfinished(conn)?);
            found.extend(statuses::untold(conn, since)?);
            Ok(found)
        })
        .await?)
}

/// Writes down what an evaluation says. True while it is going on.
async fn tell(ci: &Ci, evaluation: EvaluationId) -> Result<bool, CiError> {
    let core = &ci.core;
    let which = Selector::Evaluation(evaluation);
    let row = ci.reader().find(&which).await?;
    let is_open = goes_on(row.state);
    let settings = core.settings();
    let Some(project) = project_of(&settings, &row) else {
        return Ok(false);
    };
    let targets = targets(&settings, project, &row);
    if targets.is_empty() {
        return Ok(false);
    }
    let view = ci.reader().view(&which, None).await?;
    for target in targets {
        let key = (
            target.forge.name.clone(),
            target.repository.to_owned(),
            commit_of(target, evaluation),
        );
        let target = Target {
            commit: &key.2,
            ..target
        };
        let (there, others) = stands(core, &key, &row).await?;
        let shown = compose::shown(target, &view, &there, &others);
        let jobs = shown.iter().filter_map(|at| view.jobs.get(*at).cloned()).collect();
        let jobs = ci.reader().statuses(jobs).await?;
        let picture = Picture {
            submission: &row.submission,
            view: &view,
            there: &there,
            others: &others,
            jobs: &jobs,
            now: now(),
        };
        let wanted = compose::compose(target, picture);
        let at = now();
        let changed = core
            .index
            .write_durable(move |tx| {
                let mut changed = 0_usize;
                for wanted in &wanted {
                    changed += usize::from(matches!(statuses::want(tx, wanted, at)?, Want::Changed(_)));
                }
                Ok(changed)
            })
            .await?;
        if changed > 0 {
            debug!(evaluation = evaluation.0, forge = key.0, "{changed} statuses to send");
            core.outbox.ring(&key.0, &key.1);
        }
    }
    Ok(is_open)
}

/// The commit that a status stands at; a plain webhook is told of evaluations without one too.
fn commit_of(target: Target<'_>, evaluation: EvaluationId) -> String {
    if target.commit.is_empty() {
        format!("evaluation-{}", evaluation.0)
    } else {
        target.commit.to_owned()
    }
}

/// What stands at a commit, and which evaluations of it are told apart from this one by their label.
async fn stands(
    core: &Core,
    key: &(String, String, String),
    row: &EvaluationRow,
) -> Result<(Vec<Stand>, HashSet<i64>), CiError> {
    let (forge, repository, commit) = key.clone();
    let check = compose::check_of(&row.submission).map(str::to_owned);
    let own = row.id;
    let found = core.index.read(move |conn| {
        let there = statuses::standing(conn, &forge, &repository, &commit)?;
        let writers: BTreeSet<EvaluationId> = there.iter().map(|row| row.evaluation).collect();
        let mut others = HashSet::new();
        for writer in writers {
            if writer == own {
                continue;
            }
            let is_other = match evaluations::get(conn, writer)? {
                Some(row) => compose::check_of(&row.submission) != check.as_deref(),
                None => false,
            };
            if is_other {
                others.insert(writer.0);
            }
        }
        Ok((there, others))
    });
    Ok(found.await?)
}
