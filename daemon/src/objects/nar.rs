//! NARs on their way from a store to whoever asked.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use nixci_protocol::op;
use nixci_protocol::types::StorePath;
use tokio::io::{AsyncRead, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::task::JoinHandle;
use tracing::debug;

use super::ObjectError;
use super::behind::Behind;
use crate::error::told;

/// Bytes of a NAR that wait for a slow reader.
const PIPE: usize = 256 * 1024;

/// Begins to read a NAR of `size` bytes. The store's connection is held until the NAR was read or its reader dropped.
pub(super) async fn stream(store: &Behind, path: &StorePath, size: u64) -> Result<op::Nar, ObjectError> {
    // A slow reader must not keep questions waiting, so that this is none of the connections for those.
    let place = store.streams.clone().acquire_owned().await;
    let mut connection = store.remote.take().await?;
    let remote = store.remote.clone();
    let (mut sink, reader) = tokio::io::duplex(PIPE);
    let (path, name) = (path.clone(), store.name.clone());
    let copying = tokio::spawn(async move {
        match connection.nar_from_path(&path, size, &mut sink, &mut ()).await {
            Ok(()) => {
                remote.give_back(connection);
                // The reader has everything, or does not want it.
                drop(sink.shutdown().await);
            }
            Err(error) => debug!(store = name, %path, "failed to read {path} from store `{name}`: {}", told(&error)),
        }
        drop(place);
    });
    let reader = Incoming {
        pipe: reader,
        left: size,
        copying,
    };
    Ok(op::Nar {
        size,
        reader: Box::new(reader),
    })
}

/// The NAR as it comes. One that breaks off is an error, never a short NAR.
struct Incoming {
    pipe: DuplexStream,
    left: u64,
    copying: JoinHandle<()>,
}

impl AsyncRead for Incoming {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = out.filled().len();
        std::task::ready!(Pin::new(&mut self.pipe).poll_read(cx, out))?;
        let read = (out.filled().len() - before) as u64;
        if read == 0 && self.left > 0 && out.remaining() > 0 {
            let text = "the store broke off in the middle of a NAR";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::UnexpectedEof, text)));
        }
        self.left = self.left.saturating_sub(read);
        Poll::Ready(Ok(()))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // A reader that left wants no more; one that has everything leaves the connection to its last step.
        if self.left > 0 {
            self.copying.abort();
        }
    }
}
