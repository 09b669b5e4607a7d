//! Sockets: binding them, knowing the peer, one task per connection.

mod accept;
mod admission;
mod files;
mod inherit;
mod lock;
mod park;
pub(crate) mod preamble;
mod socket;

pub(crate) use accept::{GRACE, accept};
pub(crate) use admission::{Admission, Full, Place, Places};
pub(crate) use files::check_connections;
pub use files::raise_file_limit;
pub use inherit::{InheritError, Inherited};
pub(crate) use lock::StateLock;
pub(crate) use park::Parked;
pub(crate) use socket::{BoundSocket, bind};
