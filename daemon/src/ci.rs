//! The handle on everything the daemon can be asked.

use std::sync::Arc;

use nixci_protocol::nixci::control::{Accepted, Begun, EvaluationId, Info, NewJob, Submission};

use crate::core::Core;
use crate::error::CiError;
use crate::principal::Principal;
use crate::submit;

/// One typed method per control request. Clones share one daemon; every method may be cancelled, and
/// what it changes is then either done or not begun.
#[derive(Debug, Clone)]
pub struct Ci {
    pub(crate) core: Arc<Core>,
}

impl Ci {
    pub(crate) fn new(core: Arc<Core>) -> Self {
        Self { core }
    }

    /// Who answers, and who it takes the caller for.
    #[must_use]
    pub fn info(&self, who: &Principal) -> Info {
        Info {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            store_dir: self.core.config.store_dir.to_string(),
            pages: self.core.pages.clone(),
            principal: who.name().to_owned(),
            trusted: who.is_trusted(),
        }
    }

    /// Opens an evaluation, or finds the one of the same key. It is on disk before this returns.
    pub async fn submit_begin(&self, who: &Principal, submission: Submission) -> Result<Begun, CiError> {
        submit::begin(&self.core, who, submission).await
    }

    /// Adds jobs; they are on disk before this returns. Jobs whose derivations are not here are refused,
    /// and with them the whole batch.
    pub async fn submit_jobs(&self, evaluation: EvaluationId, jobs: Vec<NewJob>) -> Result<Accepted, CiError> {
        submit::jobs(&self.core, evaluation, jobs).await
    }

    /// Says that there are no more jobs. Saying it again changes nothing.
    pub async fn submit_end(&self, evaluation: EvaluationId, error: Option<String>) -> Result<(), CiError> {
        submit::end(&self.core, evaluation, error).await
    }
}
