//! What forges are shown, against a strict one of our own that limits, loses and fails.

mod fake;
mod limits;
mod lossy;
mod refused;
mod world;
