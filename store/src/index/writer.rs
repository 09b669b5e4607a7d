//! The one writer of a database: a thread that owns its connection.
//!
//! Changes arrive over a bounded channel. All that wait when the thread looks are made in one
//! transaction, each in a savepoint of its own, so that a change that fails takes nothing with it. A
//! caller is answered after the commit. A full disk can make SQLite undo the whole transaction; then
//! everybody in it is told, nobody is answered wrongly, and the thread goes on with the next ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, Transaction, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::error::{Error, Result};

/// Changes that may wait: enough that a burst of small ones shares commits, few enough that callers
/// feel a slow disk rather than fill memory.
const QUEUE: usize = 256;

/// What a commit promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Durability {
    /// Survives a killed process; a power cut may lose the last changes, never tear them.
    Process,
    /// Survives a power cut too: the commit is on disk before the caller is answered.
    Power,
}

/// The sending side; clones share the thread, which ends when all are gone.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    messages: mpsc::Sender<Message>,
}

enum Message {
    Change(Durability, Box<dyn Change>),
    Close(oneshot::Sender<()>),
}

/// One queued change: run inside the transaction, answered after its commit.
trait Change: Send {
    /// Makes the change; false when its part of the transaction must be undone.
    fn run(&mut self, tx: &Transaction<'_>) -> bool;
    /// Its own error, after a run that failed.
    fn failure(&self) -> Option<Error>;
    /// Answers the caller: with the change's own error, else with the failed commit, else with its value.
    fn answer(self: Box<Self>, dir: &Path, committed: Result<()>);
}

struct Asked<T, F> {
    change: Option<F>,
    result: Option<Result<T>>,
    reply: oneshot::Sender<Result<T>>,
}

impl<T, F> Change for Asked<T, F>
where
    F: FnOnce(&Transaction<'_>) -> Result<T> + Send,
    T: Send,
{
    fn run(&mut self, tx: &Transaction<'_>) -> bool {
        let Some(change) = self.change.take() else {
            return false;
        };
        // Whatever a panicking change left in the connection is undone by its savepoint.
        let result = catch_unwind(AssertUnwindSafe(|| change(tx))).unwrap_or(Err(Error::Panicked { what: "change" }));
        let keep = result.is_ok();
        self.result = Some(result);
        keep
    }

    fn failure(&self) -> Option<Error> {
        self.result.as_ref().and_then(|result| result.as_ref().err().cloned())
    }

    fn answer(self: Box<Self>, dir: &Path, committed: Result<()>) {
        let result = match (self.result, committed) {
            (Some(Err(error)), _) | (_, Err(error)) => Err(error.locate(dir)),
            (Some(Ok(value)), Ok(())) => Ok(value),
            (None, Ok(())) => Err(Error::Closed),
        };
        // Nobody listens any more when the caller was cancelled; the change stands.
        let _ = self.reply.send(result);
    }
}

impl Writer {
    /// Starts the thread.
    pub(crate) fn start(conn: Connection, dir: PathBuf, name: &str) -> Result<Self> {
        let (messages, queue) = mpsc::channel(QUEUE);
        std::thread::Builder::new()
            .name(format!("{name}-writer"))
            .spawn(move || Thread { conn, dir, queue }.run())
            .map_err(|error| Error::Sqlite(Arc::new(rusqlite::Error::ToSqlConversionFailure(Box::new(error)))))?;
        Ok(Self { messages })
    }

    /// Queues a change and waits for its commit. A caller that goes away does not undo it.
    pub(crate) async fn write<T, F>(&self, durability: Durability, change: F) -> Result<T>
    where
        F: FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let asked = Asked {
            change: Some(change),
            result: None,
            reply,
        };
        let message = Message::Change(durability, Box::new(asked));
        self.messages.send(message).await.map_err(|_| Error::Closed)?;
        answer.await.map_err(|_| Error::Closed)?
    }

    /// Lets the thread finish what is queued and close the file.
    pub(crate) async fn close(&self) {
        let (closed, wait) = oneshot::channel();
        if self.messages.send(Message::Close(closed)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

struct Thread {
    conn: Connection,
    dir: PathBuf,
    queue: mpsc::Receiver<Message>,
}

impl Thread {
    fn run(mut self) {
        let mut closing = Vec::new();
        while let Some(first) = self.queue.blocking_recv() {
            let mut group = Vec::new();
            let mut durability = Durability::Process;
            let mut next = Some(first);
            while let Some(message) = next {
                match message {
                    Message::Change(wanted, change) => {
                        if wanted == Durability::Power {
                            durability = wanted;
                        }
                        group.push(change);
                    }
                    Message::Close(closed) => {
                        self.queue.close();
                        closing.push(closed);
                    }
                }
                next = if group.len() < QUEUE {
                    self.queue.try_recv().ok()
                } else {
                    None
                };
            }
            let mut waiting = group.into_iter();
            while waiting.len() > 0 {
                self.make(durability, &mut waiting);
            }
        }
        if let Err((_, error)) = self.conn.close() {
            tracing::warn!(%error, dir = %self.dir.display(), "failed to close a database");
        }
        for closed in closing {
            let _ = closed.send(());
        }
    }

    /// Makes changes in one transaction, and answers those it took from `waiting`: all of them, unless
    /// SQLite gave the transaction up half-way.
    fn make(&mut self, durability: Durability, waiting: &mut impl Iterator<Item = Box<dyn Change>>) {
        let mut made = Vec::new();
        let committed = transact(&mut self.conn, durability, waiting, &mut made);
        let nothing_done = made.is_empty();
        for change in made {
            change.answer(&self.dir, committed.clone());
        }
        if nothing_done && let Err(error) = committed {
            // Not even a transaction could be begun: answer one, so that the caller's loop ends.
            if let Some(change) = waiting.next() {
                change.answer(&self.dir, Err(error));
            }
        }
    }
}

fn transact(
    conn: &mut Connection,
    durability: Durability,
    waiting: &mut impl Iterator<Item = Box<dyn Change>>,
    made: &mut Vec<Box<dyn Change>>,
) -> Result<()> {
    // It cannot be changed inside a transaction.
    conn.pragma_update(
        None,
        "synchronous",
        match durability {
            Durability::Process => "NORMAL",
            Durability::Power => "FULL",
        },
    )?;
    let tx = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    for mut change in waiting {
        tx.prepare_cached("SAVEPOINT change")?.execute([])?;
        let keep = change.run(&tx);
        let failure = change.failure();
        made.push(change);
        if tx.is_autocommit() {
            // SQLite has undone everything, as it may when the disk is full: the others failed for the same reason.
            let aborted = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_ABORT);
            return Err(failure.unwrap_or_else(|| rusqlite::Error::SqliteFailure(aborted, None).into()));
        }
        if !keep {
            tx.prepare_cached("ROLLBACK TO change")?.execute([])?;
        }
        tx.prepare_cached("RELEASE change")?.execute([])?;
    }
    Ok(tx.commit()?)
}
