//! From verdict to forge: what is to be shown, written down first, then sent.
//!
//! ```text
//! changes → compose (what each context shall say) → index, table `status` → outbox (one sender per forge) → forge
//! ```

mod compose;
mod composer;
pub mod machine;
mod outbox;
pub mod pace;
mod positions;
mod reproduce;
mod sender;
mod text;

#[cfg(test)]
mod tests;

pub(crate) use composer::run as compose;
pub use outbox::Outbox;
