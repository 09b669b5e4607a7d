use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::{fmt, io};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::mpsc;

use super::{Ack, Collected, Missing, Realisations, Root};
use crate::io::SocketWriter;
use crate::nixci::Bitmap;
use crate::types::{
    BuildResult, KeyedBuildResult, OutputName, PathInfo, StorePath, SubstitutablePathInfo, UnkeyedPathInfo,
};
use crate::version::Version;
use crate::wire::primitive::put_number;
use crate::wire::{Negotiated, Wire};

/// A NAR and its exact size.
pub struct Nar {
    /// Bytes in the NAR.
    pub size: u64,
    /// The NAR; fewer or more bytes than `size` end the connection, as there is no way to say it.
    pub reader: Box<dyn NarSource>,
}

/// What a NAR is read from.
pub trait NarSource: AsyncRead + Send + Unpin {
    /// Moves bytes that come next straight to a socket, where that costs less than reading them, and says how many;
    /// zero where they are to be read. Every byte is either passed or read.
    fn poll_pass(&mut self, _cx: &mut Context<'_>, _to: &SocketWriter) -> Poll<io::Result<u64>> {
        Poll::Ready(Ok(0))
    }
}

impl Nar {
    /// A NAR that is read from anything.
    #[must_use]
    pub fn new(size: u64, reader: impl AsyncRead + Send + Unpin + 'static) -> Self {
        let reader = Box::new(Plain(reader));
        Self { size, reader }
    }
}

/// What has no other way than reading.
struct Plain<R>(R);

impl<R: AsyncRead + Unpin> AsyncRead for Plain<R> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, out)
    }
}

impl<R: AsyncRead + Send + Unpin> NarSource for Plain<R> {}

impl fmt::Debug for Nar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Nar").field("size", &self.size).finish_non_exhaustive()
    }
}

/// JSON texts that become lines of a stream, until the sender is dropped.
pub type JsonLines = mpsc::Receiver<String>;

macro_rules! replies {
    ($($(#[$meta:meta])* $variant:ident($type:ty) $($from:ident)?;)*) => {
        /// What a server answers: one variant for each form a reply may have.
        #[derive(Debug)]
        pub enum Reply {
            /// Nothing, or the number 1: the request says which.
            Done,
            $($(#[$meta])* $variant($type),)*
        }

        /// The form of a reply, without the reply.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum ReplyShape {
            /// No bytes.
            Nothing,
            /// The number 1.
            Ack,
            $($(#[$meta])* $variant,)*
        }

        impl Reply {
            fn shape(&self) -> ReplyShape {
                match self {
                    Self::Done => ReplyShape::Nothing,
                    $(Self::$variant(_) => ReplyShape::$variant,)*
                }
            }
        }

        $($(
            impl $from<$type> for Reply {
                fn from(value: $type) -> Self {
                    Self::$variant(value)
                }
            }
        )?)*
    };
}

replies! {
    /// Yes or no.
    Bool(bool) From;
    /// A path.
    Path(StorePath) From;
    /// A path, or none.
    MaybePath(Option<StorePath>) From;
    /// Paths.
    Paths(BTreeSet<StorePath>) From;
    /// Names of outputs.
    OutputNames(BTreeSet<OutputName>) From;
    /// What is known of a path.
    PathInfo(Option<UnkeyedPathInfo>) From;
    /// The same, of a path that is valid, without a copy of it.
    KnownPath(Arc<PathInfo>) From;
    /// What was added, answered to `AddToStore`.
    Added(Box<PathInfo>) From;
    /// What a substituter knows.
    Substitutable(Option<SubstitutablePathInfo>) From;
    /// What substituters know of each path.
    Substitutables(Vec<(StorePath, SubstitutablePathInfo)>) From;
    /// Roots.
    Roots(Vec<Root>) From;
    /// A path on the server's file system.
    Link(Bytes) From;
    /// What was collected.
    Collected(Collected) From;
    /// What building would do.
    Missing(Missing) From;
    /// What came of a build.
    Built(Box<BuildResult>) From;
    /// What came of several builds.
    BuiltAll(Vec<KeyedBuildResult>) From;
    /// Outputs and where they are.
    OutputMap(BTreeMap<OutputName, Option<StorePath>>) From;
    /// Realisations.
    Realisations(Realisations) From;
    /// Which paths are valid.
    Bitmap(Bitmap) From;
    /// Paths added, answered to `AddClosure`.
    Count(u64) From;
    /// A NAR, sent as it is read.
    Nar(Nar) From;
    /// One JSON text.
    Json(String) From;
    /// A stream of JSON texts.
    JsonLines(JsonLines) From;
}

impl From<PathInfo> for Reply {
    fn from(info: PathInfo) -> Self {
        Self::Added(Box::new(info))
    }
}

impl From<BuildResult> for Reply {
    fn from(result: BuildResult) -> Self {
        Self::Built(Box::new(result))
    }
}

impl Reply {
    /// Whether it may answer a request that wants such a form.
    #[must_use]
    pub fn fits(&self, wanted: ReplyShape) -> bool {
        match (self.shape(), wanted) {
            (ReplyShape::Nothing, ReplyShape::Ack)
            | (ReplyShape::JsonLines, ReplyShape::Json)
            | (ReplyShape::KnownPath, ReplyShape::PathInfo) => true,
            (ours, wanted) => ours == wanted,
        }
    }

    /// Appends the bytes that follow the end of the log. A NAR and JSON lines are streams: of them only what goes
    /// in front is written.
    pub(crate) fn encode(&self, shape: ReplyShape, on: &Negotiated, out: &mut BytesMut) {
        match self {
            Self::Done => {
                if shape == ReplyShape::Ack {
                    Ack::Done.encode(on, out);
                }
            }
            Self::Added(info) if on.version < Version::NEW_ADD_TO_STORE => info.path.encode(on, out),
            Self::Added(info) => info.encode(on, out),
            Self::Bool(value) => value.encode(on, out),
            Self::Path(value) => value.encode(on, out),
            Self::MaybePath(value) => value.encode(on, out),
            Self::Paths(value) => value.encode(on, out),
            Self::OutputNames(value) => value.encode(on, out),
            Self::PathInfo(value) => value.encode(on, out),
            Self::KnownPath(value) => {
                // There is one.
                put_number(1, out);
                value.info.encode(on, out);
            }
            Self::Substitutable(value) => value.encode(on, out),
            Self::Substitutables(value) => value.encode(on, out),
            Self::Roots(value) => value.encode(on, out),
            Self::Link(value) => value.encode(on, out),
            Self::Collected(value) => value.encode(on, out),
            Self::Missing(value) => value.encode(on, out),
            Self::Built(value) => value.encode(on, out),
            Self::BuiltAll(value) => value.encode(on, out),
            Self::OutputMap(value) => value.encode(on, out),
            Self::Realisations(value) => value.encode(on, out),
            Self::Bitmap(value) => value.encode(on, out),
            Self::Count(value) => value.encode(on, out),
            Self::Nar(_) => {}
            Self::Json(json) => {
                crate::nixci::CONTROL_VALUE.encode(on, out);
                crate::wire::primitive::put_string(json.as_bytes(), out);
            }
            Self::JsonLines(_) => crate::nixci::CONTROL_LINES.encode(on, out),
        }
    }
}
