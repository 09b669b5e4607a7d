//! Many small NARs at once.

use super::call::{both, flush, put_request, read_log};
use super::connection::State;
use super::{Connection, Error};
use crate::io::{Decoder, NarError, NarScanner, Reader};
use crate::log::{self, RemoteError};
use crate::op::NarFromPath;
use crate::types::StorePath;
use crate::wire::{Negotiated, Wire};

impl Connection {
    /// The NARs of valid paths, each of at most `limit` bytes, asked for without waiting in between. A path that is not
    /// valid breaks the connection.
    pub async fn nars(&mut self, paths: &[StorePath], limit: u64) -> Result<Vec<Vec<u8>>, Error> {
        if paths.is_empty() {
            return Ok(Vec::new());
        }
        self.begin()?;
        let on = &self.agreed.negotiated;
        for path in paths {
            put_request(&NarFromPath { path: path.clone() }, on, &mut self.writer.out);
        }
        let reader = &mut self.reader;
        let reading = async {
            let mut nars = Vec::with_capacity(paths.len());
            for _ in paths {
                read_log(reader, on, &mut ()).await?;
                nars.push(collect(reader, on, limit).await?);
            }
            Ok(nars)
        };
        let result = both(flush(&mut self.writer), reading).await;
        let result = self.settle(result);
        if result.is_err() {
            self.state = State::Broken;
        }
        result
    }
}

async fn collect(reader: &mut Reader, on: &Negotiated, limit: u64) -> Result<Vec<u8>, Error> {
    let mut scanner = NarScanner::new();
    let mut nar = Vec::new();
    while !scanner.is_done() {
        if reader.buffered().is_empty() {
            match reader.fill().await {
                Ok(0) => return Err(Error::Closed),
                Ok(_) => {}
                Err(error) => return Err(Error::Io(error)),
            }
        }
        let before = scanner.offset();
        let taken = match scanner.push(reader.buffered()) {
            Ok(taken) => taken,
            // Stock servers find out that a path is not valid only after they said that all is well: the error is
            // where a word should be, and no word is that long.
            Err(NarError::TooLong { length: log::ERROR, .. }) => {
                reader.consume((scanner.offset() - before) as usize);
                return Err(Error::Remote(RemoteError::read(&mut Decoder::new(reader, on)).await?));
            }
            Err(error) => return Err(error.into()),
        };
        let found = scanner.offset();
        if found > limit {
            return Err(Error::NarSize { expected: limit, found });
        }
        nar.extend_from_slice(&reader.buffered()[..taken]);
        reader.consume(taken);
    }
    Ok(nar)
}
