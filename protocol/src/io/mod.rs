//! The Tokio half: buffers between values and sockets, framed streams, streams of paths.

mod decoder;
mod eager;
mod framed;
mod half;
mod nar;
mod pass;
mod path_stream;
mod reader;
mod socket;
mod writer;

pub use eager::Company;
pub use framed::put_frame;
pub use nar::{NarError, NarPart, NarScanner};
pub use path_stream::{PathStreamError, PathStreamReader, PathStreamWriter, StreamKind};
pub use socket::{SocketReader, SocketWatch, SocketWriter, socket};

pub(crate) use decoder::{Decoder, ReadError};
pub(crate) use half::{ReadHalf, WriteHalf};
pub(crate) use pass::Pipe;
pub(crate) use reader::{BUFFER, Reader};
pub(crate) use writer::Writer;
