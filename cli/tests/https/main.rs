//! `nixci` against a real daemon behind HTTP: over TLS with latency, with tokens of every kind, and by way of files.

#[path = "../common/ran.rs"]
mod ran;

#[path = "../road/world.rs"]
#[expect(dead_code, reason = "shared with the tests over sockets, which use all of it")]
mod world;

mod artifacts;
mod ci;
mod link;
mod oidc;
mod refused;
mod runner;
mod turns;
