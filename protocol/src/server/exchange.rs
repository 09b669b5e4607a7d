use tokio::io::AsyncReadExt;
use tokio::sync::watch;

use super::FramedBody;
use super::body::Wires;
use crate::log::LogMessage;
use crate::wire::Negotiated;

/// What a handler has besides the request: the log channel, and what follows the request.
pub struct Exchange<'a> {
    pub(super) wires: &'a Wires,
    pub(super) on: &'a Negotiated,
    pub(super) gone: &'a watch::Sender<bool>,
}

impl Exchange<'_> {
    /// What was agreed with the client.
    #[must_use]
    pub fn negotiated(&self) -> &Negotiated {
        self.on
    }

    /// Tells the client something, as soon as the handler waits for anything: what is said in one breath goes out
    /// together. Waits while the client does not read. When it cannot be told, it has hung up, and that ends the handler.
    pub async fn log(&mut self, message: LogMessage) {
        self.log_later(&message);
        // A failure stays: the reply cannot be sent either.
        let _ = self.wires.send_if_large().await;
    }

    /// As [`Self::log`], but never waits.
    pub fn log_later(&mut self, message: &LogMessage) {
        message.encode(self.on, &mut self.wires.lock().writer.out);
    }

    /// What follows the request; empty where nothing does.
    pub fn body(&mut self) -> FramedBody<'_> {
        FramedBody {
            wires: self.wires,
            on: self.on,
            may_ask: true,
        }
    }

    /// Ready when the client has hung up or the connection has ended; for work that outlives the handler's future.
    pub fn hung_up(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut gone = self.gone.subscribe();
        async move {
            // An error means that the connection itself is gone.
            let _ = gone.wait_for(|gone| *gone).await;
        }
    }

    /// Skips what the client still sends of the body.
    pub(super) async fn drain(&mut self) {
        let mut body = self.body();
        body.may_ask = false;
        let mut scratch = vec![0; 16 * 1024];
        while let Ok(1..) = body.read(&mut scratch).await {}
    }
}
