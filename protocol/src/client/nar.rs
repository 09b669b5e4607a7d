use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::{Connection, Error, LogSink, NarStream};
use crate::io::BUFFER;
use crate::types::StorePath;

impl Connection {
    /// Copies the NAR of a valid path to `sink`, which is not flushed. `nar_size` is what its path info says; a NAR of
    /// another size, or bytes that are none, break the connection.
    pub async fn nar_from_path(
        &mut self,
        path: &StorePath,
        nar_size: u64,
        sink: &mut (impl AsyncWrite + Send + Unpin),
        log: &mut impl LogSink,
    ) -> Result<(), Error> {
        let mut stream = NarStream::open(self, path, nar_size, log).await?;
        let mut piece = vec![0; BUFFER];
        loop {
            match stream.read(&mut piece).await? {
                0 => return Ok(()),
                taken => sink.write_all(&piece[..taken]).await.map_err(Error::Sink)?,
            }
        }
    }
}
