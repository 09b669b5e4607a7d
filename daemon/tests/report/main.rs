//! What forges are shown, against a strict one of our own that limits, loses and fails.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod fake;
mod limits;
mod lossy;
mod refused;
mod world;
