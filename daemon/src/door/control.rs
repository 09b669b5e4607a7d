//! The control operation: JSON in, JSON or JSON lines out.

use nixci_protocol::log::RemoteError;
use nixci_protocol::nixci::control::Request;
use nixci_protocol::op::Reply;
use nixci_protocol::server::HandlerError;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::{Stream, StreamExt};

use super::session::{Session, refuse};
use crate::ci::{Answer, Lines};
use crate::error::CiError;

/// Lines that wait to be framed.
const LINES: usize = 16;

pub(super) async fn answer(session: &mut Session, json: &str) -> Result<Reply, HandlerError> {
    let request: Request = serde_json::from_str(json)
        .map_err(|error| HandlerError::new(format!("the control message cannot be read: {error}")))?;
    if let Request::SubmitJobs { evaluation, .. } = &request {
        attend(session, *evaluation);
    }
    if let Request::SubmitEnd { evaluation, .. } = &request {
        session
            .attending
            .retain(|attending| attending.evaluation() != *evaluation);
    }
    let begins = matches!(request, Request::SubmitBegin(_));
    let answer = session
        .ci
        .answer(&session.who, request)
        .await
        .map_err(|error| match error {
            CiError::NotAllowed(text) => RemoteError::refusal(text).into(),
            other => refuse(&other),
        })?;
    Ok(match answer {
        Answer::One(json) => {
            if begins && let Ok(begun) = serde_json::from_str::<nixci_protocol::nixci::control::Begun>(&json) {
                attend(session, begun.evaluation);
            }
            Reply::Json(json)
        }
        Answer::Lines(Lines::Events(events)) => Reply::JsonLines(lines(events)),
        Answer::Lines(Lines::Log(events)) => Reply::JsonLines(lines(events)),
    })
}

/// The client is there: its evaluation is not given up while this connection lasts.
fn attend(session: &mut Session, evaluation: nixci_protocol::nixci::control::EvaluationId) {
    if session
        .attending
        .iter()
        .all(|attending| attending.evaluation() != evaluation)
    {
        session.attending.push(session.ci.attend(evaluation));
    }
}

fn lines<T: Serialize + Send + 'static>(
    events: impl Stream<Item = T> + Send + Unpin + 'static,
) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel(LINES);
    let mut events = events;
    tokio::spawn(async move {
        loop {
            let event = tokio::select! {
                event = events.next() => event,
                () = sender.closed() => return,
            };
            let Some(event) = event else { return };
            let Ok(line) = serde_json::to_string(&event) else {
                return;
            };
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
    lines
}
