use tokio::io::{AsyncWrite, AsyncWriteExt};

use super::call::{both, flush, put_request, read_log};
use super::connection::State;
use super::{Connection, Error, LogSink};
use crate::io::{Decoder, NarError, NarScanner, Reader};
use crate::log::{self, RemoteError};
use crate::op::NarFromPath;
use crate::types::StorePath;
use crate::wire::{Negotiated, Wire};

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
        self.begin()?;
        let request = NarFromPath { path: path.clone() };
        put_request(&request, &self.agreed.negotiated, &mut self.writer.out);
        let on = &self.agreed.negotiated;
        let reader = &mut self.reader;
        let mut began = false;
        let reading = async {
            read_log(reader, on, log).await?;
            began = true;
            copy_nar(reader, on, nar_size, sink).await
        };
        let result = both(flush(&mut self.writer), reading).await;
        let result = self.settle(result);
        if began && result.is_err() {
            self.state = State::Broken;
        }
        result
    }
}

async fn copy_nar(
    reader: &mut Reader,
    on: &Negotiated,
    expected: u64,
    sink: &mut (impl AsyncWrite + Send + Unpin),
) -> Result<(), Error> {
    let mut scanner = NarScanner::new();
    while !scanner.is_done() {
        if reader.buffered().is_empty() {
            fill(reader).await?;
        }
        let before = scanner.offset();
        let taken = match scanner.push(reader.buffered()) {
            Ok(taken) => taken,
            // Stock servers find out that a path is not valid only after they said that all is well, some even after
            // the first word of the NAR: the error is where a word should be, and no word is that long.
            Err(NarError::TooLong { length: log::ERROR, .. }) => {
                reader.consume((scanner.offset() - before) as usize);
                return Err(Error::Remote(RemoteError::read(&mut Decoder::new(reader, on)).await?));
            }
            Err(error) => return Err(error.into()),
        };
        let found = scanner.offset();
        if found > expected {
            return Err(Error::NarSize { expected, found });
        }
        sink.write_all(&reader.buffered()[..taken]).await.map_err(Error::Sink)?;
        reader.consume(taken);
    }
    match scanner.offset() {
        found if found == expected => Ok(()),
        found => Err(Error::NarSize { expected, found }),
    }
}

async fn fill(reader: &mut Reader) -> Result<(), Error> {
    match reader.fill().await {
        Ok(0) => Err(Error::Closed),
        Ok(_) => Ok(()),
        Err(error) => Err(Error::Io(error)),
    }
}
