//! Which evaluations still have a client that may send jobs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use nixci_protocol::nixci::control::EvaluationId;
use tokio::time::Instant;

/// Evaluations that receive jobs, and since when nobody has been there to send them.
///
/// The lock is held for a look-up or an insertion, never across an await.
#[derive(Debug, Clone, Default)]
pub(crate) struct Attendance {
    known: Arc<Mutex<HashMap<EvaluationId, Presence>>>,
}

#[derive(Debug, Clone, Copy)]
struct Presence {
    clients: usize,
    last_seen: Instant,
}

/// One client's presence at one evaluation; its connection holds it.
#[derive(Debug)]
pub(crate) struct Attending {
    attendance: Attendance,
    evaluation: EvaluationId,
}

impl Attending {
    /// The evaluation.
    pub(crate) fn evaluation(&self) -> EvaluationId {
        self.evaluation
    }
}

impl Drop for Attending {
    fn drop(&mut self) {
        self.attendance.with(|known| {
            if let Some(presence) = known.get_mut(&self.evaluation) {
                presence.clients = presence.clients.saturating_sub(1);
                presence.last_seen = Instant::now();
            }
        });
    }
}

impl Attendance {
    fn with<T>(&self, act: impl FnOnce(&mut HashMap<EvaluationId, Presence>) -> T) -> T {
        act(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// A client is there, for as long as the returned value lives.
    pub(crate) fn attend(&self, evaluation: EvaluationId) -> Attending {
        self.with(|known| {
            let presence = known.entry(evaluation).or_insert(Presence {
                clients: 0,
                last_seen: Instant::now(),
            });
            presence.clients += 1;
        });
        Attending {
            attendance: self.clone(),
            evaluation,
        }
    }

    /// The evaluation waits for a client from now on, unless one is there.
    pub(crate) fn expect(&self, evaluation: EvaluationId) {
        self.with(|known| {
            known
                .entry(evaluation)
                .or_insert(Presence {
                    clients: 0,
                    last_seen: Instant::now(),
                })
                .last_seen = Instant::now();
        });
    }

    /// No more jobs are waited for.
    pub(crate) fn forget(&self, evaluation: EvaluationId) {
        self.with(|known| known.remove(&evaluation));
    }

    /// Evaluations nobody has been at since before the given time.
    pub(crate) fn absent_since(&self, limit: Instant) -> Vec<EvaluationId> {
        self.with(|known| {
            known
                .iter()
                .filter(|(_, presence)| presence.clients == 0 && presence.last_seen <= limit)
                .map(|(evaluation, _)| *evaluation)
                .collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_evaluation_is_absent_once_its_last_client_has_been_gone_long_enough() {
        let attendance = Attendance::default();
        let evaluation = EvaluationId(1);
        let limit = Duration::from_secs(10);
        let absent = || attendance.absent_since(Instant::now() - limit);
        let (first, second) = (attendance.attend(evaluation), attendance.attend(evaluation));
        drop(first);
        tokio::time::advance(limit * 2).await;
        assert_eq!(absent(), []);
        drop(second);
        assert_eq!(absent(), []);
        tokio::time::advance(limit / 2).await;
        let third = attendance.attend(evaluation);
        tokio::time::advance(limit).await;
        drop(third);
        tokio::time::advance(limit).await;
        assert_eq!(absent(), [evaluation]);
        attendance.forget(evaluation);
        assert_eq!(absent(), []);
    }
}
