//! What waits to be told to one client.

use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use nixci_protocol::log::{ActivityType, LogMessage, ResultType};
use nixci_store::index::DrvId;
use tokio::sync::Notify;

use super::stream::Totals;
use super::{Ending, Outline};
use crate::scheduler::LiveState;

/// Lines and the like that may wait for a client; about a second of a chatty build.
const LINES: usize = 4_096;
/// Bytes of them.
const BYTES: usize = 1 << 20;
/// Posts of any kind beyond which even the beginnings of builds are left out: more than any request wants, so that only
/// a store that makes them up gets there.
const POSTS: usize = 1 << 20;

/// One thing to tell.
#[derive(Debug, Clone)]
pub(crate) enum Post {
    /// What will be built.
    Planned(Box<Outline>),
    /// These roots can never be built.
    Refused {
        /// The roots.
        roots: Vec<DrvId>,
        /// Why, in words.
        reason: String,
    },
    /// The store cannot be asked now; it is asked again.
    Delayed(String),
    /// An attempt says something; its activities have numbers of its own.
    Said {
        /// Which attempt.
        source: u64,
        /// What.
        message: LogMessage,
    },
    /// How far an attempt is with what it fetches.
    Fetched {
        /// Which attempt.
        source: u64,
        /// How far.
        totals: Totals,
    },
    /// An attempt says no more.
    Over {
        /// Which.
        source: u64,
    },
    /// An attempt has ended.
    Ended {
        /// At what.
        drv: DrvId,
        /// How.
        ending: Arc<Ending>,
    },
    /// The scheduler is done with something.
    Final {
        /// With what.
        drv: DrvId,
        /// What became of it.
        state: LiveState,
    },
    /// So many messages were left out, because the client did not read them.
    LeftOut(u64),
}

/// Posts in order. Whoever posts never waits.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    /// Held to push or pop.
    waiting: Mutex<Waiting>,
    ready: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    posts: VecDeque<Post>,
    lines: usize,
    bytes: usize,
    left_out: u64,
    /// Activities whose beginning was left out, so that the rest of them must be too.
    hidden: HashSet<(u64, u64)>,
}

/// How a post counts.
enum Weight {
    /// It must arrive; there are only so many for each build.
    Must,
    /// It may be left out, and is counted then.
    Line(usize),
    /// It may be left out without a word: another like it follows.
    Passing,
}

fn weight(post: &Post) -> Weight {
    match post {
        Post::Planned(_)
        | Post::Refused { .. }
        | Post::Delayed(_)
        | Post::Over { .. }
        | Post::Ended { .. }
        | Post::Final { .. }
        | Post::LeftOut(_) => Weight::Must,
        Post::Fetched { .. } => Weight::Passing,
        Post::Said { message, .. } => match message {
            LogMessage::StartActivity { kind, text, .. } if *kind != ActivityType::BUILD => Weight::Line(text.len()),
            LogMessage::StartActivity { .. } | LogMessage::StopActivity { .. } => Weight::Must,
            LogMessage::Result { kind, .. } if *kind == ResultType::PROGRESS || *kind == ResultType::SET_EXPECTED => {
                Weight::Passing
            }
            LogMessage::Result { fields, .. } => {
                Weight::Line(fields.iter().filter_map(|field| field.text()).map(<[u8]>::len).sum())
            }
            LogMessage::Next { text } => Weight::Line(text.len()),
        },
    }
}

impl Mailbox {
    /// Adds something; log lines are left out while too many wait.
    pub(crate) fn post(&self, post: Post) {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.push(post);
        drop(waiting);
        self.ready.notify_one();
    }

    /// Takes what is next. Nothing is lost when the call is cancelled.
    pub(crate) async fn next(&self) -> Post {
        loop {
            if let Some(post) = self.try_next() {
                return post;
            }
            self.ready.notified().await;
        }
    }

    /// Takes what is next, if there is something.
    pub(crate) fn try_next(&self) -> Option<Post> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }
}

impl Waiting {
    fn push(&mut self, post: Post) {
        let full = self.lines >= LINES || self.bytes >= BYTES;
        if let Post::Said { source, message } = &post {
            match message {
                LogMessage::StopActivity { id } if self.hidden.remove(&(*source, *id)) => return,
                LogMessage::Result { id, .. } if self.hidden.contains(&(*source, *id)) => return,
                LogMessage::StartActivity { id, kind, .. }
                    if full && (*kind != ActivityType::BUILD || self.posts.len() >= POSTS) =>
                {
                    if self.hidden.len() < LINES {
                        self.hidden.insert((*source, *id));
                    }
                    self.left_out += 1;
                    return;
                }
                LogMessage::StartActivity { .. }
                | LogMessage::StopActivity { .. }
                | LogMessage::Result { .. }
                | LogMessage::Next { .. } => {}
            }
        }
        if let Post::Over { source } = &post {
            self.hidden.retain(|(of, _)| of != source);
        }
        match weight(&post) {
            Weight::Must => {}
            Weight::Line(_) if full => {
                self.left_out += 1;
                return;
            }
            Weight::Passing if full => return,
            Weight::Line(bytes) => {
                self.lines += 1;
                self.bytes += bytes;
            }
            Weight::Passing => self.lines += 1,
        }
        self.posts.push_back(post);
    }

    fn pop(&mut self) -> Option<Post> {
        let Some(post) = self.posts.pop_front() else {
            let left_out = std::mem::take(&mut self.left_out);
            return (left_out > 0).then_some(Post::LeftOut(left_out));
        };
        match weight(&post) {
            Weight::Must => {}
            Weight::Line(bytes) => {
                self.lines -= 1;
                self.bytes -= bytes;
            }
            Weight::Passing => self.lines -= 1,
        }
        Some(post)
    }
}
