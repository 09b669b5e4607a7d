//! Which bucket each job belongs to.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::types::{Bucket, Cause, Conclusion, JobInput, RootCause, Row, Side, SideInput, Verdict};
use super::words;
use crate::nixci::attr_path::AttrPath;
use crate::nixci::control::EvaluationState;
use crate::nixci::outcome::{FailureClass, Outcome};

/// What `head` says, alone or against `base`.
///
/// `causes` are the failed derivations that outcomes of either side name, in any order; only those
/// that head's jobs fail by become [`Verdict::root_causes`]. A failed derivation without a cause is
/// taken for a build failure of which nothing more is known.
#[must_use]
pub fn verdict(head: &SideInput, base: Option<&SideInput>, causes: &[Cause]) -> Verdict {
    classify(head, base, causes).0
}

/// As [`verdict`], and the bucket of every job of head, in the order in which the jobs were given.
#[must_use]
pub fn classify(head: &SideInput, base: Option<&SideInput>, causes: &[Cause]) -> (Verdict, Vec<Bucket>) {
    let causes: HashMap<&str, &Cause> = causes.iter().map(|cause| (cause.drv_path.as_str(), cause)).collect();
    let failed_on_base = base.map(|base| failed_derivations(base, &causes)).unwrap_or_default();
    let (partners, only_on_base) = pair(&head.jobs, base.map_or(&[], |base| &base.jobs));

    let mut counts = BTreeMap::new();
    let mut rows = Vec::new();
    let mut buckets = Vec::with_capacity(head.jobs.len());
    for (job, on_base) in head.jobs.iter().zip(partners) {
        let bucket = match base {
            None => alone(value(&job.outcome, &causes)),
            Some(base) => against(job, on_base, knows_all_jobs(base), &causes, &failed_on_base),
        };
        buckets.push(bucket);
        *counts.entry(bucket).or_default() += 1;
        if is_listed(bucket) {
            rows.push(Row {
                attr: job.attr.clone(),
                bucket,
                head: Some(job.outcome.clone()),
                base: on_base.map(|job| job.outcome.clone()),
                drv_path: job.drv_path.clone(),
            });
        }
    }
    if knows_all_jobs(head) {
        for job in only_on_base {
            *counts.entry(Bucket::Removed).or_default() += 1;
            rows.push(Row {
                attr: job.attr.clone(),
                bucket: Bucket::Removed,
                head: None,
                base: Some(job.outcome.clone()),
                drv_path: None,
            });
        }
    }
    rows.sort_unstable_by(|a, b| (a.bucket, &a.attr).cmp(&(b.bucket, &b.attr)));

    let mut verdict = Verdict {
        head: side(head),
        base: base.map(side),
        conclusion: conclude(head, &counts),
        sentence: String::new(),
        counts,
        rows,
        root_causes: root_causes(head, &causes, &failed_on_base),
        error: head.error.clone(),
    };
    verdict.sentence = words::sentence(&verdict, head.state);
    (verdict, buckets)
}

/// The job of base for each one of head, and those of base that have none on head.
///
/// Both sides are walked in order. They mostly come in order, and then this is several times as fast as a table.
fn pair<'a>(head: &[JobInput], base: &'a [JobInput]) -> (Vec<Option<&'a JobInput>>, Vec<&'a JobInput>) {
    let mut order: Vec<usize> = (0..head.len()).collect();
    order.sort_by(|a, b| head[*a].attr.cmp(&head[*b].attr));
    let mut base: Vec<&JobInput> = base.iter().collect();
    base.sort_by(|a, b| a.attr.cmp(&b.attr));
    let mut partners = vec![None; head.len()];
    let mut only_on_base = Vec::new();
    let mut rest = base.into_iter().peekable();
    let mut last: Option<&JobInput> = None;
    for at in order {
        let attr = &head[at].attr;
        while let Some(job) = rest.next_if(|job| job.attr < *attr) {
            only_on_base.push(job);
        }
        if let Some(job) = rest.next_if(|job| job.attr == *attr) {
            last = Some(job);
        }
        partners[at] = last.filter(|job| job.attr == *attr);
    }
    only_on_base.extend(rest);
    (partners, only_on_base)
}

/// What one outcome means to a reader who decides about merging.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Value {
    Fine,
    /// The derivation or the expression is at fault.
    Bad,
    /// The place or the time is at fault.
    NoAnswer,
    Pending,
}

fn value(outcome: &Outcome, causes: &HashMap<&str, &Cause>) -> Value {
    match outcome {
        Outcome::Queued { .. } | Outcome::Forwarding | Outcome::Building => Value::Pending,
        Outcome::Succeeded { .. } => Value::Fine,
        Outcome::Failed { class } if class.is_remembered() => Value::Bad,
        Outcome::Blocked { by } if by.is_empty() || by.iter().any(|drv| is_bad(drv, causes)) => Value::Bad,
        Outcome::Failed { .. } | Outcome::Blocked { .. } | Outcome::Cancelled => Value::NoAnswer,
        Outcome::EvaluationError { .. } => Value::Bad,
    }
}

/// Whether a failed derivation is itself at fault, as far as is known.
fn is_bad(drv_path: &str, causes: &HashMap<&str, &Cause>) -> bool {
    causes.get(drv_path).is_none_or(|cause| cause.class.is_remembered())
}

fn alone(head: Value) -> Bucket {
    match head {
        Value::Fine => Bucket::Ok,
        Value::Bad => Bucket::Failing,
        Value::NoAnswer => Bucket::NotAnswered,
        Value::Pending => Bucket::Running,
    }
}

fn against(
    job: &JobInput,
    on_base: Option<&JobInput>,
    base_is_whole: bool,
    causes: &HashMap<&str, &Cause>,
    failed_on_base: &HashSet<&str>,
) -> Bucket {
    let was = on_base.map(|job| value(&job.outcome, causes));
    match value(&job.outcome, causes) {
        Value::Pending => Bucket::Running,
        Value::NoAnswer => Bucket::NotAnswered,
        Value::Fine if job.drv_path.is_some() && on_base.is_some_and(|on_base| on_base.drv_path == job.drv_path) => {
            Bucket::Unchanged
        }
        Value::Fine => match was {
            Some(Value::Fine) => Bucket::StillOk,
            Some(Value::Bad) => Bucket::Fixed,
            None if base_is_whole => Bucket::AddedOk,
            Some(Value::NoAnswer | Value::Pending) | None => Bucket::Ok,
        },
        Value::Bad if has_failed_on_base(job, causes, failed_on_base) => Bucket::StillFailing,
        Value::Bad => match was {
            Some(Value::Fine) => Bucket::NewlyFailing,
            Some(Value::Bad) => Bucket::StillFailing,
            None if base_is_whole => Bucket::AddedFailing,
            Some(Value::NoAnswer | Value::Pending) | None => Bucket::Failing,
        },
    }
}

/// Whether everything that is at fault for this job failed on base as well.
fn has_failed_on_base(job: &JobInput, causes: &HashMap<&str, &Cause>, failed_on_base: &HashSet<&str>) -> bool {
    let mut faults = roots(job).filter(|drv| is_bad(drv, causes)).peekable();
    faults.peek().is_some() && faults.all(|drv| failed_on_base.contains(drv))
}

/// The failed derivations that this job fails by: itself, or what blocks it.
fn roots(job: &JobInput) -> impl Iterator<Item = &str> {
    let (itself, by) = match &job.outcome {
        Outcome::Failed { .. } => (job.drv_path.as_deref(), &[][..]),
        Outcome::Blocked { by } => (None, by.as_slice()),
        Outcome::Queued { .. }
        | Outcome::Forwarding
        | Outcome::Building
        | Outcome::Succeeded { .. }
        | Outcome::Cancelled
        | Outcome::EvaluationError { .. } => (None, &[][..]),
    };
    itself.into_iter().chain(by.iter().map(String::as_str))
}

fn failed_derivations<'a>(side: &'a SideInput, causes: &HashMap<&str, &Cause>) -> HashSet<&'a str> {
    side.jobs
        .iter()
        .filter(|job| value(&job.outcome, causes) == Value::Bad)
        .flat_map(roots)
        .filter(|drv| is_bad(drv, causes))
        .collect()
}

/// Whether a job that is not there does not exist, in place of being not known yet.
fn knows_all_jobs(side: &SideInput) -> bool {
    side.error.is_none()
        && match side.state {
            EvaluationState::Building | EvaluationState::Done | EvaluationState::Cancelled => true,
            EvaluationState::Receiving | EvaluationState::Abandoned => false,
        }
}

fn is_listed(bucket: Bucket) -> bool {
    match bucket {
        Bucket::NewlyFailing
        | Bucket::AddedFailing
        | Bucket::Failing
        | Bucket::StillFailing
        | Bucket::Fixed
        | Bucket::NotAnswered
        | Bucket::Running
        | Bucket::Removed => true,
        Bucket::Ok | Bucket::StillOk | Bucket::AddedOk | Bucket::Unchanged => false,
    }
}

fn conclude(head: &SideInput, counts: &BTreeMap<Bucket, u64>) -> Conclusion {
    let any = |buckets: &[Bucket]| buckets.iter().any(|bucket| counts.contains_key(bucket));
    if head.error.is_some() {
        Conclusion::Failure
    } else if head.state == EvaluationState::Receiving || any(&[Bucket::Running]) {
        Conclusion::Running
    } else if any(&[Bucket::NewlyFailing, Bucket::AddedFailing, Bucket::Failing]) {
        Conclusion::Failure
    } else if any(&[Bucket::NotAnswered]) || head.state == EvaluationState::Abandoned {
        Conclusion::Incomplete
    } else {
        Conclusion::Success
    }
}

fn side(input: &SideInput) -> Side {
    Side {
        evaluation: input.evaluation,
        project: input.project.clone(),
        commit: input.commit.clone(),
        jobs: input.jobs.len() as u64,
    }
}

fn root_causes(head: &SideInput, causes: &HashMap<&str, &Cause>, failed_on_base: &HashSet<&str>) -> Vec<RootCause> {
    #[derive(Default)]
    struct Found<'a> {
        class: Option<FailureClass>,
        attr: Option<&'a AttrPath>,
        blocks: u64,
    }
    let mut found: BTreeMap<&str, Found<'_>> = BTreeMap::new();
    for job in &head.jobs {
        let itself = match &job.outcome {
            Outcome::Failed { class } => Some(*class),
            _ => None,
        };
        for drv in roots(job) {
            let entry = found.entry(drv).or_default();
            if itself.is_some() {
                entry.class = itself;
                entry.attr = entry.attr.into_iter().chain([&job.attr]).min();
            } else {
                entry.blocks += 1;
            }
        }
    }
    let mut list: Vec<RootCause> = found
        .into_iter()
        .map(|(drv_path, found)| {
            let cause = causes.get(drv_path);
            RootCause {
                drv_path: drv_path.to_owned(),
                name: words::derivation_name(drv_path).to_owned(),
                class: found
                    .class
                    .or(cause.map(|cause| cause.class))
                    .unwrap_or(FailureClass::Build),
                message: cause.map(|cause| cause.message.clone()).unwrap_or_default(),
                log_tail: cause.map(|cause| cause.log_tail.clone()).unwrap_or_default(),
                attempt: cause.and_then(|cause| cause.attempt),
                blocks: found.blocks,
                attr: found.attr.cloned(),
                on_base: failed_on_base.contains(drv_path),
            }
        })
        .collect();
    // Those at fault before those that only could not be tried, then by what they block.
    list.sort_by(|a, b| {
        let key = |cause: &RootCause| {
            (
                !cause.class.is_remembered(),
                cause.on_base,
                std::cmp::Reverse(cause.blocks),
            )
        };
        key(a).cmp(&key(b)).then_with(|| a.name.cmp(&b.name))
    });
    list
}
