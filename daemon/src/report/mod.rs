//! From verdict to forge: what is to be shown, written down first, then sent.
//!
//! ```text
//! changes → compose (what each context shall say) → index, table `status` → outbox (one sender per forge) → forge
//! ```

mod compose;
mod composer;
mod positions;
mod reproduce;
mod text;

#[cfg(test)]
mod tests;

use crate::core::Core;

pub(crate) use composer::run as compose;

/// Tells who sends to a repository that there is something new.
fn ring(_core: &Core, _forge: &str, _repository: &str) {}
