//! The daemon as stock clients, and hostile ones, meet it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod builds;
mod client;
mod hostile;
mod http_cache;
mod missing;
mod objects;
mod query;
mod sign;
mod stock;
mod trust;
mod upkeep;
