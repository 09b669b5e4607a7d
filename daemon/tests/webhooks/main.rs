//! Webhooks as forges send them, and as others would, to a daemon on its own port.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod burst;
mod checks;
mod emulated;
mod pull_requests;
mod recorded;
mod refused;
mod world;
