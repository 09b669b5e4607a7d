//! The nixci service.

pub mod scheduler;
