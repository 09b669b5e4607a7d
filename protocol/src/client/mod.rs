//! The client's half: one connection, one operation at a time, or many in a row.

mod call;
mod connection;
mod control;
mod error;
mod log_sink;
mod nar;
mod nar_stream;
mod nars;

pub use connection::{Connection, Hello};
pub use control::ControlStream;
pub use error::Error;
pub use log_sink::{LogFn, LogSink};
pub use nar_stream::NarStream;
