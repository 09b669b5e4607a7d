//! From verdict to forge: what is to be shown, written down first, then sent.
//!
//! ```text
//! changes → compose (what each context shall say) → index, table `status` → outbox (one sender per forge) → forge
//! ```
