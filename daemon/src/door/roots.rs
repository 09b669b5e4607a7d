//! Sets of roots that clients come with: recognised by their digest in the handshake, remembered when they are asked
//! about path by path.

use nixci_protocol::nixci::{Bitmap, QueryValidBatch, RootsDigest};
use nixci_protocol::op::Reply;
use nixci_store::spool::{Lease, Spool};
use tracing::debug;

use super::session::Session;
use crate::error::told;

/// Whether a set is known here, with all of it valid, which the lease keeps. Where that cannot be found out, the client
/// negotiates.
pub(super) async fn are_known(spool: &Spool, lease: &Lease, roots: RootsDigest) -> bool {
    let _in_use = lease.busy();
    spool.knows_roots(roots).await.unwrap_or_else(|error| {
        debug!("failed to look for a set of roots: {}", told(&error));
        false
    })
}

/// Answers which paths are valid. The first question of a client that came with a set we do not know is about that set.
pub(super) fn valid_batch(session: &mut Session, request: QueryValidBatch) -> Reply {
    let spool = &session.ci.core.spool;
    let valid = spool.valid_batch(&request.digests);
    if let Some(roots) = session.unknown_roots.take() {
        let spool = spool.clone();
        // The client does not wait for it.
        tokio::spawn(async move {
            if let Err(error) = spool.remember_roots(roots, request.digests).await {
                debug!("failed to remember a set of roots: {}", told(&error));
            }
        });
    }
    Reply::Bitmap(Bitmap(valid))
}
