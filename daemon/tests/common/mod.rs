//! A daemon on a real store, and a client that talks to it as `nixci` does.
#![expect(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this is a test, and a failure here is a failed test"
)]

pub(crate) mod items;
pub(crate) mod small_disk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use nixci_daemon::{Config, Running, start};
use nixci_protocol::client::{self, Connection, Hello};
use nixci_protocol::io::{PathStreamWriter, StreamKind};
use nixci_protocol::nixci::control::{
    Begun, Evaluated, EvaluationId, EvaluationState, EvaluationSummary, Event, LogEvent, LogOf, NewJob, Request,
    Selector, Submission,
};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::nixci::verdict::Verdict;
use nixci_protocol::nixci::{AddClosure, FEATURE_CLOSURE, FEATURE_CONTROL};
use nixci_protocol::op;
use nixci_protocol::types::{PathInfo, StoreDir, StorePath};
use nixci_store::testing::TestDaemon;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

pub(crate) fn config(folder: &Path, store: &TestDaemon, slots: u32) -> Config {
    Config::in_folder(folder, &store.uri(), slots)
}

pub(crate) async fn daemon(folder: &Path, store: &TestDaemon, slots: u32) -> Running {
    start(config(folder, store, slots)).await.expect("the daemon starts")
}

/// Connects with our features.
pub(crate) async fn connect(socket: &Path) -> Connection {
    try_connect(socket).await.expect("the daemon answers")
}

pub(crate) async fn try_connect(socket: &Path) -> Result<Connection, client::Error> {
    let stream = UnixStream::connect(socket).await.map_err(client::Error::Io)?;
    let (read, write) = stream.into_split();
    let hello = Hello {
        features: vec![FEATURE_CLOSURE.to_owned(), FEATURE_CONTROL.to_owned()],
        ..Hello::default()
    };
    Connection::open(read, write, hello).await
}

pub(crate) async fn ask<T: DeserializeOwned>(connection: &mut Connection, request: &Request) -> T {
    try_ask(connection, request).await.expect("the daemon answers")
}

pub(crate) async fn try_ask<T: DeserializeOwned>(
    connection: &mut Connection,
    request: &Request,
) -> Result<T, client::Error> {
    let json = serde_json::to_string(request).unwrap();
    let answer = connection.control_one(&json).await?;
    Ok(serde_json::from_str(&answer).expect("the answer has the form that was agreed"))
}

/// A path and everything it refers to, references first, as the store that has them tells.
pub(crate) async fn closure(store: &mut Connection, roots: &[StorePath]) -> Vec<PathInfo> {
    let mut known = BTreeMap::new();
    let mut next: Vec<StorePath> = roots.to_vec();
    while let Some(path) = next.pop() {
        if known.contains_key(&path) {
            continue;
        }
        let question = op::QueryPathInfo { path: path.clone() };
        let info = store
            .call(&question, &mut ())
            .await
            .unwrap()
            .expect("the path is valid");
        next.extend(info.references.iter().cloned());
        known.insert(path, info);
    }
    let mut sorted = Vec::new();
    let mut done = BTreeSet::new();
    while sorted.len() < known.len() {
        for (path, info) in &known {
            let ready = info.references.iter().all(|of| of == path || done.contains(of));
            if ready && done.insert(path.clone()) {
                sorted.push(PathInfo {
                    path: path.clone(),
                    info: info.clone(),
                });
            }
        }
    }
    sorted
}

/// The body of an `AddClosure`.
pub(crate) async fn packed(store: &mut Connection, infos: &[PathInfo]) -> Vec<u8> {
    let mut writer = PathStreamWriter::new(StreamKind::Tagged, infos.len() as u64, StoreDir::default(), Vec::new());
    for info in infos {
        let mut nar = Vec::new();
        store
            .nar_from_path(&info.path, info.info.nar_size, &mut nar, &mut ())
            .await
            .unwrap();
        writer.add(info, &nar[..]).await.unwrap();
    }
    zstd::encode_all(&writer.finish().await.unwrap()[..], 1).unwrap()
}

pub(crate) async fn connect_stock(store: &TestDaemon) -> Connection {
    let stream = UnixStream::connect(store.socket()).await.unwrap();
    let (read, write) = stream.into_split();
    Connection::open(read, write, Hello::default()).await.unwrap()
}

/// What has to be uploaded for derivations: the body of an `AddClosure`.
pub(crate) async fn body_for(from: &TestDaemon, drvs: impl IntoIterator<Item = &String>) -> Vec<u8> {
    let dir = StoreDir::default();
    let roots: Vec<StorePath> = drvs.into_iter().map(|drv| dir.parse(drv).unwrap()).collect();
    let mut store = connect_stock(from).await;
    let infos = closure(&mut store, &roots).await;
    packed(&mut store, &infos).await
}

pub(crate) fn submission(key: &str) -> Submission {
    Submission {
        key: key.to_owned(),
        project: "test/project".to_owned(),
        commit: None,
        git_ref: None,
        base: None,
        pull_request: None,
        source: "test".to_owned(),
        labels: BTreeMap::new(),
    }
}

/// Uploads and submits all derivations of an expression, each as a job of its attribute's name.
pub(crate) async fn submit(
    to: &mut Connection,
    from: &TestDaemon,
    key: &str,
    drvs: &BTreeMap<String, String>,
) -> EvaluationId {
    let body = body_for(from, drvs.values()).await;
    try_submit(to, &body, key, drvs).await.expect("the submission is taken")
}

pub(crate) async fn try_submit(
    to: &mut Connection,
    body: &[u8],
    key: &str,
    drvs: &BTreeMap<String, String>,
) -> Result<EvaluationId, client::Error> {
    try_submit_as(to, body, submission(key), drvs).await
}

/// Sends a closure and jobs, as a submission that says this of itself.
pub(crate) async fn try_submit_as(
    to: &mut Connection,
    body: &[u8],
    submission: Submission,
    drvs: &BTreeMap<String, String>,
) -> Result<EvaluationId, client::Error> {
    to.call_framed(&AddClosure {}, body, &mut ()).await?;
    let begun: Begun = try_ask(to, &Request::SubmitBegin(submission)).await?;
    let evaluation = begun.evaluation;
    let status = Request::Status {
        which: Selector::Evaluation(evaluation),
    };
    let summary: EvaluationSummary = try_ask(to, &status).await?;
    if summary.state != EvaluationState::Receiving {
        return Ok(evaluation);
    }
    let jobs = drvs.iter().map(|(attr, drv)| NewJob {
        attr: attr.parse().unwrap(),
        result: Evaluated::Drv(drv.clone()),
    });
    let jobs = Request::SubmitJobs {
        evaluation,
        jobs: jobs.collect(),
    };
    let _: serde_json::Value = try_ask(to, &jobs).await?;
    let end = Request::SubmitEnd {
        evaluation,
        error: None,
    };
    let _: EvaluationSummary = try_ask(to, &end).await?;
    Ok(evaluation)
}

/// Everything a watch told.
#[derive(Debug)]
pub(crate) struct Watched {
    pub(crate) outcomes: BTreeMap<String, Outcome>,
    pub(crate) progress: u32,
    pub(crate) verdict: Verdict,
}

/// Follows an evaluation to its end.
pub(crate) async fn watch(connection: &mut Connection, evaluation: EvaluationId) -> Watched {
    let watched = try_watch(connection, evaluation).await.expect("the daemon answers");
    watched.expect("the watch ends with the verdict")
}

/// Follows an evaluation to its end; none if the stream ends before that.
pub(crate) async fn try_watch(
    connection: &mut Connection,
    evaluation: EvaluationId,
) -> Result<Option<Watched>, client::Error> {
    let request = Request::Watch {
        which: Selector::Evaluation(evaluation),
    };
    let json = serde_json::to_string(&request).unwrap();
    let mut stream = connection.control_stream(&json).await?;
    let mut outcomes = BTreeMap::new();
    let mut progress = 0;
    let mut verdict = None;
    while let Some(line) = stream.next_line().await? {
        match serde_json::from_str(&line).unwrap() {
            Event::Job(job) => {
                let told = outcomes.insert(job.attr.to_string(), job.outcome);
                assert_eq!(told, None, "a final job is told once");
            }
            Event::Progress { .. } => progress += 1,
            Event::Done { verdict: of, .. } => verdict = Some(*of),
        }
    }
    Ok(verdict.map(|verdict| Watched {
        outcomes,
        progress,
        verdict,
    }))
}

/// The lines of a log, and how it ended.
pub(crate) async fn log(connection: &mut Connection, of: LogOf, follow: bool) -> (Vec<String>, Option<Outcome>) {
    let request = Request::Log { of, follow };
    let mut stream = connection
        .control_stream(&serde_json::to_string(&request).unwrap())
        .await
        .unwrap();
    let (mut lines, mut end) = (Vec::new(), None);
    while let Some(line) = stream.next_line().await.unwrap() {
        match serde_json::from_str(&line).unwrap() {
            LogEvent::Line { text } => lines.push(text),
            LogEvent::End { outcome } => end = Some(outcome),
            LogEvent::Attempt { .. } | LogEvent::Phase { .. } => {}
        }
    }
    (lines, end)
}
