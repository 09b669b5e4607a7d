//! What forges are told, and what they have of it.

use nixci_protocol::nixci::control::Selector;
use nixci_protocol::nixci::report::StatusReport;
use nixci_store::index::statuses::{self, StatusRow};

use super::{ReadError, Reader};

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
