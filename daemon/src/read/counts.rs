//! Counts of evaluations, remembered for a little while: a list of fifty evaluations must not derive the
//! outcomes of every job of each one on every look.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use nixci_protocol::nixci::control::{Counts, EvaluationId, Millis};
use nixci_store::index::evaluations::EvaluationRow;

use super::Reader;

/// How long the counts of an evaluation that has ended are taken for true.
const ENDED: Duration = Duration::from_mins(1);
/// How long those of a running one are.
const RUNNING: Duration = Duration::from_secs(1);
/// Evaluations that are remembered; beyond that all are forgotten.
const CAPACITY: usize = 4_096;

type Entry = (Option<Millis>, Instant, Counts);

/// The lock is held for a look-up or an insertion only, never across an await.
#[derive(Debug, Default)]
pub(super) struct Remembered(Mutex<HashMap<EvaluationId, Entry>>);

impl Reader {
    pub(super) fn remembered_counts(&self, row: &EvaluationRow) -> Option<Counts> {
        let remembered = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (ended, at, counts) = remembered.get(&row.id)?;
        let fresh = if row.ended.is_some() { ENDED } else { RUNNING };
        (*ended == row.ended && at.elapsed() < fresh).then_some(*counts)
    }

    pub(super) fn counted(&self, row: &EvaluationRow, counts: Counts) {
        let mut remembered = self.counts.0.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= CAPACITY {
            remembered.clear();
        }
        remembered.insert(row.id, (row.ended, Instant::now(), counts));
    }
}
