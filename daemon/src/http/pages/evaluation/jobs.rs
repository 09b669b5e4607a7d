//! The list of jobs: which rows are on this page, and what is in a row.

use std::hash::{DefaultHasher, Hash, Hasher};

use askama::Template;
use nixci_protocol::nixci::attr_path::AttrPath;
use nixci_protocol::nixci::control::JobStatus;
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::nixci::verdict::{Bucket, derivation_name, strip_ansi};

use super::PageQuery;
use crate::http::pages::build_url;
use crate::http::show::mark::Mark;
use crate::http::show::shorten;
use crate::http::show::time::duration;
use crate::read::View;

/// Rows on one page.
const ROWS: usize = 100;
/// Characters of an attribute path.
const ATTR_CHARS: usize = 140;

/// Where in the list a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) page: usize,
    pub(super) pages: usize,
    pub(super) first: usize,
    pub(super) last: usize,
    pub(super) found: usize,
}

/// The rows of a page.
pub(super) struct Listed {
    /// Places in the view's list of jobs.
    pub(super) rows: Vec<usize>,
    /// Jobs that are on base only.
    pub(super) removed: Vec<AttrPath>,
    pub(super) place: Place,
}

/// Chooses the rows: problems first, then by attribute path.
pub(super) fn select(view: &View, show: Option<Bucket>, query: &PageQuery) -> Listed {
    let needle = query.q.as_deref().unwrap_or_default().trim().to_lowercase();
    let fits = |attr: &AttrPath, drv: Option<&str>| {
        needle.is_empty()
            || attr.to_string().to_lowercase().contains(&needle)
            || drv.is_some_and(|drv| drv.to_lowercase().contains(&needle))
    };
    let mut found: Vec<usize> = (0..view.jobs.len())
        .filter(|at| show.is_none_or(|show| view.buckets[*at] == show))
        .filter(|at| fits(&view.jobs[*at].attr, view.jobs[*at].drv_path.as_deref()))
        .collect();
    // What is fine is one group: whether it was fine before matters less than where it is found.
    let rank = |at: usize| {
        let bucket = view.buckets[at];
        if bucket.is_fine() && bucket != Bucket::Fixed {
            (Bucket::Ok, 0)
        } else {
            (bucket, progress(&view.jobs[at].outcome))
        }
    };
    found.sort_by_key(|at| rank(*at));
    let removed: Vec<&AttrPath> = view
        .verdict
        .rows
        .iter()
        .filter(|row| row.bucket == Bucket::Removed && show.is_none_or(|show| show == Bucket::Removed))
        .filter(|row| fits(&row.attr, None))
        .map(|row| &row.attr)
        .collect();

    let total = found.len() + removed.len();
    let pages = total.div_ceil(ROWS).max(1);
    let page = query.page.map_or(1, |page| page as usize).clamp(1, pages);
    let start = (page - 1) * ROWS;
    let end = (start + ROWS).min(total);
    Listed {
        rows: found
            .get(start.min(found.len())..end.min(found.len()))
            .unwrap_or_default()
            .to_vec(),
        removed: removed
            .into_iter()
            .skip(start.saturating_sub(found.len()))
            .take(end.saturating_sub(start.max(found.len())))
            .cloned()
            .collect(),
        place: Place {
            page,
            pages,
            first: start + 1,
            last: end,
            found: total,
        },
    }
}

/// What is furthest comes first among the unfinished.
fn progress(outcome: &Outcome) -> u8 {
    match outcome {
        Outcome::Forwarding => 1,
        Outcome::Queued { .. } => 2,
        Outcome::Building
        | Outcome::Succeeded { .. }
        | Outcome::Failed { .. }
        | Outcome::Blocked { .. }
        | Outcome::Cancelled
        | Outcome::EvaluationError { .. } => 0,
    }
}

#[derive(Template)]
#[template(path = "job.html")]
struct Row {
    j: JobView,
}

struct JobView {
    id: String,
    mark: Mark,
    attr: String,
    url: Option<String>,
    why: Option<String>,
    bucket: Option<Mark>,
    took: String,
    log: Option<String>,
}

/// The identity of a job's row on any page, and the row.
pub(super) fn row(status: &JobStatus, bucket: Option<Bucket>) -> askama::Result<(String, String)> {
    let url = status.drv_path.as_deref().map(build_url);
    let has_log = match &status.outcome {
        Outcome::Building | Outcome::Failed { .. } | Outcome::Succeeded { .. } => status.attempt,
        Outcome::Queued { .. }
        | Outcome::Forwarding
        | Outcome::Blocked { .. }
        | Outcome::Cancelled
        | Outcome::EvaluationError { .. } => None,
    };
    let id = row_id(&status.attr);
    let html = Row {
        j: JobView {
            id: id.clone(),
            mark: (&status.outcome).into(),
            attr: shorten(&status.attr.to_string(), ATTR_CHARS),
            log: url
                .as_ref()
                .filter(|_| has_log.is_some())
                .map(|url| format!("{url}#log")),
            url,
            why: why(&status.outcome),
            bucket: bucket.map(Mark::from),
            took: status.duration_ms.map(duration).unwrap_or_default(),
        },
    };
    Ok((id, html.render()?))
}

/// The row of a job that is on base only.
pub(super) fn removed_row(attr: &AttrPath) -> askama::Result<(String, String)> {
    let id = row_id(attr);
    let html = Row {
        j: JobView {
            id: id.clone(),
            mark: Bucket::Removed.into(),
            attr: shorten(&attr.to_string(), ATTR_CHARS),
            url: None,
            why: Some("only on base".to_owned()),
            bucket: Some(Bucket::Removed.into()),
            took: String::new(),
            log: None,
        },
    };
    Ok((id, html.render()?))
}

fn row_id(attr: &AttrPath) -> String {
    let mut hasher = DefaultHasher::new();
    attr.hash(&mut hasher);
    format!("j{:016x}", hasher.finish())
}

fn why(outcome: &Outcome) -> Option<String> {
    match outcome {
        Outcome::Queued { reason } => Some(shorten(reason, 160)),
        Outcome::Blocked { by } => {
            let names: Vec<&str> = by.iter().take(2).map(|drv| derivation_name(drv)).collect();
            let more = if by.len() > 2 {
                format!(" and {} more", by.len() - 2)
            } else {
                String::new()
            };
            Some(format!("by {}{more}", shorten(&names.join(", "), 160)))
        }
        Outcome::EvaluationError { message } => {
            let message = strip_ansi(message);
            let line = message
                .lines()
                .map(str::trim)
                .find(|line| !line.is_empty())
                .unwrap_or_default();
            Some(shorten(line.strip_prefix("error:").map_or(line, str::trim_start), 160))
        }
        Outcome::Forwarding
        | Outcome::Building
        | Outcome::Succeeded { .. }
        | Outcome::Failed { .. }
        | Outcome::Cancelled => None,
    }
}
