use std::io;

use super::Reader;
use crate::wire::{Negotiated, Parsed, Source, WireError};

/// Why no value could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error("failed to read from the peer")]
    Io(#[source] io::Error),
    #[error("the peer closed the connection")]
    Closed,
}

/// Takes the values of one message from a buffered peer.
pub(crate) struct Decoder<'a> {
    reader: &'a mut Reader,
    on: &'a Negotiated,
    /// Bytes the message may still have.
    left: u64,
}

impl<'a> Decoder<'a> {
    /// Begins a message.
    pub(crate) fn new(reader: &'a mut Reader, on: &'a Negotiated) -> Self {
        let left = on.limits.max_message;
        Self { reader, on, left }
    }
}

impl Source for Decoder<'_> {
    type Error = ReadError;

    fn on(&self) -> &Negotiated {
        self.on
    }

    async fn parse<T, P>(&mut self, parser: P) -> Result<T, ReadError>
    where
        T: Send,
        P: for<'i> Fn(&Negotiated, &'i [u8]) -> Parsed<'i, T> + Send,
    {
        loop {
            let input = self.reader.buffered();
            match parser(self.on, input) {
                Ok((rest, value)) => {
                    let consumed = input.len() - rest.len();
                    self.left = self
                        .left
                        .checked_sub(consumed as u64)
                        .ok_or_else(|| too_long(self.on))?;
                    self.reader.consume(consumed);
                    return Ok(value);
                }
                Err(nom::Err::Incomplete(_)) => {
                    if input.len() as u64 > self.left {
                        return Err(too_long(self.on).into());
                    }
                    if self.reader.fill().await.map_err(ReadError::Io)? == 0 {
                        return Err(ReadError::Closed);
                    }
                }
                Err(nom::Err::Error(error) | nom::Err::Failure(error)) => return Err(error.into()),
            }
        }
    }
}

fn too_long(on: &Negotiated) -> WireError {
    WireError::MessageTooLong {
        limit: on.limits.message(),
    }
}
