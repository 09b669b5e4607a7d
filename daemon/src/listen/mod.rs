//! Sockets: binding them, knowing the peer, one task per connection.

mod accept;
mod lock;
mod park;
mod socket;

pub(crate) use accept::accept;
pub(crate) use lock::StateLock;
pub(crate) use socket::{BoundSocket, bind};
