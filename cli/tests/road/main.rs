//! The whole road from a user's side: the `nixci` program, a daemon, and a real Nix that builds.

#[path = "../common/ran.rs"]
mod ran;

mod again;
mod basics;
mod builds;
mod counter;
mod daemons;
mod faults;
mod gc;
mod store_dir;
mod world;
