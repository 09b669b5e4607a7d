//! The daemon as stock clients, and hostile ones, meet it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod builders;
mod builds;
mod client;
mod content_addressed;
mod copy;
mod crate_client;
mod heavy_copy;
mod hostile;
mod http_cache;
mod missing;
mod objects;
mod old_clients;
mod old_stores;
mod query;
mod realisations;
mod remote_store;
mod repair;
mod roots;
mod settings;
mod shown;
mod sign;
mod stock;
mod store_dir;
mod substitute;
mod trust;
mod upkeep;
mod world;
