//! The accept loop of the Unix socket.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::net::UnixStream;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{error, warn};

use super::BoundSocket;
use super::park::Parked;
use crate::door::Door;
use crate::principal::Principal;
use crate::shutdown::Shutdown;

/// The longest pause after `accept` failed, for instance because file descriptors ran out.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// How long a connection may take to keep what arrived and to say why it ends, once the daemon stops.
const GRACE: Duration = Duration::from_secs(5);
/// The first one; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Accepts until the stop begins; at most `connections` at once, the others wait in the kernel's queue.
///
/// Each connection is a task of its own: a panic in one ends that one.
pub(crate) async fn accept(socket: BoundSocket, door: Arc<Door>, connections: usize, stop: Shutdown) {
    let slots = Arc::new(Semaphore::new(connections));
    let mut pause = FIRST_PAUSE;
    loop {
        let slot = stop.accepting.run_until_cancelled(slots.clone().acquire_owned()).await;
        let Some(Ok(slot)) = slot else { return };
        let Some(accepted) = stop.accepting.run_until_cancelled(socket.listener.accept()).await else {
            return;
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "failed to accept a connection: {error}");
                if stop
                    .accepting
                    .run_until_cancelled(tokio::time::sleep(pause))
                    .await
                    .is_none()
                {
                    return;
                }
                pause = (pause * 2).min(LONGEST_PAUSE);
                continue;
            }
        };
        pause = FIRST_PAUSE;
        let door = door.clone();
        let token = stop.connections.clone();
        stop.serving.spawn(async move {
            let serving = std::panic::AssertUnwindSafe(async {
                tokio::select! {
                    () = serve(stream, &door, token.clone()) => {}
                    () = async {
                        token.cancelled().await;
                        tokio::time::sleep(GRACE).await;
                    } => {}
                }
            });
            if serving.catch_unwind().await.is_err() {
                error!("a connection ended in a panic; the others go on");
            }
            drop(slot);
        });
    }
}

async fn serve(stream: UnixStream, door: &Door, stop: CancellationToken) {
    let principal = match stream.peer_cred() {
        Ok(peer) => Principal::local(peer.uid(), door.trusts(peer.uid())),
        Err(error) => {
            warn!(%error, "failed to ask who is connecting: {error}");
            return;
        }
    };
    let (read, write) = stream.into_split();
    door.serve(Parked::new(read, stop), write, principal).await;
}
