//! In the making.

use super::{Found, Http, OpenError, Outgoing, PullRequest, SendError, Sent, WorkflowRun};
use crate::config;

/// A client.
#[derive(Debug)]
pub struct GitHub {
    http: Http,
}

impl GitHub {
    /// Reads its secrets.
    pub fn open(forge: &config::Forge) -> Result<Self, OpenError> {
        Ok(Self {
            http: Http::new(&forge.name, &forge.api)?,
        })
    }

    fn missing<T>(&self) -> Result<T, SendError> {
        let why = format!("`{}` cannot be told yet", self.http.forge());
        Err(SendError::Failed { why })
    }

    /// Sends.
    pub async fn send(&self, _: &Outgoing) -> Result<Sent, SendError> {
        self.missing()
    }

    /// Looks.
    pub async fn look_up(&self, _: &Outgoing) -> Result<Option<Found>, SendError> {
        self.missing()
    }

    /// Asks.
    pub async fn pull_request(&self, _: &str, _: u64) -> Result<Option<PullRequest>, SendError> {
        self.missing()
    }

    /// Asks.
    pub async fn workflow_run(&self, _: &str, _: u64) -> Result<Option<WorkflowRun>, SendError> {
        self.missing()
    }

    /// Asks.
    pub async fn check(&self) -> Result<String, SendError> {
        self.missing()
    }
}
