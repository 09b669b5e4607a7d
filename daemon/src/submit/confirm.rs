//! What only the forge can say of a submission: that a commit is the head of a pull request, or of a run.

use nixci_protocol::nixci::control::Submission;
use nixci_store::index::evaluations;

use crate::core::Core;
use crate::error::CiError;
use crate::forge::{Client, SendError};
use crate::principal::{Confirmation, Job, Principal, admit_submission};

/// Refuses what this principal may not submit; asks the forge where its word is needed.
pub(super) async fn admit(core: &Core, who: &Principal, submission: &Submission) -> Result<(), CiError> {
    let needed = admit_submission(who, submission).map_err(CiError::NotAllowed)?;
    let Some(job) = who.as_job() else {
        return Ok(());
    };
    match begun(core, who, submission).await? {
        Begun::ByOther => {
            return Err(CiError::NotAllowed(
                "another run has begun a submission of this key; take another key".to_owned(),
            ));
        }
        Begun::ByThis => return Ok(()),
        Begun::No if needed.is_empty() => return Ok(()),
        Begun::No => {}
    }
    let forge = job.forge.as_deref();
    let settings = core.settings();
    let client = forge.and_then(|name| settings.forges.client(name)).ok_or_else(|| {
        CiError::NotAllowed(format!(
            "commit {} must be confirmed by the forge of {}, and [[oidc]] of its issuer names no `forge`",
            submission.commit.as_deref().unwrap_or_default(),
            job.repository
        ))
    })?;
    for confirmation in &needed {
        confirm(client, job, confirmation).await.map_err(CiError::NotAllowed)?;
    }
    Ok(())
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

async fn confirm(client: &Client, job: &Job, confirmation: &Confirmation) -> Result<(), String> {
    let repository = &job.repository;
    match confirmation {
        Confirmation::Head { number, branch, commit } => {
            let found = client
                .pull_request(repository, *number)
                .await
                .map_err(|error| unknown(&error))?;
            let found = found.ok_or_else(|| format!("{repository} has no pull request {number}"))?;
            if !found.head.eq_ignore_ascii_case(commit) {
                return Err(format!(
                    "commit {commit} is not the head of pull request {number} of {repository}, which is {} now",
                    found.head
                ));
            }
            if let (Some(wanted), Some(is)) = (branch, &found.head_ref)
                && wanted != is
            {
                return Err(format!(
                    "pull request {number} of {repository} is of branch `{is}`, and this job runs for `{wanted}`"
                ));
            }
            Ok(())
        }
        Confirmation::Run { run, commit } => {
            let found = client
                .workflow_run(repository, *run)
                .await
                .map_err(|error| unknown(&error))?;
            let found = found.ok_or_else(|| format!("{repository} has no run {run} that could be asked about"))?;
            if found.head.eq_ignore_ascii_case(commit) {
                return Ok(());
            }
            Err(format!(
                "run {run} of {repository} was for commit {}, not for {commit}",
                found.head
            ))
        }
    }
}

fn unknown(error: &SendError) -> String {
    format!("the forge could not be asked to confirm the commit: {error}")
}
