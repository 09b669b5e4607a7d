//! What an evaluation says, alone or against a base: one pure function, one set of words.
//!
//! [`verdict`] is total: any two sides and any causes give an answer, and every job of head is in
//! exactly one [`Bucket`]. The command, the check, the page, the Markdown and the JSON print its
//! [`Verdict::sentence`] and nothing else, so they cannot disagree.

mod decide;
mod markdown;
mod types;
mod words;

#[cfg(test)]
mod tests;

pub use decide::{classify, verdict};
pub use markdown::to_markdown;
pub use types::{Bucket, Cause, Conclusion, JobInput, RootCause, Row, Side, SideInput, Verdict};
pub use words::{derivation_name, strip_ansi};
