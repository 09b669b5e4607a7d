//! What forges are told, and what they have of it.

use nixci_protocol::nixci::control::{Millis, Selector};
use nixci_protocol::nixci::report::{ReportTrouble, StatusReport};
use nixci_store::index::statuses::{self, StatusRow};

use super::{ReadError, Reader};
use crate::config::ForgeKind;

impl Reader {
    /// What is shown of an evaluation on forges, in the order in which it was first wanted.
    pub async fn reports(&self, which: &Selector) -> Result<Vec<StatusReport>, ReadError> {
        let evaluation = self.find(which).await?.id;
        let rows = self
            .index
            .read(move |conn| statuses::of_evaluation(conn, evaluation))
            .await?;
        Ok(rows.into_iter().map(StatusRow::report).collect())
    }
}

/// What one forge has not got.
#[derive(Debug, Clone)]
pub(crate) struct ForgeTold {
    pub(crate) name: String,
    pub(crate) kind: ForgeKind,
    pub(crate) url: String,
    /// Statuses to be sent.
    pub(crate) unsent: u64,
    /// When the oldest of them was written.
    pub(crate) oldest: Option<Millis>,
    /// Statuses of which nothing more is tried.
    pub(crate) refused: u64,
}

impl Reader {
    /// The forges as the outbox sees them, and what stands in its way. None is contacted.
    pub(crate) async fn forges(&self) -> Result<(Vec<ForgeTold>, Vec<ReportTrouble>), ReadError> {
        let Some(outbox) = &self.outbox else {
            return Ok((Vec::new(), Vec::new()));
        };
        let counts = self.index.read(statuses::counts).await?;
        let forges = outbox.forges();
        let told = forges.all().map(|(forge, _)| {
            let counts = counts.iter().find(|counts| counts.forge == forge.name);
            ForgeTold {
                name: forge.name.clone(),
                kind: forge.kind,
                url: forge.url.clone(),
                unsent: counts.map_or(0, |counts| counts.unsent),
                oldest: counts.and_then(|counts| counts.oldest),
                refused: counts.map_or(0, |counts| counts.refused),
            }
        });
        Ok((told.collect(), outbox.health().await?))
    }
}
