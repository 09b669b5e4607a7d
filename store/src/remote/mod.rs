//! Nix stores that build: how to reach them, and connections to them.
//!
//! A [`Remote`] is a pool of connections to the store at a [`StoreUri`]. What is behind a connection (a socket, a
//! private daemon, ssh) is started when it is opened and ends when it is dropped.

mod environment;
mod error;
mod options;
mod parameters;
mod pool;
mod said;
mod ssh;
mod transport;
mod uri;

pub use environment::Environment;
pub use error::{Fault, Unreachable};
pub use options::{BuildOptions, RemoteOptions};
pub use pool::{Link, Pooled, Remote};
pub use uri::{Layout, SshUri, StoreUri, StoreUriError, UriFault};
