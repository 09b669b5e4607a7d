//! The Nix worker protocol, versions 1.18 to 1.38, and what nixci adds to it.
//!
//! [`types`], [`wire`], [`op`], [`handshake`], [`log`] and [`binary_cache`] are sans-io: bytes in, values out, and back.
//! [`io`], [`client`] and [`server`] are the Tokio half. Nothing here touches a file or a database.

pub mod binary_cache;
pub mod client;
pub mod handshake;
pub mod io;
pub mod log;
pub mod nixci;
pub mod op;
pub mod server;
#[cfg(feature = "testing")]
pub mod testing;
pub mod types;
pub mod version;
pub mod wire;
