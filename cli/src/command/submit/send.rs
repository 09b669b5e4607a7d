//! Sends jobs: negotiate and upload what they need, then record them; again from where it was when the
//! connection is lost.
//!
//! A set that is known to its end goes in one message ([`Sender::whole`]), so that an unchanged one costs no more turns
//! than a handshake and that; what is still being evaluated goes batch by batch ([`Sender::send`]).
//!
//! Everything is idempotent. The submission's key finds the same evaluation, objects that arrived whole
//! stay, and a job that is there already stays as it is. So after a loss the batch in hand is simply
//! sent again, and earlier ones only if the daemon no longer knows the submission.

use std::collections::HashSet;

use nixci_protocol::nixci::control::{
    Accepted, Begun, Evaluated, EvaluationId, EvaluationSummary, NewJob, Request, Submission, Submitted,
};
use nixci_protocol::types::{StoreDir, StorePath};

use crate::connect::{Daemon, Patience};
use crate::exit::{Exit, Problem};
use crate::progress::{Event, Screen, Totals};
use crate::transfer::{self, Step};

/// Jobs in one message: well below every limit on the length of a text.
const JOBS_PER_MESSAGE: usize = 2_000;
/// Bytes of jobs that go in one message at most: about fifty thousand, and well below what a daemon takes in one.
const WHOLE_BYTES: usize = 16 << 20;

/// A submission under way.
pub(super) struct Sender<'a, S> {
    daemon: Daemon,
    submission: Submission,
    local: &'a S,
    store_dir: StoreDir,
    screen: &'a mut Screen,
    /// Once the daemon was told of it.
    begun: Option<Begun>,
    /// What the daemon has recorded, to be sent again to a daemon that forgot.
    recorded: Vec<NewJob>,
    pub(super) totals: Totals,
}

impl<'a, S: transfer::Source> Sender<'a, S> {
    /// A submission that nothing was said of yet.
    pub(super) fn new(
        daemon: Daemon,
        submission: Submission,
        local: &'a S,
        store_dir: StoreDir,
        screen: &'a mut Screen,
    ) -> Self {
        Self {
            daemon,
            submission,
            local,
            store_dir,
            screen,
            begun: None,
            recorded: Vec::new(),
            totals: Totals::default(),
        }
    }

    /// Sends all there is in one message, however often the connection is lost within a minute.
    pub(super) async fn whole(
        mut self,
        jobs: Vec<NewJob>,
        error: Option<String>,
    ) -> Result<(Daemon, EvaluationSummary), Problem> {
        let bytes: usize = jobs.iter().map(weight).sum();
        if bytes > WHOLE_BYTES {
            self.send(jobs).await?;
            return self.end(error).await;
        }
        loop {
            match self.deliver_whole(&jobs, error.as_ref()).await {
                Ok(summary) => {
                    self.screen.show(&Event::Sent { summary: &summary })?;
                    return Ok((self.daemon, summary));
                }
                Err(problem) => self.come_back(problem).await?,
            }
        }
    }

    /// Shows the counters.
    pub(super) fn show_totals(&mut self) -> Result<(), Problem> {
        Ok(self.screen.show(&Event::Sending(self.totals))?)
    }

    /// Counts what was evaluated, and shows attributes that did not evaluate.
    pub(super) fn found(&mut self, jobs: &[NewJob]) -> Result<(), Problem> {
        for job in jobs {
            match &job.result {
                Evaluated::Drv(_) => self.totals.evaluated += 1,
                Evaluated::Error(message) => {
                    self.totals.errors += 1;
                    self.screen.show(&Event::AttributeError {
                        attr: &job.attr,
                        message,
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Sends one batch, however often the connection is lost within a minute.
    pub(super) async fn send(&mut self, batch: Vec<NewJob>) -> Result<(), Problem> {
        let mut sent = self.deliver(&batch).await;
        while let Err(problem) = sent {
            self.come_back(problem).await?;
            sent = self.deliver(&batch).await;
        }
        self.recorded.extend(batch);
        Ok(())
    }

    /// Says that there are no more jobs.
    pub(super) async fn end(mut self, error: Option<String>) -> Result<(Daemon, EvaluationSummary), Problem> {
        self.show_totals()?;
        loop {
            match self.deliver_end(error.as_ref()).await {
                Ok(summary) => {
                    self.screen.show(&Event::Sent { summary: &summary })?;
                    return Ok((self.daemon, summary));
                }
                Err(problem) => self.come_back(problem).await?,
            }
        }
    }

    /// Waits for the daemon and finds the submission again; fails with `problem` where waiting is no use.
    async fn come_back(&mut self, problem: Problem) -> Result<(), Problem> {
        if problem.exit() != Exit::Unreachable {
            return Err(problem);
        }
        let mut patience = Patience::new(problem);
        loop {
            let (after, reason) = patience.next()?;
            self.screen.show(&Event::Retrying {
                after_ms: after.as_millis() as u64,
                reason: &reason,
            })?;
            tokio::time::sleep(after).await;
            match self.resume().await {
                Ok(()) => return Ok(()),
                Err(problem) => patience.failed(problem)?,
            }
        }
    }

    async fn resume(&mut self) -> Result<(), Problem> {
        self.daemon = self.daemon.again().await?;
        if self.begun.is_none() {
            return Ok(());
        }
        let begun = self.begin().await?;
        if !begun.resumed && !self.recorded.is_empty() {
            let recorded = std::mem::take(&mut self.recorded);
            let sent = self.deliver(&recorded).await;
            self.recorded = recorded;
            sent?;
        }
        Ok(())
    }

    /// Opens the evaluation, or finds it again.
    pub(super) async fn begin(&mut self) -> Result<Begun, Problem> {
        let begun: Begun = (self.daemon)
            .ask(&Request::SubmitBegin(self.submission.clone()))
            .await?;
        show_begun(self.screen, &begun)?;
        Ok(self.begun.insert(begun).clone())
    }

    async fn begun(&mut self) -> Result<EvaluationId, Problem> {
        match &self.begun {
            Some(begun) => Ok(begun.evaluation),
            None => Ok(self.begin().await?.evaluation),
        }
    }

    /// One try at all.
    async fn deliver_whole(&mut self, jobs: &[NewJob], error: Option<&String>) -> Result<EvaluationSummary, Problem> {
        let lost = self.carry(jobs).await?;
        let request = Request::Submit {
            submission: self.submission.clone(),
            jobs: jobs.iter().map(|job| without_lost(job, &lost)).collect(),
            error: error.cloned(),
        };
        let Submitted { summary, resumed } = self.daemon.ask(&request).await?;
        let begun = Begun {
            evaluation: summary.evaluation,
            page: summary.page.clone(),
            resumed,
        };
        show_begun(self.screen, &begun)?;
        self.totals.submitted = jobs.len() as u64;
        self.show_totals()?;
        Ok(summary)
    }

    /// One try at one batch.
    async fn deliver(&mut self, batch: &[NewJob]) -> Result<(), Problem> {
        let evaluation = self.begun().await?;
        let lost = self.carry(batch).await?;
        for jobs in batch.chunks(JOBS_PER_MESSAGE) {
            let jobs = jobs.iter().map(|job| without_lost(job, &lost)).collect();
            let accepted: Accepted = self.daemon.ask(&Request::SubmitJobs { evaluation, jobs }).await?;
            self.totals.submitted = accepted.jobs;
        }
        self.show_totals()
    }

    /// One try at the end.
    async fn deliver_end(&mut self, error: Option<&String>) -> Result<EvaluationSummary, Problem> {
        let evaluation = self.begun().await?;
        let error = error.cloned();
        self.daemon.ask(&Request::SubmitEnd { evaluation, error }).await
    }

    /// Uploads what the daemon lacks for these jobs; returns the derivations that are nowhere.
    async fn carry(&mut self, batch: &[NewJob]) -> Result<HashSet<String>, Problem> {
        let roots = roots(&self.store_dir, batch)?;
        let before = self.totals;
        let screen = &mut *self.screen;
        let mut each = |step: &Step| {
            let totals = Totals {
                negotiated: before.negotiated + batch.len() as u64,
                missing: before.missing + step.missing,
                uploaded: before.uploaded + step.sent,
                uploaded_bytes: before.uploaded_bytes + step.sent_bytes,
                ..before
            };
            screen.show(&Event::Sending(totals))
        };
        let moved = transfer::closure(self.daemon.peer(), self.local, &roots, &mut each).await?;
        self.totals.missing += moved.step.missing;
        self.totals.uploaded += moved.step.sent;
        self.totals.uploaded_bytes += moved.step.sent_bytes;
        self.totals.negotiated += batch.len() as u64;
        Ok((moved.lost.iter())
            .map(|path| self.store_dir.display(path).to_string())
            .collect())
    }
}

/// About how many bytes a job takes in a message.
fn weight(job: &NewJob) -> usize {
    let (Evaluated::Drv(text) | Evaluated::Error(text)) = &job.result;
    let names: usize = job.attr.names().iter().map(String::len).sum();
    text.len() + names + 64
}

/// The derivations of jobs.
pub(super) fn roots(store_dir: &StoreDir, jobs: &[NewJob]) -> Result<Vec<StorePath>, Problem> {
    let mut roots = Vec::with_capacity(jobs.len());
    for job in jobs {
        match &job.result {
            Evaluated::Drv(path) => roots.push(store_dir.parse(path).map_err(|error| {
                Problem::failed(format!(
                    "the derivation `{path}` of `{}` is no store path: {error}",
                    job.attr
                ))
            })?),
            Evaluated::Error(_) => {}
        }
    }
    roots.sort();
    roots.dedup();
    Ok(roots)
}

/// The job; an error in place of a derivation that is nowhere to be found, so that its neighbours go on.
pub(super) fn without_lost(job: &NewJob, lost: &HashSet<String>) -> NewJob {
    let result = match &job.result {
        Evaluated::Drv(path) if lost.contains(path) => Evaluated::Error(format!(
            "the derivation `{path}` is neither in the local store nor at the daemon"
        )),
        other => other.clone(),
    };
    NewJob {
        attr: job.attr.clone(),
        result,
    }
}

fn show_begun(screen: &mut Screen, begun: &Begun) -> Result<(), Problem> {
    Ok(screen.show(&Event::Begun {
        evaluation: begun.evaluation,
        page: begun.page.as_deref(),
        resumed: begun.resumed,
    })?)
}
