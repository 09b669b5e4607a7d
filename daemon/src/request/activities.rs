//! What a client is shown: activities with numbers of its own, and one set of totals over all that is done for it.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use nixci_protocol::log::{ActivityType, Field, LogMessage, ResultType};
use nixci_protocol::types::Verbosity;

use super::Requests;
use super::stream::Totals;

/// The activities of one request, as its client knows them.
#[derive(Debug)]
pub(crate) struct Activities {
    realise: u64,
    builds: u64,
    copies: u64,
    /// Numbers by source and number there.
    open: HashMap<(u64, u64), u64>,
    /// Those of `open` that are builders.
    builders: BTreeSet<(u64, u64)>,
    fetching: HashMap<u64, Totals>,
    /// What sources that are over have fetched.
    fetched: Totals,
    told: Option<([u64; 4], Totals)>,
}

fn start(id: u64, kind: ActivityType) -> LogMessage {
    LogMessage::StartActivity {
        id,
        level: Verbosity::Error,
        kind,
        text: Bytes::new(),
        fields: Vec::new(),
        parent: 0,
    }
}

fn numbers(id: u64, kind: ResultType, numbers: &[u64]) -> LogMessage {
    LogMessage::Result {
        id,
        kind,
        fields: numbers.iter().copied().map(Field::Int).collect(),
    }
}

impl Activities {
    /// As a stock store begins.
    pub(crate) fn begin(requests: &Requests) -> (Self, Vec<LogMessage>) {
        let [realise, builds, copies] = [(); 3].map(|()| requests.activity());
        let this = Self {
            realise,
            builds,
            copies,
            open: HashMap::new(),
            builders: BTreeSet::new(),
            fetching: HashMap::new(),
            fetched: Totals::default(),
            told: None,
        };
        let begin = vec![
            start(realise, ActivityType::REALISE),
            start(builds, ActivityType::BUILDS),
            start(copies, ActivityType::COPY_PATHS),
        ];
        (this, begin)
    }

    /// Builders that run.
    pub(crate) fn running(&self) -> u64 {
        self.builders.len() as u64
    }

    /// A message of an attempt, with the client's numbers; none where it is about something the client does not know.
    pub(crate) fn said(&mut self, requests: &Requests, source: u64, message: LogMessage) -> Option<LogMessage> {
        Some(match message {
            LogMessage::Next { .. } => message,
            LogMessage::StartActivity {
                id,
                level,
                kind,
                text,
                fields,
                parent,
            } => {
                let own = requests.activity();
                if let Some(lost) = self.open.insert((source, id), own) {
                    // The store uses a number twice; what had it cannot be told apart any more.
                    return Some(LogMessage::StopActivity { id: lost });
                }
                if kind == ActivityType::BUILD {
                    self.builders.insert((source, id));
                }
                LogMessage::StartActivity {
                    id: own,
                    level,
                    kind,
                    text,
                    fields,
                    parent: self.open.get(&(source, parent)).copied().unwrap_or(0),
                }
            }
            LogMessage::StopActivity { id } => {
                self.builders.remove(&(source, id));
                LogMessage::StopActivity {
                    id: self.open.remove(&(source, id))?,
                }
            }
            LogMessage::Result { id, kind, fields } => LogMessage::Result {
                id: *self.open.get(&(source, id))?,
                kind,
                fields,
            },
        })
    }

    /// How far a source is with what it fetches.
    pub(crate) fn fetching(&mut self, source: u64, totals: Totals) {
        self.fetching.insert(source, totals);
    }

    /// A source says no more: what it left open ends.
    pub(crate) fn over(&mut self, source: u64) -> Vec<LogMessage> {
        if let Some(totals) = self.fetching.remove(&source) {
            self.fetched.paths[0] += totals.paths[0];
            self.fetched.paths[1] += totals.paths[0];
            self.fetched.paths[3] += totals.paths[3];
            self.fetched.expected_paths += totals.expected_paths;
            self.fetched.expected_bytes += totals.expected_bytes;
        }
        self.builders.retain(|(of, _)| *of != source);
        let left: Vec<(u64, u64)> = self.open.keys().filter(|(of, _)| *of == source).copied().collect();
        let mut stops: Vec<u64> = left.iter().filter_map(|key| self.open.remove(key)).collect();
        // Inner ones were begun later.
        stops.sort_unstable_by(|a, b| b.cmp(a));
        stops.into_iter().map(|id| LogMessage::StopActivity { id }).collect()
    }

    /// The totals, as far as they differ from what was told last. `builds` are done, expected, running, failed.
    pub(crate) fn totals(&mut self, builds: [u64; 4]) -> Vec<LogMessage> {
        let mut sum = self.fetched;
        for totals in self.fetching.values() {
            for (sum, more) in sum.paths.iter_mut().zip(totals.paths) {
                *sum = sum.saturating_add(more);
            }
            sum.expected_paths = sum.expected_paths.saturating_add(totals.expected_paths);
            sum.expected_bytes = sum.expected_bytes.saturating_add(totals.expected_bytes);
        }
        let told = self.told.replace((builds, sum));
        let mut news = Vec::new();
        if told.is_none_or(|(before, _)| before != builds) {
            news.push(numbers(self.builds, ResultType::PROGRESS, &builds));
        }
        if told.is_none_or(|(_, before)| before.paths != sum.paths) {
            news.push(numbers(self.copies, ResultType::PROGRESS, &sum.paths));
        }
        for (kind, now, before) in [
            (101, sum.expected_bytes, told.map(|(_, before)| before.expected_bytes)),
            (100, sum.expected_paths, told.map(|(_, before)| before.expected_paths)),
        ] {
            if before != Some(now) {
                news.push(numbers(self.realise, ResultType::SET_EXPECTED, &[kind, now]));
            }
        }
        news
    }

    /// Everything ends.
    pub(crate) fn end(mut self) -> Vec<LogMessage> {
        let mut stops: Vec<u64> = self.open.drain().map(|(_, id)| id).collect();
        stops.sort_unstable_by(|a, b| b.cmp(a));
        stops.extend([self.copies, self.builds, self.realise]);
        stops.into_iter().map(|id| LogMessage::StopActivity { id }).collect()
    }
}
