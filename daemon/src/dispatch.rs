//! Does what the scheduler asks for.

use std::collections::HashMap;
use std::sync::Arc;

use nixci_protocol::nixci::control::{EvaluationId, EvaluationState};
use nixci_protocol::nixci::outcome::FailureClass;
use nixci_store::index::{DrvId, evaluations};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info};

use crate::core::{Core, now};
use crate::error::told;
use crate::request::Post;
use crate::scheduler::{Action, StoreId};
use crate::{build, forward};

/// Executes actions until the daemon stops. Each is a task of its own, so that none delays another.
pub(crate) async fn run(core: Arc<Core>, mut actions: mpsc::Receiver<Action>) {
    // Builds that run, with what stops them. Ended ones are swept when the map has doubled.
    let mut running: HashMap<(DrvId, StoreId), CancellationToken> = HashMap::new();
    let mut sweep_at = 64;
    while let Some(Some(action)) = core.stop.builds.run_until_cancelled(actions.recv()).await {
        match action {
            Action::Plan { wisher, store, roots } => {
                let core = core.clone();
                core.stop.working.clone().spawn(async move {
                    forward::plan(&core, wisher, store, roots).await;
                });
            }
            Action::Build { drv, store } => {
                let stop = core.stop.builds.child_token();
                running.insert((drv, store), stop.clone());
                core.stop.working.spawn(build(core.clone(), drv, store, stop));
                if running.len() >= sweep_at {
                    running.retain(|_, token| !token.is_cancelled());
                    sweep_at = 64.max(running.len() * 2);
                }
            }
            Action::Stop { drv, store } => {
                if let Some(token) = running.remove(&(drv, store)) {
                    token.cancel();
                }
            }
            Action::Unsupported { drv, message } => {
                let core = core.clone();
                core.stop.working.clone().spawn(async move {
                    build::fail(&core, drv, None, FailureClass::Unsupported, &message).await;
                });
            }
            Action::Tell { request, drv, state } => core.requests.post(request, Post::Final { drv, state }),
            Action::Settled { evaluation } => {
                let core = core.clone();
                core.stop
                    .working
                    .clone()
                    .spawn(async move { settled(&core, evaluation).await });
            }
        }
    }
}

/// A build whose token is cancelled at its end too, which is how the dispatcher knows to forget it.
async fn build(core: Arc<Core>, drv: DrvId, store: StoreId, stop: CancellationToken) {
    build::run(core, drv, store, stop.clone()).await;
    stop.cancel();
}

async fn settled(core: &Core, evaluation: EvaluationId) {
    core.holders.release(evaluation);
    let at = now();
    let done = core
        .index
        .write(move |tx| evaluations::set_state(tx, evaluation, EvaluationState::Done, at))
        .await;
    match done {
        Ok(()) => {
            info!(evaluation = evaluation.0, "evaluation {} is done", evaluation.0);
            core.announce(evaluation);
        }
        Err(error) => error!(
            evaluation = evaluation.0,
            "failed to record the end of an evaluation: {}",
            told(&error)
        ),
    }
    debug!(evaluation = evaluation.0, "released");
}
