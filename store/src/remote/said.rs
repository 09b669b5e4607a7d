//! What a program says on its standard error, the end of it.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::ChildStderr;
use tokio::sync::watch;

/// How many bytes of a program's errors are kept.
const KEPT: usize = 4096;
/// How many lines of it enter an error message.
const LINES: usize = 5;
/// How long to wait for the last words of a program that is ending.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The end of what a program said. The program never blocks on it, and memory is bounded.
#[derive(Debug, Clone)]
pub(super) struct Said {
    // Held for a copy only, never across an await.
    kept: Arc<Mutex<VecDeque<u8>>>,
    ended: watch::Receiver<bool>,
}

impl Said {
    /// Reads until the program closes it.
    pub(super) fn listen(mut stderr: ChildStderr) -> Self {
        let kept = Arc::new(Mutex::new(VecDeque::with_capacity(KEPT)));
        let (end, ended) = watch::channel(false);
        let this = Self {
            kept: kept.clone(),
            ended,
        };
        tokio::spawn(async move {
            let mut buffer = vec![0; KEPT];
            while let Ok(count @ 1..) = stderr.read(&mut buffer).await {
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                let excess = (kept.len() + count).saturating_sub(KEPT).min(kept.len());
                kept.drain(..excess);
                kept.extend(&buffer[..count]);
            }
            end.send_replace(true);
        });
        this
    }

    /// The last lines so far, joined by ` / `.
    pub(super) fn last_lines(&self) -> String {
        let kept: Vec<u8> = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .copied()
            .collect();
        let text = String::from_utf8_lossy(&kept);
        let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(LINES)..].join(" / ")
    }

    /// The last lines of a program that is ending: waits a moment for them.
    pub(super) async fn last_words(&self) -> String {
        let mut ended = self.ended.clone();
        // Whoever keeps the pipe open may do so; then what there is must do.
        let _ = tokio::time::timeout(LAST_WORDS, ended.wait_for(|ended| *ended)).await;
        self.last_lines()
    }
}
