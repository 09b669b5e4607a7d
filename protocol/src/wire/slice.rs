use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;

use super::{Negotiated, Parsed, Source, Wire, WireError};

/// Bytes in memory.
struct Slice<'a> {
    on: &'a Negotiated,
    input: &'a [u8],
}

impl Source for Slice<'_> {
    type Error = WireError;

    fn on(&self) -> &Negotiated {
        self.on
    }

    async fn parse<T, P>(&mut self, parser: P) -> Result<T, WireError>
    where
        T: Send,
        P: for<'i> Fn(&Negotiated, &'i [u8]) -> Parsed<'i, T> + Send,
    {
        match parser(self.on, self.input) {
            Ok((rest, value)) => {
                self.input = rest;
                Ok(value)
            }
            Err(nom::Err::Incomplete(_)) => Err(WireError::Incomplete),
            Err(nom::Err::Error(error) | nom::Err::Failure(error)) => Err(error),
        }
    }
}

/// Takes a value from the front of some bytes, and returns it with the rest.
///
/// [`WireError::Incomplete`] when they end too early.
pub fn decode<'i, T: Wire>(on: &Negotiated, input: &'i [u8]) -> Result<(T, &'i [u8]), WireError> {
    let mut slice = Slice { on, input };
    let value = {
        let reading = pin!(T::read(&mut slice));
        match reading.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(value) => value?,
            // A slice never waits.
            Poll::Pending => return Err(WireError::Incomplete),
        }
    };
    let rest = slice.input.len();
    Ok((value, &input[input.len() - rest..]))
}

/// Takes a value that is all of some bytes.
pub fn decode_all<T: Wire>(on: &Negotiated, input: &[u8]) -> Result<T, WireError> {
    match decode(on, input)? {
        (value, []) => Ok(value),
        (_, rest) => Err(WireError::Surplus(rest.len())),
    }
}

/// The bytes of a value.
pub fn encode<T: Wire>(on: &Negotiated, value: &T) -> BytesMut {
    let mut out = BytesMut::new();
    value.encode(on, &mut out);
    out
}
