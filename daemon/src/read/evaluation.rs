//! One evaluation with what its jobs have come to.

use std::collections::{HashMap, HashSet};

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{AttemptId, Counts, EvaluationSummary, JobStatus, RunningBuild, Selector};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::nixci::verdict::{self, JobInput, SideInput, Verdict};
use nixci_store::index::evaluations::{self, EvaluationRow};
use nixci_store::index::{DrvId, attempts, derivations, jobs};

use super::outcome::{Idle, Known};
use super::{ReadError, Reader};

/// Builds that a summary of what runs names at most.
const RUNNING: usize = 32;

/// One evaluation and its jobs, by attribute path.
#[derive(Debug, Clone)]
pub(crate) struct Loaded {
    pub(crate) row: EvaluationRow,
    pub(crate) jobs: Vec<LoadedJob>,
    /// The failed derivations that the outcomes name, and the attempts that say so.
    pub(crate) failed: HashMap<DrvId, Option<AttemptId>>,
}

/// One job and what it has come to.
#[derive(Debug, Clone)]
pub(crate) struct LoadedJob {
    pub(crate) attr: AttrPath,
    pub(crate) drv: Option<DrvId>,
    pub(crate) drv_path: Option<String>,
    pub(crate) outcome: Outcome,
    pub(crate) attempt: Option<AttemptId>,
}

impl Loaded {
    fn counts(&self) -> Counts {
        let mut counts = Counts {
            jobs: self.jobs.len() as u64,
            ..Counts::default()
        };
        for job in &self.jobs {
            *match &job.outcome {
                Outcome::Queued { .. } | Outcome::Forwarding => &mut counts.queued,
                Outcome::Building => &mut counts.building,
                Outcome::Succeeded { .. } => &mut counts.succeeded,
                Outcome::Failed { .. } => &mut counts.failed,
                Outcome::Blocked { .. } => &mut counts.blocked,
                Outcome::Cancelled => &mut counts.cancelled,
                Outcome::EvaluationError { .. } => &mut counts.evaluation_errors,
            } += 1;
        }
        counts
    }

    fn side(&self) -> SideInput {
        SideInput {
            evaluation: self.row.id,
            project: self.row.submission.project.clone(),
            commit: self.row.submission.commit.clone(),
            state: self.row.state,
            error: self.row.error.clone(),
            jobs: self
                .jobs
                .iter()
                .map(|job| JobInput {
                    attr: job.attr.clone(),
                    drv_path: job.drv_path.clone(),
                    outcome: job.outcome.clone(),
                })
                .collect(),
        }
    }
}

/// An evaluation as its page shows it.
#[derive(Debug, Clone)]
pub(crate) struct View {
    pub(crate) summary: EvaluationSummary,
    pub(crate) verdict: Verdict,
    pub(crate) jobs: Vec<LoadedJob>,
    /// The bucket of each job.
    pub(crate) buckets: Vec<verdict::Bucket>,
}

impl Reader {
    /// The evaluation that a selector names.
    pub(crate) async fn find(&self, which: &Selector) -> Result<EvaluationRow, ReadError> {
        let selector = which.clone();
        let row = self.index.read(move |conn| evaluations::find(conn, &selector)).await?;
        row.ok_or_else(|| ReadError::NotFound(describe(which)))
    }

    /// Its jobs and what they have come to.
    pub(crate) async fn load(&self, row: EvaluationRow) -> Result<Loaded, ReadError> {
        let evaluation = row.id;
        let rows = self.index.read(move |conn| jobs::of(conn, evaluation)).await?;
        let drvs: HashSet<DrvId> = rows.iter().filter_map(|job| Some(job.drv.as_ref()?.0)).collect();
        let known = self.outcomes(drvs.into_iter().collect(), Idle::from(row.state)).await?;
        let mut failed = HashMap::new();
        let jobs = rows
            .into_iter()
            .map(|job| match job.drv {
                Some((drv, path)) => {
                    let Known {
                        outcome,
                        attempt,
                        blocked_by,
                    } = known.get(&drv).cloned().unwrap_or_else(|| Known {
                        outcome: Outcome::Cancelled,
                        attempt: None,
                        blocked_by: Vec::new(),
                    });
                    if let Outcome::Failed { .. } = outcome {
                        failed.insert(drv, attempt);
                    }
                    for root in blocked_by {
                        failed.entry(root).or_insert(None);
                    }
                    LoadedJob {
                        attr: job.attr,
                        drv: Some(drv),
                        drv_path: Some(self.store_dir.display(&path).to_string()),
                        outcome,
                        attempt,
                    }
                }
                None => LoadedJob {
                    attr: job.attr,
                    drv: None,
                    drv_path: None,
                    outcome: Outcome::EvaluationError {
                        message: job.error.unwrap_or_default(),
                    },
                    attempt: None,
                },
            })
            .collect();
        Ok(Loaded { row, jobs, failed })
    }

    fn summarise(&self, row: &EvaluationRow, counts: Counts) -> EvaluationSummary {
        EvaluationSummary {
            evaluation: row.id,
            project: row.submission.project.clone(),
            commit: row.submission.commit.clone(),
            git_ref: row.submission.git_ref.clone(),
            base: row.submission.base.clone(),
            pull_request: row.submission.pull_request,
            source: row.submission.source.clone(),
            state: row.state,
            error: row.error.clone(),
            created: row.created,
            ended: row.ended,
            counts,
            page: self.page(&format!("/e/{}", row.id.0)),
        }
    }

    pub(crate) fn page(&self, path: &str) -> Option<String> {
        self.pages.now().map(|pages| format!("{pages}{path}"))
    }

    /// Where an evaluation stands, as it was loaded.
    pub(crate) fn summary(&self, loaded: &Loaded) -> EvaluationSummary {
        self.summarise(&loaded.row, loaded.counts())
    }

    /// The state of one evaluation.
    pub async fn status(&self, which: &Selector) -> Result<EvaluationSummary, ReadError> {
        let loaded = self.load(self.find(which).await?).await?;
        let counts = loaded.counts();
        self.counted(&loaded.row, counts);
        Ok(self.summarise(&loaded.row, counts))
    }

    /// The newest evaluations, newest first, at most `limit` and never more than 1,000.
    ///
    /// The counts of one that has ended may be a minute old.
    pub async fn evaluations(&self, project: Option<&str>, limit: u32) -> Result<Vec<EvaluationSummary>, ReadError> {
        let of = project.map(str::to_owned);
        let rows = self
            .index
            .read(move |conn| evaluations::list(conn, of.as_deref(), limit.min(1_000)))
            .await?;
        let mut list = Vec::with_capacity(rows.len());
        for row in rows {
            list.push(self.summary_of(row).await?);
        }
        Ok(list)
    }

    pub(super) async fn summary_of(&self, row: EvaluationRow) -> Result<EvaluationSummary, ReadError> {
        let counts = if let Some(counts) = self.remembered_counts(&row) {
            counts
        } else {
            let counts = self.load(row.clone()).await?.counts();
            self.counted(&row, counts);
            counts
        };
        Ok(self.summarise(&row, counts))
    }

    /// The jobs of one evaluation, by attribute path.
    pub async fn jobs(&self, which: &Selector) -> Result<Vec<JobStatus>, ReadError> {
        let loaded = self.load(self.find(which).await?).await?;
        self.statuses(loaded.jobs).await
    }

    /// These jobs with how long their last attempts took.
    pub(crate) async fn statuses(&self, jobs: Vec<LoadedJob>) -> Result<Vec<JobStatus>, ReadError> {
        let drvs: Vec<DrvId> = jobs.iter().filter_map(|job| job.drv).collect();
        let last = self.index.read(move |conn| attempts::last(conn, &drvs)).await?;
        Ok(jobs
            .into_iter()
            .map(|job| {
                let attempt = job.drv.and_then(|drv| last.get(&drv));
                let is_final = matches!(job.outcome, Outcome::Succeeded { .. } | Outcome::Failed { .. });
                JobStatus {
                    attr: job.attr,
                    drv_path: job.drv_path,
                    outcome: job.outcome,
                    duration_ms: attempt
                        .filter(|_| is_final)
                        .and_then(|attempt| Some(attempt.ended? - attempt.started)),
                    attempt: job.attempt.or(attempt.map(|attempt| attempt.id)),
                }
            })
            .collect())
    }

    /// What an evaluation says against a base, or against the one its submission named where that is known, or alone.
    pub async fn verdict(&self, head: &Selector, base: Option<&Selector>) -> Result<Verdict, ReadError> {
        Ok(self.view(head, base).await?.verdict)
    }

    /// An evaluation as its page shows it; the base is chosen as by [`verdict`](Self::verdict).
    pub(crate) async fn view(&self, head: &Selector, base: Option<&Selector>) -> Result<View, ReadError> {
        let row = self.find(head).await?;
        let base = match base {
            Some(base) => Some(self.find(base).await?),
            None => self.base_of(&row).await?,
        };
        let head = self.load(row).await?;
        let base = match base {
            Some(base) => Some(self.load(base).await?),
            None => None,
        };
        let causes = self.causes(&head, base.as_ref()).await?;
        let counts = head.counts();
        self.counted(&head.row, counts);
        let summary = self.summarise(&head.row, counts);
        // A hundred thousand jobs take a tenth of a second: not on a thread that serves connections.
        let decided = tokio::task::spawn_blocking(move || {
            let (side, base) = (head.side(), base.as_ref().map(Loaded::side));
            let (verdict, buckets) = verdict::classify(&side, base.as_ref(), &causes);
            (verdict, buckets, head.jobs)
        });
        let (verdict, buckets, jobs) = decided
            .await
            .map_err(|_| ReadError::Stopping(crate::scheduler::SchedulerGone))?;
        Ok(View {
            summary,
            verdict,
            jobs,
            buckets,
        })
    }

    /// The evaluation of the commit that the submission asked to be compared with, if that is known.
    async fn base_of(&self, row: &EvaluationRow) -> Result<Option<EvaluationRow>, ReadError> {
        let Some(commit) = row.submission.base.clone() else {
            return Ok(None);
        };
        let which = Selector::Commit {
            project: Some(row.submission.project.clone()),
            commit,
        };
        let base = match self.find(&which).await {
            Ok(base) => Some(base),
            Err(ReadError::NotFound(_) | ReadError::Unclear(_)) => None,
            Err(error @ (ReadError::Index(_) | ReadError::Stopping(_))) => return Err(error),
        };
        Ok(base.filter(|base| base.id != row.id))
    }

    /// What of an evaluation runs now, oldest first, at most 32, and how many builds are left, dependencies included.
    pub async fn running(&self, which: &Selector) -> Result<(Vec<RunningBuild>, u64), ReadError> {
        let evaluation = self.find(which).await?.id;
        let Some(progress) = self.scheduler.progress(evaluation).await? else {
            return Ok((Vec::new(), 0));
        };
        let nodes: Vec<(DrvId, AttemptId)> = progress
            .running
            .iter()
            .filter_map(|node| Some((node.drv, node.attempt?)))
            .take(RUNNING)
            .collect();
        let dir = self.store_dir.clone();
        let mut builds = self
            .index
            .read(move |conn| {
                let drvs: Vec<DrvId> = nodes.iter().map(|(drv, _)| *drv).collect();
                let mut builds = Vec::with_capacity(nodes.len());
                for ((_, id), path) in nodes.iter().zip(derivations::paths(conn, &drvs)?) {
                    if let Some(attempt) = attempts::get(conn, *id)? {
                        builds.push(RunningBuild {
                            drv_path: dir.display(&path).to_string(),
                            store: attempt.store,
                            started: attempt.started,
                            phase: None,
                            last_line: None,
                            attempt: *id,
                        });
                    }
                }
                Ok(builds)
            })
            .await?;
        self.add_last_lines(&mut builds);
        Ok((builds, progress.builds_left))
    }
}

fn describe(which: &Selector) -> String {
    match which {
        Selector::Evaluation(id) => format!("evaluation {}", id.0),
        Selector::Commit { project: None, commit } => format!("evaluation of commit {commit}"),
        Selector::Commit {
            project: Some(project),
            commit,
        } => format!("evaluation of commit {commit} of {project}"),
        Selector::Latest { project: None } => "evaluation".to_owned(),
        Selector::Latest { project: Some(project) } => format!("evaluation of {project}"),
    }
}
