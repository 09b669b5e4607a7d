//! The daemon as a service manager meets it: sockets that are passed, signals, and what it is told.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod activation;
mod notify;
mod reload;
mod world;
