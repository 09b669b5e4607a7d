//! The store behind the door: one connection per client connection.

use std::sync::Arc;

use nixci_protocol::client::{Connection, LogSink};
use nixci_protocol::log::LogMessage;
use nixci_protocol::op::{Ack, Call, Reply, SetOptions};
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::StorePath;
use nixci_store::remote::Link;
use tracing::debug;

use super::session::refuse;
use crate::core::{BuildStore, Core};
use crate::error::told;
use crate::forward;

/// The connection, once it is needed.
pub(super) struct Upstream {
    core: Arc<Core>,
    state: State,
    options: Option<SetOptions>,
}

enum State {
    None,
    Ready(Box<Link>),
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
            state: State::None,
            options: None,
        }
    }

    /// The store itself.
    pub(super) fn store(&self) -> Result<&BuildStore, HandlerError> {
        self.core
            .stores
            .first()
            .ok_or_else(|| HandlerError::new("no store is configured behind this door".to_owned()))
    }

    /// The connection, made when it is first needed and again after it was lost.
    pub(super) async fn connection(&mut self) -> Result<&mut Connection, HandlerError> {
        let kept = match std::mem::replace(&mut self.state, State::None) {
            State::None => None,
            State::Ready(connection) => Some(connection),
        };
        let connection = if let Some(connection) = kept.filter(|connection| connection.is_reusable()) {
            connection
        } else {
            let mut fresh = self.store()?.remote.connect().await.map_err(|error| refuse(&error))?;
            if let Some(options) = &self.options {
                fresh.call(options, &mut ()).await.map_err(|error| refuse(&error))?;
            }
            Box::new(fresh)
        };
        self.state = State::Ready(connection);
        match &mut self.state {
            State::Ready(connection) => Ok(connection),
            State::None => Err(HandlerError::new("the store behind this door is gone".to_owned())),
        }
    }

    /// Asks, passing on what the store says meanwhile.
    pub(super) async fn call<R: Call>(
        &mut self,
        request: &R,
        exchange: &mut Exchange<'_>,
    ) -> Result<R::Reply, HandlerError> {
        let connection = self.connection().await?;
        connection
            .call(request, &mut Relay(exchange))
            .await
            .map_err(|error| refuse(&error))
    }

    /// Asks, and answers the client with the same.
    pub(super) async fn ask<R>(&mut self, request: &R, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError>
    where
        R: Call,
        R::Reply: Into<Reply>,
    {
        self.call(request, exchange).await.map(Into::into)
    }

    /// Has something done.
    pub(super) async fn done<R>(&mut self, request: &R, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError>
    where
        R: Call,
        R::Reply: IsDone,
    {
        self.call(request, exchange).await.map(|_| Reply::Done)
    }

    /// Takes over the client's options, as far as they were let through.
    pub(super) async fn set_options(&mut self, options: SetOptions) {
        if let State::Ready(connection) = &mut self.state
            && let Err(error) = connection.call(&options, &mut ()).await
        {
            debug!("failed to pass options on: {}", told(&error));
            self.state = State::None;
        }
        self.options = Some(options);
    }

    /// Sends what the store lacks of the closures of these paths.
    pub(super) async fn forward(&mut self, paths: Vec<StorePath>) -> Result<(), HandlerError> {
        if paths.is_empty() {
            return Ok(());
        }
        let core = self.core.clone();
        let store = core
            .stores
            .first()
            .ok_or_else(|| HandlerError::new("no store is configured behind this door".to_owned()))?;
        let _turn = store.uploading.acquire().await;
        let connection = self.connection().await?;
        forward::forward(connection, &core.spool, paths)
            .await
            .map(drop)
            .map_err(|error| refuse(&error))
    }
}

/// Replies that say nothing but that it is done.
pub(super) trait IsDone {}
impl IsDone for Ack {}
impl IsDone for () {}
