//! What only the forge can say of a submission: that a commit is the head of a pull request, or of a run.
//!
//! What a job says of itself counts nowhere where somebody else knows it. Its project and commit are refused where they are
//! others; branch and base, of which clients make different words, are overwritten by what the forge or the claims say: a
//! history that is written into is that of the branch, and a base decides what a verdict forgives.

use nixci_protocol::nixci::control::Submission;
use nixci_store::index::evaluations;

use super::superseded::{self, Standing};
use crate::config::Home;
use crate::core::Core;
use crate::error::CiError;
use crate::forge::{Client, PullRequest, SendError, WorkflowRun};
use crate::principal::{Confirmation, Job, Principal, admit_submission};

/// A submission that may be recorded.
#[derive(Debug)]
pub(super) struct Admitted {
    /// As it is recorded.
    pub(super) submission: Submission,
    /// Whether somebody still waits for it.
    pub(super) standing: Standing,
}

/// Refuses what this principal may not submit; asks the forge where its word is needed.
pub(super) async fn admit(core: &Core, who: &Principal, submission: Submission) -> Result<Admitted, CiError> {
    let needed = admit_submission(who, &submission).map_err(CiError::NotAllowed)?;
    let Some(job) = who.as_job() else {
        let standing = superseded::look(core, &submission, None).await?;
        return Ok(Admitted { submission, standing });
    };
    let said = confirmed(core, who, job, &submission, &needed).await?;
    let standing = superseded::look(core, &submission, said.pull.as_ref()).await?;
    let submission = said.told(job, submission);
    Ok(Admitted { submission, standing })
}

/// What the forge said.
#[derive(Debug, Default)]
struct Said {
    pull: Option<PullRequest>,
    run: Option<WorkflowRun>,
}

impl Said {
    /// The submission with branch and base as they are known.
    fn told(&self, job: &Job, mut submission: Submission) -> Submission {
        match (&self.pull, &self.run) {
            (Some(pull), _) => {
                submission.git_ref = pull.branch();
                if pull.base.is_some() {
                    submission.base.clone_from(&pull.base);
                }
            }
            (None, Some(run)) => {
                submission.git_ref = run.branch();
                if run.event.starts_with("pull_request") {
                    // Whoever opened it has written the file that this was in.
                    submission.base = None;
                }
            }
            (None, None) => {
                if let Some(branch) = job.branch() {
                    submission.git_ref = Some(branch.to_owned());
                }
            }
        }
        submission
    }
}

/// Has the forge confirm what it must, and returns what it says.
async fn confirmed(
    core: &Core,
    who: &Principal,
    job: &Job,
    submission: &Submission,
    needed: &[Confirmation],
) -> Result<Said, CiError> {
    match begun(core, who, submission).await? {
        Begun::ByOther => {
            return Err(CiError::NotAllowed(
                "another run has begun a submission of this key; take another key".to_owned(),
            ));
        }
        Begun::ByThis => return Ok(Said::default()),
        Begun::No if needed.is_empty() => return Ok(Said::default()),
        Begun::No => {}
    }
    let forge = job.forge.as_deref();
    let settings = core.settings();
    let (name, client) = forge
        .and_then(|name| Some((name, settings.forges.client(name)?)))
        .ok_or_else(|| {
            CiError::NotAllowed(format!(
                "commit {} must be confirmed by the forge of {}, and [[oidc]] of its issuer names no `forge`",
                submission.commit.as_deref().unwrap_or_default(),
                job.repository
            ))
        })?;
    let mut said = Said::default();
    for confirmation in needed {
        match confirmation {
            Confirmation::Head { number, branch, commit } => {
                let found = pull_request(client, job, *number, branch.as_deref())
                    .await
                    .map_err(CiError::NotAllowed)?;
                if !found.head.eq_ignore_ascii_case(commit) {
                    let home = Home {
                        forge: name,
                        repository: &job.repository,
                        repository_id: None,
                    };
                    // A job that was late, or that somebody has run again.
                    if !superseded::was_head(core, home, submission, *number).await? {
                        return Err(CiError::NotAllowed(format!(
                            "commit {commit} is not the head of pull request {number} of {}, which is {} now",
                            job.repository, found.head
                        )));
                    }
                }
                said.pull = Some(found);
            }
            Confirmation::Run { run, commit } => {
                let found = workflow_run(client, job, *run, commit).await;
                said.run = Some(found.map_err(CiError::NotAllowed)?);
            }
        }
    }
    Ok(said)
}

/// Who has begun this submission before.
enum Begun {
    No,
    /// This run, whose client lost its connection; it was confirmed then, and the pull request may have moved on.
    ByThis,
    ByOther,
}

async fn begun(core: &Core, who: &Principal, submission: &Submission) -> Result<Begun, CiError> {
    let key = submission.key.clone();
    let known = core.index.read(move |conn| evaluations::by_key(conn, &key)).await?;
    Ok(match known {
        Some(row) if row.principal != who.name() => Begun::ByOther,
        Some(row)
            if row.submission.project == submission.project
                && row.submission.commit == submission.commit
                && row.submission.pull_request == submission.pull_request =>
        {
            Begun::ByThis
        }
        None | Some(_) => Begun::No,
    })
}

/// A pull request as the forge knows it now; an error where it is not of the branch that the job runs for.
async fn pull_request(client: &Client, job: &Job, number: u64, branch: Option<&str>) -> Result<PullRequest, String> {
    let repository = &job.repository;
    let found = client
        .pull_request(repository, number)
        .await
        .map_err(|error| unknown(&error))?;
    let found = found.ok_or_else(|| format!("{repository} has no pull request {number}"))?;
    match (branch, &found.head_ref) {
        (Some(wanted), Some(is)) if wanted != is => Err(format!(
            "pull request {number} of {repository} is of branch `{is}`, and this job runs for `{wanted}`"
        )),
        (Some(_) | None, _) => Ok(found),
    }
}

/// A run as the forge knows it; an error where it was for another commit.
async fn workflow_run(client: &Client, job: &Job, run: u64, commit: &str) -> Result<WorkflowRun, String> {
    let repository = &job.repository;
    let found = client
        .workflow_run(repository, run)
        .await
        .map_err(|error| unknown(&error))?;
    let found = found.ok_or_else(|| format!("{repository} has no run {run} that could be asked about"))?;
    if found.head.eq_ignore_ascii_case(commit) {
        return Ok(found);
    }
    Err(format!(
        "run {run} of {repository} was for commit {}, not for {commit}",
        found.head
    ))
}

fn unknown(error: &SendError) -> String {
    format!("the forge could not be asked to confirm the commit: {error}")
}
