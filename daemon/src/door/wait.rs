//! Waiting for builds, and telling the client what is done for it meanwhile.

use std::collections::HashMap;
use std::sync::Arc;

use nixci_protocol::log::LogMessage;
use nixci_protocol::server::{Exchange, HandlerError};
use nixci_protocol::types::StorePath;
use nixci_store::index::{DrvId, derivations};

use super::answer::line;
use super::session::refuse;
use crate::core::Core;
use crate::request::{Activities, Builds, Ending, Post, Request};

/// Posts that are told in one write.
const AT_ONCE: usize = 256;

/// A client that waits for builds.
pub(super) struct Waiting {
    core: Arc<Core>,
    request: Request,
    pub(super) builds: Builds,
    activities: Option<Activities>,
}

/// Tells the client all of it in one write.
async fn tell(messages: Vec<LogMessage>, exchange: &mut Exchange<'_>) {
    let mut messages = messages.into_iter().peekable();
    while let Some(message) = messages.next() {
        if messages.peek().is_some() {
            exchange.log_later(&message);
        } else {
            exchange.log(message).await;
        }
    }
}

impl Waiting {
    pub(super) async fn begin(core: &Arc<Core>, request: Request, builds: Builds, exchange: &mut Exchange<'_>) -> Self {
        let (activities, begin) = Activities::begin(&core.requests);
        tell(begin, exchange).await;
        Self {
            core: core.clone(),
            request,
            builds,
            activities: Some(activities),
        }
    }

    /// Waits until everything is built, or nothing more will be. An error is one of the request as a whole.
    pub(super) async fn wait(&mut self, exchange: &mut Exchange<'_>) -> Result<(), HandlerError> {
        while !self.builds.is_over() {
            let mut next = Some(self.request.next().await);
            let mut messages = Vec::new();
            for _ in 0..AT_ONCE {
                let Some(post) = next.take() else { break };
                if let Err(error) = self.take(post, &mut messages).await {
                    tell(messages, exchange).await;
                    return Err(error);
                }
                next = self.request.try_next();
            }
            if let Some(post) = next {
                self.take(post, &mut messages).await?;
            }
            if let Some(activities) = &mut self.activities {
                let totals = self.builds.totals(activities.running());
                messages.extend(activities.totals(totals));
            }
            tell(messages, exchange).await;
        }
        Ok(())
    }

    /// Shows what somebody else says for this client, such as the store that fetches something.
    pub(super) fn show(&mut self, post: Post) -> Vec<LogMessage> {
        let Some(activities) = &mut self.activities else {
            return Vec::new();
        };
        match post {
            Post::Said { source, message } => {
                let said = activities.said(&self.core.requests, source, message);
                said.into_iter().collect()
            }
            Post::Over { source } => activities.over(source),
            Post::Fetched { source, totals } => {
                activities.fetching(source, totals);
                let totals = self.builds.totals(activities.running());
                activities.totals(totals)
            }
            Post::LeftOut(count) => vec![line(&format!(
                "nixci: {count} log lines were left out because they were not read; the logs of the builds have them\n"
            ))],
            Post::Planned(_) | Post::Refused { .. } | Post::Delayed(_) | Post::Ended { .. } | Post::Final { .. } => {
                Vec::new()
            }
        }
    }

    async fn take(&mut self, post: Post, messages: &mut Vec<LogMessage>) -> Result<(), HandlerError> {
        match post {
            Post::Planned(outline) => self.builds.planned(*outline),
            Post::Refused { roots, reason } => {
                for root in roots {
                    self.builds.refused(root, &reason);
                }
            }
            Post::Delayed(reason) => messages.push(line(&format!("nixci: {reason}; it is tried again\n"))),
            Post::Ended { drv, ending } => match &*ending {
                Ending::Result(result) => {
                    let outputs = if result.status.is_success() && !self.builds.has_failures() {
                        HashMap::new()
                    } else {
                        self.outputs_above(drv).await?
                    };
                    let step = self.builds.ended(drv, (**result).clone(), &outputs);
                    messages.extend(step.lines.iter().map(|text| line(text)));
                }
                Ending::Refused(error) => return Err(HandlerError(error.clone())),
                Ending::Lost(Some(reason)) => messages.push(line(&format!("nixci: {reason}; it is tried again\n"))),
                Ending::Lost(None) => {}
            },
            Post::Final { drv, state } => {
                let outputs = self.outputs_above(drv).await?;
                let step = self.builds.is_final(drv, &state, &outputs);
                messages.extend(step.lines.iter().map(|text| line(text)));
            }
            Post::Said { .. } | Post::Fetched { .. } | Post::Over { .. } | Post::LeftOut(_) => {
                let shown = self.show(post);
                messages.extend(shown);
            }
        }
        Ok(())
    }

    /// The outputs of what needs a derivation, for what must be said when it failed.
    async fn outputs_above(&self, drv: DrvId) -> Result<HashMap<DrvId, Vec<StorePath>>, HandlerError> {
        if !self.builds.is_open(drv) {
            return Ok(HashMap::new());
        }
        let mut drvs = self.builds.above(drv);
        drvs.push(drv);
        let outputs = self.core.index.read(move |conn| {
            drvs.into_iter()
                .map(|drv| {
                    let rows = derivations::outputs(conn, drv)?;
                    Ok((drv, rows.into_iter().filter_map(|row| row.path).collect()))
                })
                .collect()
        });
        outputs.await.map_err(|error| refuse(&error))
    }

    /// Ends what the client was shown. The wish ends when this is dropped.
    pub(super) async fn end(&mut self, exchange: &mut Exchange<'_>) {
        if let Some(activities) = self.activities.take() {
            tell(activities.end(), exchange).await;
        }
    }
}
