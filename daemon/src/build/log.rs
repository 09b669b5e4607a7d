//! Log lines go to the derivation that printed them.
//!
//! A store announces each builder it starts as an activity; lines and phases name the activity. Builders
//! of other derivations than the one that was asked for (inputs the store had to make again, everything
//! below a root on a store that schedules by itself, what a stock client has built) get attempts and logs
//! of their own where the derivation is known here.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use nixci_protocol::client::LogSink;
use nixci_protocol::log::{ActivityType, Field, LogMessage, ResultType};
use nixci_protocol::nixci::control::AttemptId;
use nixci_protocol::nixci::outcome::{FailureClass, Success};
use nixci_protocol::op;
use nixci_protocol::types::{BuildResult, StorePath};
use nixci_store::index::attempts::{self, AttemptResult};
use nixci_store::index::{DrvId, derivations};
use nixci_store::logs::LogWriter;
use tracing::{debug, warn};

use super::interpret;
use crate::core::{Core, now};
use crate::error::told;
use crate::http;
use crate::request::Stream;

/// Builders of one connection that are followed at once; a store that claims to run more is not believed.
const MAX_ACTIVITIES: usize = 4_096;

/// Receives what a store says while it builds.
///
/// Dropped before its end, as when the client that asked goes away, it records the attempts it began as
/// cancelled.
pub(crate) struct BuildLog {
    core: Arc<Core>,
    store: Arc<str>,
    own: Option<(StorePath, LogWriter)>,
    /// What the derivation that was asked for turned out to be, where its inputs decide that.
    resolved: Option<StorePath>,
    /// Clients that wait.
    stream: Option<Arc<Stream>>,
    activities: HashMap<u64, Whose>,
    others: Vec<Other>,
}

#[derive(Clone, Copy)]
enum Whose {
    Own,
    Other(usize),
}

struct Other {
    attempt: AttemptId,
    drv: DrvId,
    path: StorePath,
    writer: LogWriter,
}

/// How a request ended, as far as the store told.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// All of it succeeded, and so did everything it needed.
    pub(crate) succeeded: bool,
    results: HashMap<StorePath, (AttemptResult, String)>,
}

impl Told {
    /// The result of one derivation.
    pub(crate) fn result(&mut self, drv: StorePath, result: &BuildResult) {
        self.results.insert(drv, interpret(result));
    }
}

impl BuildLog {
    /// For one derivation, whose attempt somebody else begins and ends.
    pub(super) fn of(core: &Arc<Core>, store: &str, path: StorePath, attempt: AttemptId, stream: Arc<Stream>) -> Self {
        let mut log = Self::for_others(core, store);
        log.stream = Some(stream);
        log.own = Some((path, core.logs.start(attempt)));
        log
    }

    /// For whatever the store builds.
    pub(crate) fn for_others(core: &Arc<Core>, store: &str) -> Self {
        Self {
            core: core.clone(),
            store: store.into(),
            own: None,
            resolved: None,
            stream: None,
            activities: HashMap::new(),
            others: Vec::new(),
        }
    }

    fn path(&self, text: &[u8]) -> Option<StorePath> {
        let text = std::str::from_utf8(text).ok()?;
        self.core.config.store_dir.parse(text).ok()
    }

    /// The store builds something else in place of what it was asked for: the same with its inputs resolved.
    fn resolves(&mut self, fields: &[Field]) {
        let [from, to, ..] = fields else { return };
        let from = from.text().and_then(|text| self.path(text));
        if from.is_some() && from.as_ref() == self.own.as_ref().map(|(own, _)| own) {
            self.resolved = to.text().and_then(|text| self.path(text));
        }
    }

    async fn started(&mut self, activity: u64, drv: &[u8]) {
        if self.activities.len() >= MAX_ACTIVITIES {
            return;
        }
        let Some(path) = self.path(drv) else { return };
        if self.own.as_ref().is_some_and(|(own, _)| *own == path) || self.resolved.as_ref() == Some(&path) {
            self.activities.insert(activity, Whose::Own);
            return;
        }
        if let Some(nth) = self.others.iter().position(|other| other.path == path) {
            self.activities.insert(activity, Whose::Other(nth));
            return;
        }
        let (store, at, asked) = (self.store.clone(), now(), path.clone());
        let begun = self
            .core
            .index
            .write(move |tx| match derivations::ids(tx, &[asked])?.first() {
                Some(Some(id)) => attempts::begin(tx, *id, &store, at).map(|attempt| Some((*id, attempt))),
                Some(None) | None => Ok(None),
            })
            .await;
        match begun {
            Ok(Some((drv, attempt))) => {
                let writer = self.core.logs.start(attempt);
                self.activities.insert(activity, Whose::Other(self.others.len()));
                self.others.push(Other {
                    attempt,
                    drv,
                    path,
                    writer,
                });
            }
            Ok(None) => debug!(%path, "the store builds a derivation that is not known here"),
            Err(error) => warn!("failed to record a build the store began by itself: {}", told(&error)),
        }
    }

    fn writer(&mut self, activity: u64) -> Option<&mut LogWriter> {
        match self.activities.get(&activity)? {
            Whose::Own => self.own.as_mut().map(|(_, writer)| writer),
            Whose::Other(nth) => self.others.get_mut(*nth).map(|other| &mut other.writer),
        }
    }

    /// Leaves everything as a killed process would: attempts without an end, which the next start queues again.
    pub(super) fn abandon(mut self) {
        self.others.clear();
    }

    /// Closes the logs and ends the attempts this began. What the store did not tell is found by asking
    /// whether the outputs are there. Returns the number of lines of the derivation that was asked for.
    pub(crate) async fn finish(mut self, told: &Told) -> u64 {
        let lines = match self.own.take() {
            Some((_, writer)) => writer.finish().await.lines,
            None => 0,
        };
        let others = std::mem::take(&mut self.others);
        let mut ends = Vec::with_capacity(others.len());
        let mut seen = BTreeSet::new();
        for other in others {
            let lines = other.writer.finish().await.lines;
            let (result, message) = match told.results.get(&other.path) {
                Some(told) => told.clone(),
                None if told.succeeded || self.outputs_exist(other.drv).await => {
                    (AttemptResult::Succeeded(Success::Built), String::new())
                }
                None => (
                    AttemptResult::Failed(FailureClass::Build),
                    "failed while it was built for another derivation; see its log".to_owned(),
                ),
            };
            http::attempt_ended(&self.store, result);
            ends.push((other.attempt, self.core.end(result, message, lines)));
            seen.insert(other.path);
        }
        let unseen: Vec<_> = told
            .results
            .iter()
            .filter(|(path, _)| !seen.contains(*path))
            .map(|(path, (result, message))| (path.clone(), self.core.end(*result, message.clone(), 0)))
            .collect();
        if ends.is_empty() && unseen.is_empty() {
            return lines;
        }
        let (at, store) = (now(), self.store.clone());
        let recorded = self
            .core
            .index
            .write(move |tx| {
                for (attempt, end) in &ends {
                    attempts::finish(tx, *attempt, end, at)?;
                }
                for (path, end) in unseen {
                    let Some(Some(drv)) = derivations::ids(tx, &[path])?.first().copied() else {
                        continue;
                    };
                    match end.result {
                        AttemptResult::Succeeded(how) => {
                            attempts::record_valid(tx, &[drv], &store, how, at)?;
                        }
                        AttemptResult::Failed(_) | AttemptResult::Cancelled => {
                            let attempt = attempts::begin(tx, drv, &store, at)?;
                            attempts::finish(tx, attempt, &end, at)?;
                        }
                    }
                }
                Ok(())
            })
            .await;
        if let Err(error) = recorded {
            warn!(
                "failed to record builds the store made by itself: {}",
                crate::error::told(&error)
            );
        }
        lines
    }

    async fn outputs_exist(&self, drv: DrvId) -> bool {
        let outputs = self.core.index.read(move |conn| derivations::outputs(conn, drv)).await;
        let paths: BTreeSet<StorePath> = outputs
            .unwrap_or_default()
            .into_iter()
            .filter_map(|output| output.path)
            .collect();
        let place = self.core.stores.iter().find(|place| *place.config.name == *self.store);
        let (Some(place), false) = (place, paths.is_empty()) else {
            return false;
        };
        let Ok(mut connection) = place.remote.acquire().await else {
            return false;
        };
        let asked = paths.len();
        let question = op::QueryValidPaths {
            paths,
            substitute: false,
        };
        connection
            .call(&question, &mut ())
            .await
            .is_ok_and(|valid| valid.len() == asked)
    }
}

impl Drop for BuildLog {
    fn drop(&mut self) {
        let others = std::mem::take(&mut self.others);
        if others.is_empty() {
            return;
        }
        let Ok(runtime) = tokio::runtime::Handle::try_current() else {
            return;
        };
        let end = self.core.end(AttemptResult::Cancelled, String::new(), 0);
        let core = self.core.clone();
        runtime.spawn(async move {
            let at = now();
            let recorded = core
                .index
                .write(move |tx| {
                    for other in &others {
                        attempts::finish(tx, other.attempt, &end, at)?;
                    }
                    Ok(())
                })
                .await;
            if let Err(error) = recorded {
                warn!("failed to record builds that were cut off: {}", told(&error));
            }
        });
    }
}

impl LogSink for BuildLog {
    async fn message(&mut self, message: LogMessage) {
        if let Some(stream) = &self.stream {
            stream.push(&message);
        }
        match message {
            LogMessage::StartActivity { id, kind, fields, .. } => {
                if kind == ActivityType::BUILD_WAITING {
                    self.resolves(&fields);
                }
                if let (ActivityType::BUILD, Some(drv)) = (kind, fields.first().and_then(Field::text)) {
                    self.started(id, drv).await;
                }
            }
            LogMessage::Result { id, kind, fields } => {
                let Some(text) = fields.first().and_then(Field::text) else {
                    return;
                };
                let Some(writer) = self.writer(id) else { return };
                match kind {
                    ResultType::BUILD_LOG_LINE | ResultType::POST_BUILD_LOG_LINE => writer.line(text).await,
                    ResultType::SET_PHASE => writer.phase(&String::from_utf8_lossy(text)).await,
                    _ => {}
                }
            }
            LogMessage::StopActivity { id } => {
                self.activities.remove(&id);
            }
            LogMessage::Next { .. } => {}
        }
    }
}
