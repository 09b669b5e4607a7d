//! The nixci service, in the order of the data flow.
//!
//! [`config`] is checked whole, then [`start`] opens the state folder, binds the doors and spawns the
//! scheduler. What arrives at a door is a store operation or a control request; the latter go to
//! [`Ci`], which is all the HTTP pages, the command line's `--embedded` and tests see.
//!
//! ```text
//! listen → door → spool, index ─┬─ submit → scheduler → forward, build → stores
//!                               └─ read, watch, logs → clients, pages
//! ```

// An optimised build looks through the futures of a connection down to the last operation.
#![recursion_limit = "256"]

mod adopt;
mod advisory;
mod allow;
pub mod backup;
mod build;
mod ci;
mod collect;
pub mod config;
mod core;
mod dispatch;
mod door;
mod error;
pub mod forge;
mod forward;
pub mod generate;
pub mod http;
mod issue;
mod listen;
mod logs;
mod notify;
mod objects;
mod oidc;
mod principal;
pub mod read;
mod recovery;
mod reload;
pub mod report;
mod request;
pub mod scheduler;
mod settings;
mod shutdown;
mod sign;
mod start;
mod stdio;
mod steer;
mod submit;
pub mod tls;
mod watch;
mod webhook;

pub use ci::{Answer, Ci, Lines};
pub use config::Config;
pub use error::{CiError, StartError};
pub use issue::{IssueError, Issuer, Wish};
pub use listen::{InheritError, Inherited, raise_file_limit};
pub use principal::{Lowered, Principal, TokenError, TokenHash, new_token};
pub use reload::Reloaded;
pub use settings::Pages;
pub use start::{Running, start, start_with};
pub use stdio::{StdioError, default_sockets, stdio};

/// The version, with the commit it was built from where that is known: `0.1.0 (709f23d0a1b2 2026-11-21)`.
pub const VERSION: &str = env!("NIXCI_VERSION");
