//! Our client and our server in one process, and hand-written bytes against either.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod fixture;
mod malformed;
mod old_clients;
mod operations;
mod sockets;
