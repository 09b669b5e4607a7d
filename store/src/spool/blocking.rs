//! Work on threads that may block, of which there are not many: nobody holds one while he waits for a peer.

use bytes::Bytes;
use tokio::task::JoinHandle;

use super::error::{Error, Result};

/// Chunks that may wait for the disk.
const CHUNKS: usize = 16;

/// Runs something that blocks.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|_| Error::Stopped)?
}

/// A state that takes chunk after chunk, on a thread while there are chunks and only then.
pub(super) struct Work<S, F> {
    state: State<S, F>,
    waiting: Vec<Bytes>,
}

enum State<S, F> {
    Idle(S, F),
    Running(JoinHandle<Result<(S, F)>>),
    /// The work failed, and the error was told.
    Failed,
}

impl<S, F> Work<S, F>
where
    S: Send + 'static,
    F: FnMut(&mut S, &[u8]) -> Result<()> + Send + 'static,
{
    pub(super) fn new(state: S, step: F) -> Self {
        Self {
            state: State::Idle(state, step),
            waiting: Vec::new(),
        }
    }

    /// Hands over a chunk. It may wait for the next one, while the last ones are worked on.
    pub(super) async fn push(&mut self, chunk: Bytes) -> Result<()> {
        self.waiting.push(chunk);
        match &self.state {
            State::Running(running) if !running.is_finished() && self.waiting.len() < CHUNKS => Ok(()),
            State::Idle(..) | State::Running(_) | State::Failed => self.go_on().await,
        }
    }

    /// The state after the last chunk.
    pub(super) async fn finish(mut self) -> Result<S> {
        if !self.waiting.is_empty() {
            self.go_on().await?;
        }
        self.idle().await.map(|(state, _)| state)
    }

    async fn go_on(&mut self) -> Result<()> {
        let (mut state, mut step) = self.idle().await?;
        let chunks = std::mem::take(&mut self.waiting);
        self.state = State::Running(tokio::task::spawn_blocking(move || {
            for chunk in chunks {
                step(&mut state, &chunk)?;
            }
            Ok((state, step))
        }));
        Ok(())
    }

    async fn idle(&mut self) -> Result<(S, F)> {
        match std::mem::replace(&mut self.state, State::Failed) {
            State::Idle(state, step) => Ok((state, step)),
            State::Running(running) => running.await.map_err(|_| Error::Stopped)?,
            State::Failed => Err(Error::Stopped),
        }
    }
}
