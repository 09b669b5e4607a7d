//! The Tokio half: buffers between values and sockets, framed streams, streams of paths.

mod decoder;
mod framed;
mod nar;
mod path_stream;
mod reader;
mod writer;

pub use framed::put_frame;
pub use nar::{NarError, NarPart, NarScanner};
pub use path_stream::{PathStreamError, PathStreamReader, PathStreamWriter, StreamKind};

pub(crate) use decoder::{Decoder, ReadError};
pub(crate) use reader::{BUFFER, Reader};
pub(crate) use writer::Writer;

/// What bytes come from.
pub(crate) type BoxRead = Box<dyn tokio::io::AsyncRead + Send + Unpin>;
/// Where bytes go.
pub(crate) type BoxWrite = Box<dyn tokio::io::AsyncWrite + Send + Unpin>;
