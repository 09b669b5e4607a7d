//! The handle on everything the daemon can be asked.

use std::sync::Arc;

use nixci_protocol::nixci::control::{
    Accepted, AttemptId, Begun, BuildDetail, Changed, Collected, EvaluationId, EvaluationSummary, Event, Info,
    JobStatus, LogEvent, LogOf, NewJob, ProjectSummary, Request, Selector, StoreStatus, Submission, Submitted, Target,
};
use nixci_protocol::nixci::issuer::IssuerStatus;
use nixci_protocol::nixci::report::{ForgeStatus, StatusReport};
use nixci_protocol::nixci::verdict::Verdict;
use serde::Serialize;
use tokio_stream::wrappers::ReceiverStream;

use crate::config::Right;
use crate::core::Core;
use crate::error::CiError;
use crate::principal::Principal;
use crate::read::{Reader, Sources, StoreName};
use crate::settings::Pages;
use crate::submit::Attending;
use crate::{allow, collect, forge, logs, steer, submit, watch};

/// One typed method per control request. Clones share one daemon; every method may be cancelled, and
/// what it changes is then either done or not begun.
#[derive(Debug, Clone)]
pub struct Ci {
    pub(crate) core: Arc<Core>,
    reader: Reader,
}

/// What a control request is answered with.
#[derive(Debug)]
pub enum Answer {
    /// One JSON value.
    One(String),
    /// JSON lines until the stream ends.
    Lines(Lines),
}

/// The two kinds of streams.
#[derive(Debug)]
pub enum Lines {
    /// Of [`Request::Watch`].
    Events(ReceiverStream<Event>),
    /// Of [`Request::Log`].
    Log(ReceiverStream<LogEvent>),
}

impl Ci {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        let reader = Reader::new(Sources {
            index: core.index.clone(),
            logs: core.logs.clone(),
            spool: core.spool.clone(),
            scheduler: core.scheduler.clone(),
            store_dir: core.config.store_dir.clone(),
            pages: Pages::of(core.live.clone()),
            stores: core
                .stores
                .iter()
                .map(|store| StoreName {
                    name: store.config.name.clone(),
                    uri: store.config.uri.clone(),
                    told: store.told.clone(),
                })
                .collect(),
            outbox: Some(core.outbox.clone()),
        });
        Self { core, reader }
    }

    /// The read side, for pages that need more than one question.
    #[must_use]
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Who answers, and who it takes the caller for.
    #[must_use]
    pub fn info(&self, who: &Principal) -> Info {
        Info {
            version: crate::VERSION.to_owned(),
            store_dir: self.core.config.store_dir.to_string(),
            pages: self.core.settings().pages.as_deref().map(str::to_owned),
            principal: who.name().to_owned(),
            trusted: who.is_trusted(),
        }
    }

    /// Opens an evaluation, adds all of its jobs and closes it, all or nothing; or finds the one of the same key. It is
    /// on disk before this returns.
    pub async fn submit(
        &self,
        who: &Principal,
        submission: Submission,
        jobs: Vec<NewJob>,
        error: Option<String>,
    ) -> Result<Submitted, CiError> {
        let whole = submit::whole(self.core.clone(), who.clone(), submission, jobs, error);
        // A task of its own, so that a caller that goes away does not part what is recorded from what is scheduled.
        let (evaluation, resumed) = tokio::spawn(whole).await.map_err(|_| CiError::Stopping)??;
        let summary = self.status(&Selector::Evaluation(evaluation)).await?;
        Ok(Submitted { summary, resumed })
    }

    /// Opens an evaluation, or finds the one of the same key. It is on disk before this returns.
    pub async fn submit_begin(&self, who: &Principal, submission: Submission) -> Result<Begun, CiError> {
        submit::begin(&self.core, who, submission).await
    }

    /// Marks the caller as present at an evaluation: as long as the returned value lives, the evaluation
    /// is not given up for want of further jobs.
    pub(crate) fn attend(&self, evaluation: EvaluationId) -> Attending {
        self.core.attendance.attend(evaluation)
    }

    /// Adds jobs; they are on disk before this returns. Jobs whose derivations are not here are refused,
    /// and with them the whole batch.
    pub async fn submit_jobs(&self, evaluation: EvaluationId, jobs: Vec<NewJob>) -> Result<Accepted, CiError> {
        submit::jobs(&self.core, evaluation, jobs).await
    }

    /// Says that there are no more jobs. Saying it again changes nothing.
    pub async fn submit_end(
        &self,
        evaluation: EvaluationId,
        error: Option<String>,
    ) -> Result<EvaluationSummary, CiError> {
        let core = self.core.clone();
        // As in `submit`.
        let end = async move { submit::end(&core, evaluation, error).await };
        tokio::spawn(end).await.map_err(|_| CiError::Stopping)??;
        self.status(&Selector::Evaluation(evaluation)).await
    }

    /// The state of one evaluation.
    pub async fn status(&self, which: &Selector) -> Result<EvaluationSummary, CiError> {
        Ok(self.reader.status(which).await?)
    }

    /// The newest evaluations, newest first, at most 1,000.
    pub async fn evaluations(&self, project: Option<&str>, limit: u32) -> Result<Vec<EvaluationSummary>, CiError> {
        Ok(self.reader.evaluations(project, limit).await?)
    }

    /// The projects, by name.
    pub async fn projects(&self) -> Result<Vec<ProjectSummary>, CiError> {
        Ok(self.reader.projects().await?)
    }

    /// The jobs of one evaluation, by attribute path.
    pub async fn jobs(&self, which: &Selector) -> Result<Vec<JobStatus>, CiError> {
        Ok(self.reader.jobs(which).await?)
    }

    /// What an evaluation says, alone or against a base.
    pub async fn verdict(&self, head: &Selector, base: Option<&Selector>) -> Result<Verdict, CiError> {
        Ok(self.reader.verdict(head, base).await?)
    }

    /// Everything that is known of one derivation, by its full path.
    pub async fn build(&self, drv_path: &str) -> Result<BuildDetail, CiError> {
        Ok(self.reader.build(drv_path).await?)
    }

    /// Follows an evaluation to its end. Dropping the stream stops the work behind it.
    pub async fn watch(&self, which: &Selector) -> Result<ReceiverStream<Event>, CiError> {
        watch::watch(self, which).await
    }

    /// The log of a derivation or an attempt, followed to its end if asked. A slow reader slows nobody.
    pub async fn log(&self, of: &LogOf, follow: bool) -> Result<ReceiverStream<LogEvent>, CiError> {
        logs::stream(self, of, follow).await
    }

    /// The attempt whose log [`Ci::log`] would send.
    pub async fn attempt_of(&self, of: &LogOf) -> Result<AttemptId, CiError> {
        logs::attempt_of(self, of).await.map(|attempt| attempt.id)
    }

    /// Forgets failures and tries again.
    pub async fn restart(&self, what: &Target) -> Result<Changed, CiError> {
        steer::restart(self, what).await
    }

    /// Stops what nobody else wants.
    pub async fn cancel(&self, what: &Target) -> Result<Changed, CiError> {
        steer::cancel(self, what).await
    }

    /// The stores builds run on, asked now whether they answer; each is given a few seconds.
    pub async fn stores(&self) -> Vec<StoreStatus> {
        steer::stores(&self.core).await
    }

    /// What is shown of an evaluation on forges; with `again` all of it is sent once more.
    pub async fn report(&self, which: &Selector, again: bool) -> Result<Vec<StatusReport>, CiError> {
        if again {
            let evaluation = self.reader.find(which).await?.id;
            self.core.outbox.send_again(evaluation).await?;
        }
        Ok(self.reader.reports(which).await?)
    }

    /// The forges that are told, asked now whether they know us; each is given a few seconds.
    pub async fn forges(&self) -> Result<Vec<ForgeStatus>, CiError> {
        forge::health::all(&self.core).await
    }

    /// The issuers whose jobs are let in, asked now for their keys; each is given a few seconds.
    pub async fn issuers(&self) -> Vec<IssuerStatus> {
        self.core.settings().issuers.all().await
    }

    /// Forgets old evaluations and collects what nobody needs of the spool, or says what that would be. Only for whom
    /// the daemon trusts, and tokens with the right `admin` for all projects.
    pub async fn collect_garbage(&self, who: &Principal, dry_run: bool) -> Result<Collected, CiError> {
        if !(who.is_trusted() || who.has(Right::Admin) && !who.is_scoped()) {
            return Err(CiError::NotAllowed(
                "you are not privileged to collect garbage: only users in `trusted_users` of nixci's configuration \
                 are; ask its administrator"
                    .to_owned(),
            ));
        }
        collect::collect(&self.core, dry_run).await
    }

    /// Answers any control request as far as `who` may ask it: what the doors and tests use.
    pub async fn answer(&self, who: &Principal, request: Request) -> Result<Answer, CiError> {
        match allow::narrowed(self, who, request).await? {
            Request::Info => one(&self.info(who)),
            Request::Submit {
                submission,
                jobs,
                error,
            } => one(&self.submit(who, submission, jobs, error).await?),
            Request::SubmitBegin(submission) => one(&self.submit_begin(who, submission).await?),
            Request::SubmitJobs { evaluation, jobs } => one(&self.submit_jobs(evaluation, jobs).await?),
            Request::SubmitEnd { evaluation, error } => one(&self.submit_end(evaluation, error).await?),
            Request::Status { which } => one(&self.status(&which).await?),
            Request::Evaluations { project, limit } => {
                let looked_through = if who.is_scoped() { allow::LOOKED_THROUGH } else { limit };
                let all = self.evaluations(project.as_deref(), looked_through).await?;
                one(&allow::visible_evaluations(who, all, limit))
            }
            Request::Jobs { which } => one(&self.jobs(&which).await?),
            Request::Verdict { head, base } => one(&self.verdict(&head, base.as_ref()).await?),
            Request::Watch { which } => Ok(Answer::Lines(Lines::Events(self.watch(&which).await?))),
            Request::Log { of, follow } => Ok(Answer::Lines(Lines::Log(self.log(&of, follow).await?))),
            Request::Restart { what } => one(&self.restart(&what).await?),
            Request::Cancel { what } => one(&self.cancel(&what).await?),
            Request::Stores => one(&self.stores().await),
            Request::Build { drv_path } => one(&allow::visible_build(who, self.build(&drv_path).await?)),
            Request::Projects => one(&allow::visible_projects(who, self.projects().await?)),
            Request::Report { which, again } => one(&self.report(&which, again).await?),
            Request::Forges => one(&self.forges().await?),
            Request::Issuers => one(&self.issuers().await),
            Request::CollectGarbage { dry_run } => one(&self.collect_garbage(who, dry_run).await?),
        }
    }
}

fn one(value: &impl Serialize) -> Result<Answer, CiError> {
    serde_json::to_string(value)
        .map(Answer::One)
        .map_err(|error| CiError::Invalid(format!("failed to write the answer: {error}")))
}
