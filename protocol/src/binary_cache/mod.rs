//! The texts and addresses of a binary cache over HTTP, as stock Nix reads them.
//!
//! Bytes in, values out, and back; who has what and how it is sent is for the server to say.

mod address;
mod narinfo;

pub use address::{About, Form, NarAddress, NoHashPart};
pub use narinfo::{Packed, narinfo};
