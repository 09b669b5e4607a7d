//! The client of GitHub against what others wrote: an emulator of GitHub, GitHub's own description of its interface as
//! JSON schemas and as a mock server, and a strict stand-in for what neither does (clocks, refusals, limits).

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod app;
mod checks;
mod keys;
mod lost;
mod pulls;
mod refusals;
mod road;
mod schema;
mod secrets;
mod server;
mod stand_in;
mod statuses;
mod world;
