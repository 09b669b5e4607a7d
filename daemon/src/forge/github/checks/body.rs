//! What is sent of a status: the bodies of the requests that create and change a check run.

use nixci_protocol::nixci::control::Millis;
use nixci_protocol::nixci::report::StatusState;
use serde::Serialize;

use super::Run;
use crate::forge::github::button::{Action, buttons};
use crate::forge::github::output::{line, markdown, plain};
use crate::forge::{Outgoing, Scope, SendError};

/// Annotations that one request takes.
const ANNOTATIONS_AT_ONCE: usize = 50;
/// Annotations of a run: four requests. What is said beyond is in the text.
const ANNOTATIONS: usize = 200;
/// Characters of a name; a context has fewer.
const NAME_CHARS: usize = 255;
/// Characters of a title, and of that of an annotation.
const TITLE_CHARS: usize = 255;
/// Bytes of an annotation's message: 64 KB.
const MESSAGE_BYTES: usize = 64_000;

/// Everything that is said of a status, within GitHub's limits.
pub(super) struct Body<'a> {
    status: &'a Outgoing,
    name: String,
    title: String,
    summary: String,
    text: String,
    annotations: Vec<AnnotationBody>,
}

/// A check run that is created or changed.
#[derive(Serialize)]
pub(super) struct RunBody<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    head_sha: Option<&'a str>,
    external_id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    details_url: Option<&'a str>,
    status: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    conclusion: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    started_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    completed_at: Option<String>,
    output: OutputBody<'a>,
    actions: Vec<Action>,
}

/// A request that adds annotations.
#[derive(Serialize)]
pub(super) struct MoreBody<'a> {
    output: OutputBody<'a>,
}

#[derive(Serialize)]
struct OutputBody<'a> {
    title: &'a str,
    summary: &'a str,
    #[serde(skip_serializing_if = "str::is_empty")]
    text: &'a str,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    annotations: &'a [AnnotationBody],
}

#[derive(Serialize)]
struct AnnotationBody {
    path: String,
    start_line: u32,
    end_line: u32,
    annotation_level: &'static str,
    title: String,
    message: String,
}

impl<'a> Body<'a> {
    /// Fails where GitHub could not take it whatever was sent: the commit is none.
    pub(super) fn new(forge: &str, status: &'a Outgoing) -> Result<Self, SendError> {
        let content = &status.content;
        commit_of(forge, status)?;
        let url = web(content.url.as_deref());
        let title = match line(&content.description, TITLE_CHARS) {
            title if title.is_empty() => content.state.word().to_owned(),
            title => title,
        };
        let (annotations, left_out) = annotations(status);
        let mut text = content.text.clone();
        if left_out > 0 {
            text.insert_str(0, &format!("{left_out} more remarks are not shown on their lines.\n\n"));
        }
        Ok(Self {
            status,
            name: line(&status.context, NAME_CHARS),
            // GitHub wants both; a summary may not be empty.
            summary: if content.summary.trim().is_empty() {
                format!("`{}`", title.replace('`', "'"))
            } else {
                markdown(&content.summary, url)
            },
            title,
            text: markdown(&text, url),
            annotations,
        })
    }

    /// The name it is known by.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The commit.
    pub(super) fn commit(&self) -> &'a str {
        &self.status.commit
    }

    /// To create it.
    pub(super) fn create(&self) -> RunBody<'_> {
        RunBody {
            head_sha: Some(&self.status.commit),
            ..self.change()
        }
    }

    /// To change it.
    pub(super) fn change(&self) -> RunBody<'_> {
        let content = &self.status.content;
        let (status, conclusion) = words(content.state);
        let ended = content.ended.filter(|_| content.state.is_final());
        // What ended before it began by the clocks that saw it ended as it began.
        let ended = ended.map(|ended| ended.max(content.started.unwrap_or(ended)));
        RunBody {
            name: &self.name,
            head_sha: None,
            external_id: &self.status.external_id,
            details_url: web(content.url.as_deref()),
            status,
            conclusion,
            started_at: content.started.and_then(time),
            completed_at: ended.and_then(time),
            output: self.output(0),
            actions: buttons(self.status.role, content.state),
        }
    }

    /// The requests that follow with annotations that one does not take. Each repeats the output, of which all but the
    /// annotations would be replaced by what it says.
    pub(super) fn more_annotations(&self) -> impl Iterator<Item = MoreBody<'_>> {
        (ANNOTATIONS_AT_ONCE..self.annotations.len())
            .step_by(ANNOTATIONS_AT_ONCE)
            .map(|from| MoreBody {
                output: self.output(from),
            })
    }

    fn output(&self, from: usize) -> OutputBody<'_> {
        let to = self.annotations.len().min(from + ANNOTATIONS_AT_ONCE);
        OutputBody {
            title: &self.title,
            summary: &self.summary,
            text: &self.text,
            annotations: &self.annotations[from..to],
        }
    }

    /// Whether a run says exactly this.
    pub(super) fn is_said_by(&self, run: &Run) -> bool {
        let (status, conclusion) = words(self.status.content.state);
        let is = |said: &Option<String>, ours: &str| {
            let said = said.as_deref().unwrap_or_default();
            said == ours || said.trim_end().replace("\r\n", "\n") == ours.trim_end()
        };
        run.status == status
            && run.conclusion.as_deref() == conclusion
            && is(&run.output.title, &self.title)
            && is(&run.output.summary, &self.summary)
            && is(&run.output.text, &self.text)
            && run.output.annotations_count >= self.annotations.len()
    }
}

/// GitHub's status and conclusion. An error is `cancelled`: it blocks, and does not say that the code failed.
fn words(state: StatusState) -> (&'static str, Option<&'static str>) {
    match state {
        StatusState::Queued => ("queued", None),
        StatusState::Running => ("in_progress", None),
        StatusState::Success => ("completed", Some("success")),
        StatusState::Failure => ("completed", Some("failure")),
        StatusState::Error | StatusState::Cancelled => ("completed", Some("cancelled")),
        StatusState::ActionRequired => ("completed", Some("action_required")),
        StatusState::Neutral => ("completed", Some("neutral")),
    }
}

/// What a run says, in our words: the nearest there is.
pub(super) fn state_of(run: &Run) -> Option<StatusState> {
    Some(match (run.status.as_str(), run.conclusion.as_deref()) {
        ("completed", Some("success")) => StatusState::Success,
        ("completed", Some("failure" | "timed_out" | "startup_failure")) => StatusState::Failure,
        ("completed", Some("cancelled" | "stale")) => StatusState::Cancelled,
        ("completed", Some("action_required")) => StatusState::ActionRequired,
        ("completed", Some("neutral" | "skipped")) => StatusState::Neutral,
        ("in_progress", _) => StatusState::Running,
        ("queued" | "waiting" | "requested" | "pending", _) => StatusState::Queued,
        _ => return None,
    })
}

/// Annotations are sent with the final content only: GitHub adds what is sent to what is there. Also how many there are
/// beyond what is sent.
fn annotations(status: &Outgoing) -> (Vec<AnnotationBody>, usize) {
    let content = &status.content;
    if !content.state.is_final() {
        return (Vec::new(), 0);
    }
    let annotation_level = if content.state == StatusState::Failure {
        "failure"
    } else {
        "warning"
    };
    let mut fit = content.annotations.iter().filter_map(|annotation| {
        let path = line(annotation.path.trim_start_matches("./").trim_start_matches('/'), 4_096);
        let message = match annotation.message.trim() {
            "" => annotation.title.trim(),
            message => message,
        };
        // A line is counted from 1; a path or message that is empty is refused with all the others.
        (!path.is_empty() && !message.is_empty()).then(|| AnnotationBody {
            path,
            start_line: annotation.line.max(1),
            end_line: annotation.line.max(1),
            annotation_level,
            title: line(&annotation.title, TITLE_CHARS),
            message: plain(message, MESSAGE_BYTES),
        })
    });
    let kept = fit.by_ref().take(ANNOTATIONS).collect();
    (kept, fit.count())
}

/// Checks that a commit is what may come into an address: 40 or 64 hexadecimal digits.
pub(in crate::forge::github) fn commit_of<'a>(forge: &str, status: &'a Outgoing) -> Result<&'a str, SendError> {
    let commit = &status.commit;
    if matches!(commit.len(), 40 | 64) && commit.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Ok(commit);
    }
    Err(SendError::Refused {
        scope: Scope::Status,
        why: format!(
            "`{}` is no commit that `{forge}` could know; submit with all 40 digits of it",
            line(commit, 80)
        ),
    })
}

/// An address that a browser opens.
pub(in crate::forge::github) fn web(url: Option<&str>) -> Option<&str> {
    url.filter(|url| url.starts_with("https://") || url.starts_with("http://"))
}

/// As GitHub writes times: `YYYY-MM-DDTHH:MM:SSZ`.
fn time(millis: Millis) -> Option<String> {
    let time = jiff::Timestamp::from_millisecond(millis).ok()?;
    Some(time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string())
}
