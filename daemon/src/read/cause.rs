//! The failed derivations behind outcomes, with what they printed last.

use std::collections::HashMap;

use nixci_protocol::nixci::control::AttemptId;
use nixci_protocol::nixci::outcome::FailureClass;
use nixci_protocol::nixci::verdict::Cause;
use nixci_store::index::attempts::{self, AttemptResult};
use nixci_store::index::outcomes::{self, Standing};
use nixci_store::index::{DrvId, derivations};

use super::evaluation::Loaded;
use super::{ReadError, Reader};

/// Lines of a cause's log.
pub(crate) const TAIL_LINES: usize = 20;
/// Causes whose logs are read; the others come without lines.
const TAILS: usize = 100;

impl Reader {
    /// The causes that the outcomes of both sides name; those of head with their last lines.
    pub(super) async fn causes(&self, head: &Loaded, base: Option<&Loaded>) -> Result<Vec<Cause>, ReadError> {
        let mut blocked: HashMap<DrvId, u64> = HashMap::new();
        for drv in head.failed.keys() {
            blocked.entry(*drv).or_default();
        }
        let mut failed: HashMap<DrvId, Option<AttemptId>> = base.map(|base| base.failed.clone()).unwrap_or_default();
        failed.extend(head.failed.iter().map(|(drv, attempt)| (*drv, *attempt)));
        let dir = self.store_dir.clone();
        let mut causes = self
            .index
            .read(move |conn| {
                let drvs: Vec<DrvId> = failed.keys().copied().collect();
                let paths = derivations::paths(conn, &drvs)?;
                let standings = outcomes::of(conn, &drvs)?;
                let mut causes = Vec::with_capacity(drvs.len());
                for ((drv, path), standing) in drvs.iter().zip(&paths).zip(standings) {
                    let said_by = match standing {
                        Standing::Failed { attempt, .. } => Some(attempt),
                        Standing::Open | Standing::Cancelled { .. } | Standing::Succeeded { .. } => {
                            failed.get(drv).copied().flatten()
                        }
                    };
                    let attempt = match said_by {
                        Some(id) => attempts::get(conn, id)?,
                        None => None,
                    };
                    let class = match (standing, attempt.as_ref().and_then(|attempt| attempt.result)) {
                        (Standing::Failed { class, .. }, _) | (_, Some(AttemptResult::Failed(class))) => class,
                        (_, Some(AttemptResult::Succeeded(_) | AttemptResult::Cancelled) | None) => {
                            FailureClass::Unsupported
                        }
                    };
                    let cause = Cause {
                        drv_path: dir.display(path).to_string(),
                        class,
                        message: attempt
                            .as_ref()
                            .map(|attempt| attempt.message.clone())
                            .unwrap_or_default(),
                        log_tail: Vec::new(),
                        attempt: attempt.as_ref().map(|attempt| attempt.id),
                    };
                    causes.push((*drv, cause));
                }
                Ok(causes)
            })
            .await?;
        // Numbers grow with time: the newest failures are the likeliest to be asked about.
        causes.sort_by_key(|(drv, cause)| (!blocked.contains_key(drv), std::cmp::Reverse(cause.attempt)));
        for (_, cause) in causes
            .iter_mut()
            .take(TAILS)
            .filter(|(drv, _)| blocked.contains_key(drv))
        {
            if let Some(attempt) = cause.attempt {
                cause.log_tail = self.tail(attempt).await;
            }
        }
        Ok(causes.into_iter().map(|(_, cause)| cause).collect())
    }
}
