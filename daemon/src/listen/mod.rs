//! Sockets: binding them, knowing the peer, one task per connection.

mod lock;
mod socket;

pub(crate) use lock::StateLock;
pub(crate) use socket::bind;
