//! What each context of a commit shall say: one pure function of an evaluation, its verdict, and what stands there.
//!
//! The summary is wanted from the beginning and is final last. A job is written once, when it is final: nobody reads 300
//! yellow lines. What was ever red is written again when it is not red any more, whatever the detail.

use std::collections::{HashMap, HashSet};

use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::{EvaluationState, JobStatus, Millis, Submission};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::nixci::report::{StatusContent, StatusRole, StatusState};
use nixci_protocol::nixci::verdict::{Bucket, Conclusion};
use nixci_store::index::statuses::{Stand, StatusKey, Wanted};

use super::reproduce::Origin;
use super::{positions, text};
use crate::config::{self, Detail, ForgeKind};
use crate::read::{LoadedJob, View};

/// The label of a submission that tells it from others of the same commit: `nixci submit --label check=nightly`.
const CHECK_LABEL: &str = "check";
/// The context of a verdict for plain webhooks.
const VERDICT: &str = "verdict";
/// How often a summary that is not final is written again at most, where that is worth a request.
const PROGRESS: Millis = 60_000;
/// Annotations of one evaluation: GitHub shows them all beside the code.
const ANNOTATIONS: usize = 200;

/// Where an evaluation is told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Target<'a> {
    pub(crate) forge: &'a config::Forge,
    pub(crate) project: &'a config::Project,
    pub(crate) repository: &'a str,
    pub(crate) commit: &'a str,
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Picture<'a> {
    pub(crate) submission: &'a Submission,
    pub(crate) view: &'a View,
    /// What stands at this commit, by whomever.
    pub(crate) there: &'a [Stand],
    /// Of the evaluations that wrote it, those that are told apart from this one by [`CHECK_LABEL`].
    pub(crate) others: &'a HashSet<i64>,
    /// The jobs that [`shown`] named, with how long they took.
    pub(crate) jobs: &'a [JobStatus],
    pub(crate) now: Millis,
}

/// The name that tells evaluations of one commit apart.
pub(crate) fn check_of(submission: &Submission) -> Option<&str> {
    submission.labels.get(CHECK_LABEL).map(String::as_str)
}

/// The jobs that get a line of their own, by their places in the view.
pub(crate) fn shown(target: Target<'_>, view: &View, there: &[Stand], others: &HashSet<i64>) -> Vec<usize> {
    let written = written(there, others);
    let goes_on = !matches!(view.summary.state, EvaluationState::Done);
    let few = view.jobs.len() <= target.project.details as usize;
    // What stands there in red counts, whichever look has put it there.
    let red = written.values().filter(|row| row.state.is_red()).count();
    let mut room = target.project.details.saturating_sub(red as u32);
    let jobs = view.jobs.iter().zip(&view.buckets).enumerate();
    jobs.filter(|(_, (job, bucket))| {
        let is_final = job.outcome.is_final();
        if let Some(row) = written.get(&job.attr) {
            let state = row.state;
            let is_said = row.evaluation == view.summary.evaluation && state == job_state(&job.outcome, **bucket);
            // Nothing new to say of what is being built again, unless it stands there in red; nor, until all is over,
            // of what is said: there may be thousands, and each look would write their words again.
            return (is_final || row.was_red || state.is_red()) && !(goes_on && is_said);
        }
        if !is_final || matches!(job.outcome, Outcome::EvaluationError { .. }) {
            return false;
        }
        let failed = matches!(job.outcome, Outcome::Failed { .. }) && !matches!(bucket, Bucket::StillFailing);
        match target.project.detail {
            Detail::All => true,
            Detail::Adaptive if few => true,
            Detail::Adaptive | Detail::Failures => {
                let shows = failed && room > 0;
                room -= u32::from(shows);
                shows
            }
            Detail::Summary => false,
        }
    })
    .map(|(at, _)| at)
    .collect()
}

/// The jobs that have a line there, of this evaluation or of one before it.
fn written<'r>(there: &'r [Stand], others: &HashSet<i64>) -> HashMap<&'r AttrPath, &'r Stand> {
    there
        .iter()
        .filter(|row| !others.contains(&row.evaluation.0))
        .filter_map(|row| Some((row.attr.as_ref()?, row)))
        .collect()
}

/// Everything that shall stand at the commit because of this evaluation.
pub(crate) fn compose(target: Target<'_>, picture: Picture<'_>) -> Vec<Wanted> {
    let Picture { view, submission, .. } = picture;
    if target.forge.kind == ForgeKind::Webhook {
        return verdict(target, picture).into_iter().collect();
    }
    let kind = target.forge.kind.word();
    let names = &target.project.contexts;
    let of_check = |name: String| match check_of(submission) {
        Some(check) => format!("{name} ({check})"),
        None => name,
    };
    let summary = of_check(names.of_summary(&submission.project, kind));
    let evaluation = of_check(names.of_evaluation(&submission.project, kind));
    let want = |context: &str, role, attr: Option<&AttrPath>, content| Wanted {
        key: StatusKey {
            forge: target.forge.name.clone(),
            repository: target.repository.to_owned(),
            commit: target.commit.to_owned(),
            context: context.to_owned(),
        },
        evaluation: view.summary.evaluation,
        role,
        attr: attr.cloned(),
        content,
    };
    let mut wanted = Vec::with_capacity(picture.jobs.len() + 2);
    // A line that is there keeps its name, whichever jobs come besides.
    let written = written(picture.there, picture.others);
    let mut taken: HashSet<String> = written.values().map(|row| row.context.clone()).collect();
    taken.extend([summary.clone(), evaluation.clone()]);
    let before = |context: &str| picture.there.iter().find(|row| row.context == context);
    // First, so that whoever sends them in this order begins with it.
    if let Some(content) = summarise(target, picture, before(&summary)) {
        wanted.push(want(&summary, StatusRole::Summary, None, content));
    }
    if let Some(content) = evaluated(target, picture, before(&evaluation)) {
        wanted.push(want(&evaluation, StatusRole::Evaluation, None, content));
    }
    let buckets: HashMap<&AttrPath, (&LoadedJob, Bucket)> = view
        .jobs
        .iter()
        .zip(&view.buckets)
        .map(|(job, bucket)| (&job.attr, (job, *bucket)))
        .collect();
    for job in picture.jobs {
        let Some((_, bucket)) = buckets.get(&job.attr) else {
            continue;
        };
        let context = if let Some(row) = written.get(&job.attr) {
            row.context.clone()
        } else {
            let name = of_check(names.of_job(&job.attr, &submission.project, kind));
            // Two jobs that the template does not tell apart, or one that calls itself as the summary does.
            if taken.contains(&name) {
                format!("{name} [{}]", job.attr)
            } else {
                name
            }
        };
        let says = text::job(target, picture, job, job_state(&job.outcome, *bucket));
        wanted.push(want(&context, StatusRole::Job, Some(&job.attr), says));
        taken.insert(context);
    }
    for row in gone(picture, &buckets) {
        let content = text::gone(view);
        wanted.push(want(&row.context, row.role, row.attr.as_ref(), content));
    }
    wanted
}

/// What stands there in red, and this evaluation has no such job.
fn gone<'a>(
    picture: Picture<'a>,
    known: &'a HashMap<&AttrPath, (&LoadedJob, Bucket)>,
) -> impl Iterator<Item = &'a Stand> {
    let is_whole = matches!(picture.view.summary.state, EvaluationState::Done);
    picture.there.iter().filter(move |row| {
        let job = row.attr.as_ref();
        is_whole
            && row.state.is_red()
            && !picture.others.contains(&row.evaluation.0)
            && job.is_some_and(|attr| !known.contains_key(attr))
    })
}

/// What a job's status says. What failed on the base too is not this commit's doing.
fn job_state(outcome: &Outcome, bucket: Bucket) -> StatusState {
    match (bucket, outcome) {
        (_, Outcome::Cancelled) => StatusState::Cancelled,
        (Bucket::NewlyFailing | Bucket::AddedFailing | Bucket::Failing, _) => StatusState::Failure,
        (Bucket::StillFailing | Bucket::Removed, _) => StatusState::Neutral,
        (Bucket::NotAnswered, _) => StatusState::Error,
        (Bucket::Running, _) => StatusState::Running,
        (Bucket::Fixed | Bucket::Ok | Bucket::StillOk | Bucket::AddedOk | Bucket::Unchanged, _) => StatusState::Success,
    }
}

/// What the summary says. An evaluation whose client went away waits for somebody to run it again, which only a check run
/// can say.
fn summary_state(target: Target<'_>, view: &View) -> StatusState {
    match view.summary.state {
        EvaluationState::Receiving | EvaluationState::Building => StatusState::Running,
        EvaluationState::Cancelled => StatusState::Cancelled,
        EvaluationState::Abandoned if target.shows_checks() => StatusState::ActionRequired,
        EvaluationState::Abandoned => StatusState::Error,
        EvaluationState::Done => match view.verdict.conclusion {
            Conclusion::Success => StatusState::Success,
            Conclusion::Failure => StatusState::Failure,
            Conclusion::Incomplete => StatusState::Error,
            Conclusion::Running => StatusState::Running,
        },
    }
}

fn summarise(target: Target<'_>, picture: Picture<'_>, before: Option<&Stand>) -> Option<StatusContent> {
    let state = summary_state(target, picture.view);
    let is_progress = !state.is_final()
        && before.is_some_and(|row| row.state == state && row.evaluation == picture.view.summary.evaluation);
    if is_progress {
        // A commit status has one line, and each write of it is a row there for ever.
        let is_early = before.is_some_and(|row| picture.now - row.changed < PROGRESS);
        if !target.shows_checks() || is_early {
            return None;
        }
    }
    Some(text::summary(target, picture, state))
}

fn evaluated(target: Target<'_>, picture: Picture<'_>, before: Option<&Stand>) -> Option<StatusContent> {
    let view = picture.view;
    let is_red = before.is_some_and(|row| row.was_red || row.state.is_red());
    let errors = view
        .jobs
        .iter()
        .zip(&view.buckets)
        .filter_map(|(job, bucket)| match &job.outcome {
            Outcome::EvaluationError { message } => Some((&job.attr, message.as_str(), *bucket)),
            _ => None,
        });
    let errors: Vec<(&AttrPath, &str, Bucket)> = errors.collect();
    let counts = errors.iter().any(|(_, _, bucket)| bucket.counts_against_head());
    let state = match view.summary.state {
        EvaluationState::Receiving if is_red => StatusState::Running,
        EvaluationState::Receiving => return None,
        EvaluationState::Building | EvaluationState::Done => match (&view.summary.error, counts, errors.is_empty()) {
            (Some(_), ..) | (None, true, _) => StatusState::Failure,
            (None, false, false) => StatusState::Neutral,
            (None, false, true) => StatusState::Success,
        },
        EvaluationState::Cancelled => StatusState::Cancelled,
        EvaluationState::Abandoned => StatusState::Error,
    };
    let is_silent = match state {
        StatusState::Success => before.is_none() && target.project.detail == Detail::Summary,
        // The summary says so; what was evaluated before that was fine.
        StatusState::Cancelled | StatusState::Error => before.is_none(),
        StatusState::Queued
        | StatusState::Running
        | StatusState::Failure
        | StatusState::ActionRequired
        | StatusState::Neutral => false,
    };
    if is_silent {
        return None;
    }
    let mut annotations = Vec::new();
    let whole = view
        .summary
        .error
        .as_deref()
        .map(|error| ("evaluation failed".to_owned(), error));
    let each = errors.iter().map(|(attr, message, _)| (attr.to_string(), *message));
    for (title, message) in whole.into_iter().chain(each) {
        if annotations.len() < ANNOTATIONS
            && let Some(found) = positions::annotation(&title, message)
        {
            annotations.push(found);
        }
    }
    Some(text::evaluation(picture, state, &errors, annotations))
}

/// The verdict as a plain webhook is told it.
fn verdict(target: Target<'_>, picture: Picture<'_>) -> Option<Wanted> {
    let state = summary_state(target, picture.view);
    let says = text::verdict(picture, state).filter(|_| state.is_final())?;
    let context = match check_of(picture.submission) {
        Some(check) => format!("{VERDICT} ({check})"),
        None => VERDICT.to_owned(),
    };
    Some(Wanted {
        key: StatusKey {
            forge: target.forge.name.clone(),
            repository: target.repository.to_owned(),
            commit: target.commit.to_owned(),
            context,
        },
        evaluation: picture.view.summary.evaluation,
        role: StatusRole::Verdict,
        attr: None,
        content: says,
    })
}

impl<'a> Target<'a> {
    /// Whether it shows check runs, which have more to say than a line.
    fn shows_checks(self) -> bool {
        self.forge.kind == ForgeKind::GitHub && self.forge.form == config::Form::Checks
    }

    /// Where its sources can be had.
    pub(crate) fn origin(self) -> Origin<'a> {
        Origin {
            forge: self.forge,
            repository: self.repository,
            commit: self.commit,
        }
    }
}
