//! What another store lacks of a closure: a machine without I/O, and what drives it.

mod machine;
#[cfg(test)]
mod tests;

pub use machine::{Negotiation, Step};
