//! The store behind the door, for what a client asks to be done there: one connection per client that needs one.
//!
//! The connection is a warm one where there is one. It is the client's own until the client leaves, for settings and
//! temporary roots last for as long as the connection; another client gets it only if no roots were taken on it.

use std::sync::Arc;

use nixci_protocol::client::{Connection, LogSink};
use nixci_protocol::log::LogMessage;
use nixci_protocol::op::{Ack, Call, Reply, SetOptions};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::StorePath;
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use super::session::refuse;
use crate::core::{BuildStore, Core};
use crate::error::told;
use crate::forward::{self, ForwardError};
use crate::objects::Warm;

/// The connection, once it is needed.
pub(super) struct Upstream {
    core: Arc<Core>,
    connection: Option<Warm>,
    /// Whether the store may keep something for as long as the connection lasts.
    rooted: bool,
    options: Option<SetOptions>,
    /// What the store said of the options, for the client's next question.
    said: Few,
}

/// Objects on their way to the store, on the client's connection. Dropping it breaks off.
pub(super) struct Forwarding(AbortOnDropHandle<(Warm, Result<u64, ForwardError>)>);

/// The first messages of many: warnings about settings.
#[derive(Default)]
struct Few(Vec<LogMessage>);

impl LogSink for Few {
    async fn message(&mut self, message: LogMessage) {
        const FEW: usize = 100;
        if self.0.len() < FEW {
            self.0.push(message);
        }
    }
}

/// Passes what the store says on to the client.
pub(super) struct Relay<'x, 'e>(pub(super) &'x mut Exchange<'e>);

impl LogSink for Relay<'_, '_> {
    async fn message(&mut self, message: LogMessage) {
        self.0.log(message).await;
    }
}

impl Upstream {
    pub(super) fn new(core: Arc<Core>) -> Self {
        Self {
            core,
            connection: None,
            rooted: false,
            options: None,
            said: Few::default(),
        }
    }

    /// The store itself.
    pub(super) fn store(&self) -> Result<&BuildStore, HandlerError> {
        self.core.stores.first().ok_or_else(no_store)
    }

    /// The connection, for something that leaves roots: it stays this client's until the client goes.
    pub(super) async fn connection(&mut self) -> Result<&mut Connection, HandlerError> {
        self.open().await?;
        self.rooted = true;
        self.open().await
    }

    /// The connection, made when it is first needed and again after it was lost.
    async fn open(&mut self) -> Result<&mut Connection, HandlerError> {
        if !self.connection.as_ref().is_some_and(|warm| warm.link.is_reusable()) {
            self.connection = None;
            self.rooted = false;
            let warm = self.core.objects.take(self.options.is_some()).await;
            let mut warm = warm.map_err(|error| refuse(&error))?.ok_or_else(no_store)?;
            if let Some(options) = &self.options {
                warm.note(options);
                let setting = warm.link.call(options, &mut self.said).await;
                setting.map_err(|error| refuse(&error))?;
            }
            self.connection = Some(warm);
        }
        match &mut self.connection {
            Some(warm) => Ok(&mut *warm.link),
            None => Err(HandlerError::new("the store behind this door is gone".to_owned())),
        }
    }

    /// Asks, passing on what the store says meanwhile.
    pub(super) async fn call<R: Call>(
        &mut self,
        request: &R,
        exchange: &mut Exchange<'_>,
    ) -> Result<R::Reply, HandlerError> {
        self.open().await?;
        for message in std::mem::take(&mut self.said).0 {
            exchange.log_later(&message);
        }
        let connection = self.open().await?;
        connection
            .call(request, &mut Relay(exchange))
            .await
            .map_err(|error| refuse(&error))
    }

    /// As [`Self::call`], for what may leave roots.
    pub(super) async fn call_rooted<R: Call>(
        &mut self,
        request: &R,
        exchange: &mut Exchange<'_>,
    ) -> Result<R::Reply, HandlerError> {
        self.connection().await?;
        self.call(request, exchange).await
    }

    /// Asks, and answers the client with the same.
    pub(super) async fn ask<R>(&mut self, request: &R, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError>
    where
        R: Call,
        R::Reply: Into<Reply>,
    {
        self.call(request, exchange).await.map(Into::into)
    }

    /// Has something done, which may leave roots.
    pub(super) async fn done<R>(&mut self, request: &R, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError>
    where
        R: Call,
        R::Reply: IsDone,
    {
        self.call_rooted(request, exchange).await.map(|_| Reply::Done)
    }

    /// Takes over the client's options, as far as they were let through.
    pub(super) async fn set_options(&mut self, options: SetOptions) {
        if let Some(warm) = &mut self.connection {
            warm.note(&options);
            if let Err(error) = warm.link.call(&options, &mut self.said).await {
                debug!("failed to pass options on: {}", told(&error));
                self.connection = None;
            }
        }
        self.options = Some(options);
    }

    /// What the client set, as far as it was let through.
    pub(super) fn options(&self) -> Option<&SetOptions> {
        self.options.as_ref()
    }

    /// Whether the client wants the rest to be built after a failure.
    pub(super) fn keeps_going(&self) -> bool {
        self.options.as_ref().is_some_and(|options| options.keep_going)
    }

    /// Whether the client has limits of time of its own.
    pub(super) fn has_limits(&self) -> bool {
        self.options.as_ref().is_some_and(|options| {
            let by_name = |name| options.overrides.get(name).is_some_and(|value| value != "0");
            options.max_silent_time > 0 || by_name("timeout") || by_name("max-silent-time")
        })
    }

    /// Sends what the store lacks of the closures of these paths.
    pub(super) async fn forward(&mut self, paths: Vec<StorePath>) -> Result<(), HandlerError> {
        match self.begin_forward(paths).await? {
            Some(forwarding) => self.end_forward(forwarding).await,
            None => Ok(()),
        }
    }

    /// As [`Self::forward`], beside what else is done for the client; the store can be asked again at the
    /// [end](Self::end_forward). None where nothing is to be sent.
    pub(super) async fn begin_forward(&mut self, paths: Vec<StorePath>) -> Result<Option<Forwarding>, HandlerError> {
        if paths.is_empty() {
            return Ok(None);
        }
        self.connection().await?;
        let Some(mut warm) = self.connection.take() else {
            return Err(no_store());
        };
        let core = self.core.clone();
        let forwarding = tokio::spawn(async move {
            let result = match core.stores.first() {
                Some(store) => forward::forward(&core, store, &mut warm.link, &paths).await,
                None => Ok(0),
            };
            (warm, result)
        });
        Ok(Some(Forwarding(AbortOnDropHandle::new(forwarding))))
    }

    /// Waits for what was begun.
    pub(super) async fn end_forward(&mut self, forwarding: Forwarding) -> Result<(), HandlerError> {
        let (warm, result) = forwarding.0.await.map_err(|error| refuse(&error))?;
        self.connection = Some(warm);
        result.map(drop).map_err(|error| refuse(&error))
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        if let Some(warm) = self.connection.take()
            && !self.rooted
        {
            self.core.objects.give_back(warm);
        }
    }
}

fn no_store() -> HandlerError {
    HandlerError::new("no store is configured behind this door".to_owned())
}

/// Replies that say nothing but that it is done.
pub(super) trait IsDone {}
impl IsDone for Ack {}
impl IsDone for () {}
