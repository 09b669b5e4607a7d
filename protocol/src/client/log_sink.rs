use tokio::sync::mpsc;

use crate::log::LogMessage;

/// Where a server's log goes while an operation runs.
///
/// A sink that waits holds up the server, which is how back-pressure works; it does not hold up what is being sent.
pub trait LogSink: Send {
    /// Takes one message.
    fn message(&mut self, message: LogMessage) -> impl Future<Output = ()> + Send;
}

/// Discards everything.
impl LogSink for () {
    async fn message(&mut self, _: LogMessage) {}
}

/// Waits for room; discards when nobody listens any more.
impl LogSink for mpsc::Sender<LogMessage> {
    async fn message(&mut self, message: LogMessage) {
        let _ = self.send(message).await;
    }
}

/// Collects everything; for tests and short operations.
impl LogSink for Vec<LogMessage> {
    async fn message(&mut self, message: LogMessage) {
        self.push(message);
    }
}

/// A function that does not wait.
#[derive(Debug)]
pub struct LogFn<F>(pub F);

impl<F: FnMut(LogMessage) + Send> LogSink for LogFn<F> {
    async fn message(&mut self, message: LogMessage) {
        (self.0)(message);
    }
}

impl<S: LogSink> LogSink for &mut S {
    async fn message(&mut self, message: LogMessage) {
        (**self).message(message).await;
    }
}
