//! What changes while a page is open, as server-sent events.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use axum::extract::{Path, Query, State};
use axum::response::sse::{Event, KeepAlive, Sse};
use nixci_protocol::nixci::control::Selector;
use nixci_store::logs::{Entry, Follow};
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_stream::wrappers::ReceiverStream;

use super::error::HttpError;
use super::pages::evaluation::{EvaluationView, PageQuery, load};
use super::show::ansi;
use super::{Site, select};
use crate::read::LINE_CHARS;

/// Events that wait for a slow reader; the sender waits beyond that, and looks afresh afterwards.
const WAITING: usize = 4;
/// The least time between two looks at an evaluation.
const PAUSE: Duration = Duration::from_secs(1);
/// So many times what a look took is paused before the next one: a large evaluation is looked at less often.
const RATIO: u32 = 10;
/// A look without any change of a build: jobs may have arrived, and running builds print.
const IDLE: Duration = Duration::from_secs(3);
/// Lines that are sent in one event at most.
const LINES: usize = 200;
/// Lines that collect for this long are sent together.
const COLLECT: Duration = Duration::from_millis(100);

type Events = Sse<axum::response::sse::KeepAliveStream<ReceiverStream<Result<Event, Infallible>>>>;

/// A part of a page, or a row of a list, as HTML.
#[derive(Debug, Serialize)]
struct Part<'a> {
    id: &'a str,
    html: &'a str,
}

fn stream(events: mpsc::Receiver<Result<Event, Infallible>>) -> Events {
    Sse::new(ReceiverStream::new(events)).keep_alive(KeepAlive::default())
}

/// `/e/ID/events`: the parts of the page that change. The first events bring all of them.
pub(super) async fn evaluation(
    State(site): State<Site>,
    Path(id): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Events, HttpError> {
    let which = Selector::Evaluation(select::evaluation(&id)?);
    let slot = site.stream_slot()?;
    let view = load(&site, &which, &query).await?;
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(follow_evaluation(site, which, query, view, sender, slot));
    Ok(stream(receiver))
}

/// Ends when the evaluation has, when the reader has gone, and when the evaluation cannot be read.
async fn follow_evaluation(
    site: Site,
    which: Selector,
    query: PageQuery,
    mut view: EvaluationView,
    sender: mpsc::Sender<Result<Event, Infallible>>,
    _slot: OwnedSemaphorePermit,
) {
    let mut changes = site.reader.changes();
    let mut sent = HashMap::new();
    loop {
        if send_changes(&view, &mut sent, &sender).await.is_none() {
            return;
        }
        let look = Instant::now();
        let any = async {
            match changes.recv().await {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                // The scheduler has stopped; so will this stream.
                Err(RecvError::Closed) => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sender.closed() => return,
            _ = tokio::time::timeout(IDLE, any) => {}
        }
        changes = changes.resubscribe();
        view = match load(&site, &which, &query).await {
            Ok(view) => view,
            Err(_) => return,
        };
        let pause = PAUSE.max(look.elapsed().min(IDLE) * RATIO / 10);
        tokio::select! {
            () = sender.closed() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Sends what differs from what was sent; `None` when there is nothing more to send.
async fn send_changes(
    view: &EvaluationView,
    sent: &mut HashMap<String, u64>,
    sender: &mpsc::Sender<Result<Event, Infallible>>,
) -> Option<()> {
    let mut is_new = |id: &str, html: &str| {
        let mut hasher = DefaultHasher::new();
        html.hash(&mut hasher);
        let hash = hasher.finish();
        sent.insert(id.to_owned(), hash) != Some(hash)
    };
    for (id, html) in [("now", view.now().ok()?), ("causes", view.causes().ok()?)] {
        if is_new(id, &html) {
            let event = Event::default()
                .event("part")
                .json_data(Part { id, html: &html })
                .ok()?;
            sender.send(Ok(event)).await.ok()?;
        }
    }
    let rows: Vec<Part<'_>> = view
        .rows()
        .filter(|(id, html)| is_new(id, html))
        .map(|(id, html)| Part { id, html })
        .collect();
    if !rows.is_empty() {
        sender
            .send(Ok(Event::default().event("rows").json_data(rows).ok()?))
            .await
            .ok()?;
    }
    if !view.live {
        sender
            .send(Ok(Event::default().event("done").data("done")))
            .await
            .ok()?;
        return None;
    }
    Some(())
}

#[derive(Debug, Deserialize)]
pub(super) struct FromQuery {
    from: Option<u64>,
}

/// A line of a log, or the phase that begins.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Line {
    Line { number: u64, html: String },
    Phase { phase: String },
}

/// `/attempts/ID/events`: lines of a log from a number on, until the attempt ends.
pub(super) async fn log(
    State(site): State<Site>,
    Path(id): Path<String>,
    Query(query): Query<FromQuery>,
) -> Result<Events, HttpError> {
    let id = select::attempt(&id)?;
    site.reader.attempt(id).await?;
    let slot = site.stream_slot()?;
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(follow_log(
        site.reader.follow_log(id),
        query.from.unwrap_or(1),
        sender,
        slot,
    ));
    Ok(stream(receiver))
}

async fn follow_log(
    mut log: Follow,
    from: u64,
    sender: mpsc::Sender<Result<Event, Infallible>>,
    _slot: OwnedSemaphorePermit,
) {
    let mut number = 0;
    let mut lines = Vec::new();
    let mut due = None;
    loop {
        let next = tokio::select! {
            () = sender.closed() => return,
            next = log.next() => Some(next),
            () = wait_until(due) => None,
        };
        let ended = match next {
            Some(Ok(Some(entry))) => {
                let is_line = matches!(entry, Entry::Line(_));
                number += u64::from(is_line);
                if number >= from {
                    lines.extend(line(number, entry));
                }
                false
            }
            Some(Ok(None) | Err(_)) => true,
            None => false,
        };
        if due.is_none() && !lines.is_empty() {
            due = Some(Instant::now() + COLLECT);
        }
        let is_due = due.is_some_and(|due| due <= Instant::now());
        if !lines.is_empty() && (ended || is_due || lines.len() >= LINES) {
            let Ok(event) = Event::default().event("lines").json_data(&lines) else {
                return;
            };
            if sender.send(Ok(event)).await.is_err() {
                return;
            }
            lines.clear();
            due = None;
        }
        if ended {
            // The reader may be gone; then nobody needs to know.
            drop(sender.send(Ok(Event::default().event("done").data("done"))).await);
            return;
        }
    }
}

async fn wait_until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

fn line(number: u64, entry: Entry) -> Option<Line> {
    match entry {
        Entry::Line(text) => Some(Line::Line {
            number,
            html: ansi::line(&text, LINE_CHARS),
        }),
        Entry::Phase(name) => Some(Line::Phase { phase: name }),
        Entry::Truncated { .. } | Entry::Unwritten | Entry::Broken => entry.remark().map(|phase| Line::Phase { phase }),
    }
}
