//! What one attempt says, for all who listen now and later.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use nixci_protocol::log::{ActivityType, Field, LogMessage, ResultType};
use nixci_protocol::types::Verbosity;

use super::mailbox::{Mailbox, Post};

/// Log lines that somebody who joins a running build hears of what was said before.
const EARLIER_LINES: usize = 1_000;
/// Bytes of them.
const EARLIER_BYTES: usize = 128 * 1024;
/// Activities of one attempt that are followed at once; a store that claims to do more is not believed.
const OPEN: usize = 1_024;

/// How far an attempt is with what it fetches: the fields of a progress, and paths and bytes it expects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Totals {
    /// Done, expected, running, failed.
    pub(crate) paths: [u64; 4],
    /// Paths to be copied.
    pub(crate) expected_paths: u64,
    /// Bytes to be transferred.
    pub(crate) expected_bytes: u64,
}

/// The voice of one attempt.
#[derive(Debug)]
pub(crate) struct Stream {
    source: u64,
    /// Held to note a message and post it.
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    listeners: Vec<Arc<Mailbox>>,
    /// What is going on, by its number, with what was said of it.
    open: BTreeMap<u64, Open>,
    realise: Option<u64>,
    copies: Option<u64>,
    totals: Totals,
    over: bool,
}

#[derive(Debug)]
struct Open {
    start: LogMessage,
    phase: Option<LogMessage>,
    lines: VecDeque<LogMessage>,
    bytes: usize,
    left_out: bool,
}

/// What clients are shown of an activity of the store.
fn is_shown(kind: ActivityType, level: Verbosity) -> bool {
    match kind {
        // Each client has one of its own for all it waits for.
        ActivityType::REALISE | ActivityType::COPY_PATHS | ActivityType::BUILDS => false,
        ActivityType::UNKNOWN => level <= Verbosity::Talkative,
        _ => true,
    }
}

fn text_bytes(message: &LogMessage) -> usize {
    match message {
        LogMessage::Result { fields, .. } => fields.iter().filter_map(Field::text).map(<[u8]>::len).sum(),
        LogMessage::Next { .. } | LogMessage::StartActivity { .. } | LogMessage::StopActivity { .. } => 0,
    }
}

impl Stream {
    pub(super) fn new(source: u64) -> Self {
        Self {
            source,
            state: Mutex::default(),
        }
    }

    /// A stream with one listener.
    pub(crate) fn to(source: u64, mailbox: Arc<Mailbox>) -> Self {
        let stream = Self::new(source);
        stream.join(mailbox);
        stream
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Takes what the store says.
    pub(crate) fn push(&self, message: &LogMessage) {
        self.with(|state| {
            if state.note(message) {
                for listener in &state.listeners {
                    listener.post(Post::Said {
                        source: self.source,
                        message: message.clone(),
                    });
                }
            } else if state.count(message) {
                let (source, totals) = (self.source, state.totals);
                for listener in &state.listeners {
                    listener.post(Post::Fetched { source, totals });
                }
            }
        });
    }

    /// Lets a client hear what goes on, then all that follows.
    pub(super) fn join(&self, mailbox: Arc<Mailbox>) {
        self.with(|state| {
            if state.over {
                return;
            }
            let say = |message: LogMessage| {
                mailbox.post(Post::Said {
                    source: self.source,
                    message,
                });
            };
            for (id, open) in &state.open {
                say(open.start.clone());
                open.phase.iter().cloned().for_each(say);
                if open.left_out {
                    let text = "nixci: earlier lines of this build are in its log".into();
                    say(LogMessage::Result {
                        id: *id,
                        kind: ResultType::BUILD_LOG_LINE,
                        fields: vec![Field::Text(text)],
                    });
                }
                open.lines.iter().cloned().for_each(say);
            }
            state.listeners.push(mailbox);
        });
    }

    pub(super) fn leave(&self, mailbox: &Arc<Mailbox>) {
        self.with(|state| state.listeners.retain(|listener| !Arc::ptr_eq(listener, mailbox)));
    }

    /// Says no more.
    pub(crate) fn over(&self) {
        self.with(|state| {
            state.over = true;
            state.open.clear();
            for listener in state.listeners.drain(..) {
                listener.post(Post::Over { source: self.source });
            }
        });
    }
}

impl State {
    /// Keeps what somebody who joins must know; whether it is for clients at all.
    fn note(&mut self, message: &LogMessage) -> bool {
        match message {
            LogMessage::Next { text } => !text.is_empty(),
            LogMessage::StartActivity { id, level, kind, .. } => {
                match *kind {
                    ActivityType::REALISE => self.realise = Some(*id),
                    ActivityType::COPY_PATHS => self.copies = Some(*id),
                    _ => {}
                }
                if !is_shown(*kind, *level) || self.open.len() >= OPEN {
                    return false;
                }
                let open = Open {
                    start: message.clone(),
                    phase: None,
                    lines: VecDeque::new(),
                    bytes: 0,
                    left_out: false,
                };
                self.open.insert(*id, open);
                true
            }
            LogMessage::StopActivity { id } => self.open.remove(id).is_some(),
            LogMessage::Result { id, kind, .. } => {
                let Some(open) = self.open.get_mut(id) else {
                    return false;
                };
                match *kind {
                    ResultType::SET_PHASE => open.phase = Some(message.clone()),
                    ResultType::BUILD_LOG_LINE | ResultType::POST_BUILD_LOG_LINE => open.line(message),
                    _ => {}
                }
                true
            }
        }
    }

    /// Takes progress; whether it says anything new.
    fn count(&mut self, message: &LogMessage) -> bool {
        let before = self.totals;
        if let LogMessage::Result { id, kind, fields } = message {
            let number = |nth: usize| fields.get(nth).and_then(Field::int).unwrap_or(0);
            if *kind == ResultType::PROGRESS && self.copies == Some(*id) {
                self.totals.paths = [number(0), number(1), number(2), number(3)];
            } else if *kind == ResultType::SET_EXPECTED && self.realise == Some(*id) {
                match number(0) {
                    100 => self.totals.expected_paths = number(1),
                    101 => self.totals.expected_bytes = number(1),
                    _ => {}
                }
            }
        }
        before != self.totals
    }
}

impl Open {
    fn line(&mut self, message: &LogMessage) {
        self.bytes += text_bytes(message);
        self.lines.push_back(message.clone());
        while self.lines.len() > EARLIER_LINES || (self.bytes > EARLIER_BYTES && self.lines.len() > 1) {
            if let Some(oldest) = self.lines.pop_front() {
                self.bytes -= text_bytes(&oldest);
                self.left_out = true;
            }
        }
    }
}
