//! Backups of daemons that run, and what is restored from them. All processes are real.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this is a test, and a failure here is a failed test"
)]

#[path = "../common/mod.rs"]
mod common;

mod busy;
mod full;
mod killed;
mod refused;
mod resumed;
mod world;
