//! What is built next, and where.
//!
//! One task ([`task`]) owns the [`State`]; its [`step`](State::step) is synchronous, pure and total:
//! an [`Event`] and the time go in, [`Action`]s come out. It reads no clock, no file and no database,
//! so every decision can be replayed in a test.
//!
//! Derivations are dispatched one by one, when all inputs that must be built are done; a derivation is
//! one *node* per store however many wish for it: evaluations, and requests of clients that wait
//! ([`Wisher`]). What must be built at all is not decided here: the daemon forwards the closure of the
//! roots to the chosen store, asks it once, and reports the answer as [`Event::Planned`].
//!
//! Every action is idempotent. After a restart the same events lead to the same queue: attempts that
//! were running are simply planned again, and what they finished meanwhile is found valid.

mod event;
mod graph;
mod life;
mod queue;
mod state;
mod store;
mod task;
mod wisher;

#[cfg(test)]
mod tests;

pub use event::{
    Action, Change, End, Event, LiveState, MAX_BLOCKERS, Planned, PlannedBuild, Priority, RequestId, Root, Wisher,
};
pub use state::{EvaluationProgress, RunningNode, State};
pub use store::{StoreId, StoreLoad, StoreSpec};
pub use task::{Scheduler, SchedulerGone};
