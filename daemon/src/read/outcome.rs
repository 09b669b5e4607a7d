//! What derivations have come to: what the scheduler does now, and below that what the index remembers.

use std::collections::{HashMap, HashSet};

use nixci_protocol::nixci::control::{AttemptId, EvaluationState};
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::types::StoreDir;
use nixci_store::index::outcomes::{self, Standing};
use nixci_store::index::{self, DrvId, derivations};
use rusqlite::Connection;

use super::{ReadError, Reader};
use crate::scheduler::{LiveState, MAX_BLOCKERS};

/// What one derivation has come to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) outcome: Outcome,
    /// The attempt that says so, or that runs.
    pub(crate) attempt: Option<AttemptId>,
    /// What blocks it, if anything.
    pub(crate) blocked_by: Vec<DrvId>,
}

/// What a derivation is that was not tried and that the scheduler does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Idle {
    /// It will be tried: the evaluation is open, and the scheduler has not heard of it yet.
    Soon,
    /// It will not be tried: its evaluation is over.
    Over,
    /// Nobody has asked for it.
    Unasked,
}

impl From<EvaluationState> for Idle {
    fn from(state: EvaluationState) -> Self {
        match state {
            EvaluationState::Receiving | EvaluationState::Building => Self::Soon,
            EvaluationState::Done | EvaluationState::Cancelled | EvaluationState::Abandoned => Self::Over,
        }
    }
}

impl Idle {
    fn outcome(self) -> Outcome {
        match self {
            Self::Soon => Outcome::Queued {
                reason: "about to be queued".to_owned(),
            },
            Self::Over => Outcome::Cancelled,
            Self::Unasked => Outcome::Queued {
                reason: "nobody has asked for it".to_owned(),
            },
        }
    }
}

impl Reader {
    /// What each of these derivations has come to; every one is in the answer.
    ///
    /// The scheduler is asked first: what ends between the two questions is then found in the index.
    pub(crate) async fn outcomes(&self, drvs: Vec<DrvId>, idle: Idle) -> Result<HashMap<DrvId, Known>, ReadError> {
        let mut live = self.scheduler.live(drvs.clone()).await?;
        if idle == Idle::Over {
            // What still moves does so for another evaluation, or is being stopped: not for this one.
            live.retain(|_, state| state.is_final());
        }
        let dir = self.store_dir.clone();
        Ok(self
            .index
            .read(move |conn| combine(conn, &dir, &drvs, &live, idle))
            .await?)
    }
}

fn combine(
    conn: &Connection,
    dir: &StoreDir,
    drvs: &[DrvId],
    live: &HashMap<DrvId, LiveState>,
    idle: Idle,
) -> index::Result<HashMap<DrvId, Known>> {
    let standings = outcomes::of(conn, drvs)?;
    let may_be_blocked: Vec<DrvId> = drvs
        .iter()
        .zip(&standings)
        .filter(|(drv, standing)| match (live.get(drv), standing) {
            (Some(LiveState::Blocked(_)), _) | (None, Standing::Open | Standing::Cancelled { .. }) => true,
            (None, Standing::Succeeded { .. } | Standing::Failed { .. }) | (Some(_), _) => false,
        })
        .map(|(drv, _)| *drv)
        .collect();
    let mut blocked = outcomes::blocked_by(conn, &may_be_blocked)?;
    for drv in &may_be_blocked {
        // While something is live the scheduler knows better: to the index an input whose store broke off looks
        // failed until it has been tried again. Only where the scheduler names no more than a few is the index asked.
        if let Some(LiveState::Blocked(by)) = live.get(drv) {
            if by.len() < MAX_BLOCKERS {
                blocked.insert(*drv, by.clone());
            } else {
                blocked.entry(*drv).or_insert_with(|| by.clone());
            }
        }
    }
    let roots: Vec<DrvId> = blocked
        .values()
        .flatten()
        .copied()
        .collect::<HashSet<_>>()
        .into_iter()
        .collect();
    let paths: HashMap<DrvId, String> = roots
        .iter()
        .zip(derivations::paths(conn, &roots)?)
        .map(|(drv, path)| (*drv, dir.display(&path).to_string()))
        .collect();

    let known = |drv: &DrvId, standing: &Standing| {
        let tried = match standing {
            Standing::Open => None,
            Standing::Cancelled { attempt }
            | Standing::Succeeded { attempt, .. }
            | Standing::Failed { attempt, .. } => Some(*attempt),
        };
        let plain = |outcome, attempt| Known {
            outcome,
            attempt,
            blocked_by: Vec::new(),
        };
        let is_blocked = |by: &Vec<DrvId>| {
            let mut names: Vec<String> = by.iter().filter_map(|root| paths.get(root).cloned()).collect();
            names.sort_unstable();
            Known {
                outcome: Outcome::Blocked { by: names },
                attempt: None,
                blocked_by: by.clone(),
            }
        };
        match live.get(drv) {
            Some(LiveState::Forwarding { reason: None }) => plain(Outcome::Forwarding, tried),
            Some(LiveState::Forwarding { reason: Some(reason) } | LiveState::Ready { reason }) => plain(
                Outcome::Queued {
                    reason: reason.to_string(),
                },
                tried,
            ),
            Some(LiveState::Waiting { left }) => plain(
                Outcome::Queued {
                    reason: waits_for(*left),
                },
                tried,
            ),
            Some(LiveState::Building { attempt, .. }) => plain(Outcome::Building, *attempt),
            Some(LiveState::Succeeded(how)) => plain(Outcome::Succeeded { how: *how }, tried),
            Some(LiveState::Failed(class)) => plain(Outcome::Failed { class: *class }, tried),
            Some(LiveState::Cancelled) => plain(Outcome::Cancelled, tried),
            Some(LiveState::Blocked(_)) => blocked.get(drv).map_or_else(|| plain(idle.outcome(), None), is_blocked),
            None => match standing {
                Standing::Succeeded { how, .. } => plain(Outcome::Succeeded { how: *how }, tried),
                // Whether an old failure still stands, and what it blocks, is for the plan to say.
                Standing::Failed { .. } | Standing::Open | Standing::Cancelled { .. } if idle == Idle::Soon => {
                    plain(idle.outcome(), tried)
                }
                Standing::Failed { class, .. } => plain(Outcome::Failed { class: *class }, tried),
                Standing::Open | Standing::Cancelled { .. } => match (blocked.get(drv), standing) {
                    (Some(by), _) => is_blocked(by),
                    (None, Standing::Cancelled { .. }) if idle == Idle::Unasked => plain(Outcome::Cancelled, tried),
                    (None, _) => plain(idle.outcome(), tried),
                },
            },
        }
    };
    Ok(drvs
        .iter()
        .zip(&standings)
        .map(|(drv, standing)| (*drv, known(drv, standing)))
        .collect())
}

fn waits_for(builds: u32) -> String {
    match builds {
        1 => "waits for 1 build".to_owned(),
        builds => format!("waits for {builds} builds"),
    }
}
