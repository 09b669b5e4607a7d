//! What exists, here and elsewhere: the index of what happened, the spool of what was uploaded, logs, and Nix stores.

pub mod derivation;
pub mod index;
pub mod listing;
pub mod local;
pub mod logs;
pub mod nar_cache;
pub mod negotiate;
pub mod remote;
pub mod spool;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transfer;
pub mod upload;
