//! Bytes as peers send them, damaged in every way: for fuzzing and for the tests of hostile peers.
//!
//! Only compiled with the feature `testing`. A target takes any bytes and panics where a promise is broken: that nothing
//! panics, that what was understood is written as it was read, and that it does not matter how bytes are cut.

#![expect(
    clippy::missing_panics_doc,
    clippy::expect_used,
    reason = "a target reports by panicking, and samples are right by construction"
)]

mod damage;
mod samples;
mod targets;

pub use damage::Damage;
pub use samples::{nar, negotiated, requests, stream_of_paths};
pub use targets::{Target, read_request, seeds, targets};
