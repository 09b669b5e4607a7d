//! Nix stores that build: how to reach them, and connections to them.

mod environment;
mod parameters;
mod uri;

pub use environment::Environment;
pub use uri::{Layout, SshUri, StoreUri, StoreUriError, UriFault};
