//! Read-only connections, opened when needed and kept.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::database::open_reader;
use super::error::{Error, Result};

/// Questions that are answered at once; more wait. Each holds a thread and a page cache.
const READERS: usize = 8;

/// A small pool.
#[derive(Debug)]
pub(crate) struct Readers {
    path: PathBuf,
    turns: Arc<Semaphore>,
    /// Held for a push or a pop only.
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self {
            path,
            turns: Arc::new(Semaphore::new(READERS)),
            idle: Mutex::new(Vec::new()),
        }
    }

    /// Answers a question on a thread that may block, from one snapshot of the database. A caller that
    /// goes away leaves the question running; its connection returns to the pool all the same.
    pub(crate) async fn read<T, F>(self: Arc<Self>, question: F) -> Result<T>
    where
        F: FnOnce(&Connection) -> Result<T> + Send + 'static,
        T: Send + 'static,
    {
        let turn = Arc::clone(&self.turns)
            .acquire_owned()
            .await
            .map_err(|_| Error::Closed)?;
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let conn = match idle {
                Some(conn) => conn,
                None => open_reader(&self.path)?,
            };
            let snapshot = conn.unchecked_transaction()?;
            let answer = question(&snapshot);
            drop(snapshot);
            if !self.turns.is_closed() {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(conn);
            }
            answer
        });
        match asked.await {
            Ok(answer) => answer,
            // Not a panic: the runtime is going down.
            Err(error) if error.is_cancelled() => Err(Error::Closed),
            Err(_) => Err(Error::Panicked { what: "question" }),
        }
    }

    /// Refuses further questions and closes the idle connections.
    pub(crate) fn close(&self) {
        self.turns.close();
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
