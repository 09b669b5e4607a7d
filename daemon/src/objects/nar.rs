//! NARs on their way from a store to whoever asked.

use nixci_protocol::client::{Connection, NarStream};
use nixci_protocol::op;
use nixci_protocol::types::StorePath;
use nixci_store::remote::Pooled;
use tokio::sync::OwnedSemaphorePermit;

use super::ObjectError;
use super::behind::Behind;

/// Begins to read a NAR of `size` bytes. The store's connection is held until the NAR was read or its reader dropped;
/// one that breaks off is an error of reading, never a short NAR.
pub(super) async fn stream(store: &Behind, path: &StorePath, size: u64) -> Result<op::Nar, ObjectError> {
    // A slow reader must not keep questions waiting, so that this is none of the connections for those.
    let place = store.streams.clone().acquire_owned().await;
    let lent = Lent {
        connection: store.remote.borrow().await?,
        _place: place.ok(),
    };
    let reader = NarStream::open(lent, path, size, &mut ())
        .await
        .map_err(|error| store.failed(error))?;
    Ok(op::Nar {
        size,
        reader: Box::new(reader),
    })
}

/// The NARs of several objects of one store, each of at most `limit` bytes, in one turn.
pub(super) async fn several(store: &Behind, paths: &[StorePath], limit: u64) -> Result<Vec<Vec<u8>>, ObjectError> {
    let place = store.streams.clone().acquire_owned().await;
    let mut lent = Lent {
        connection: store.remote.borrow().await?,
        _place: place.ok(),
    };
    let nars = lent.as_mut().nars(paths, limit).await;
    nars.map_err(|error| store.failed(error))
}

/// A connection, and its place among those that stream.
struct Lent {
    connection: Pooled,
    _place: Option<OwnedSemaphorePermit>,
}

impl AsMut<Connection> for Lent {
    fn as_mut(&mut self) -> &mut Connection {
        self.connection.as_mut()
    }
}
