//! Who asks over HTTP, and what they may: the door for runners, tokens, and issuers of tokens.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../common/mod.rs"]
mod common;

mod confirmed;
mod connect;
mod issuer;
mod made;
mod oidc;
mod proxy;
mod quiet;
mod tls;
mod upgrade;
