//! Bytes that go from one socket to another without being looked at.
//!
//! Linux moves them without a copy; elsewhere they come by a buffer. Both ways are the same to whoever uses them.

// Compiled for tests on Linux too, where they run.
#[cfg(any(test, not(target_os = "linux")))]
mod copy;
#[cfg(target_os = "linux")]
mod splice;

#[cfg(not(target_os = "linux"))]
pub(crate) use copy::Pipe;
#[cfg(target_os = "linux")]
pub(crate) use splice::Pipe;
