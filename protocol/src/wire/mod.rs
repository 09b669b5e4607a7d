//! Values and their bytes, without a socket.
//!
//! The protocol has no message length: a message is the values it consists of. [`Wire::read`] takes one
//! value after another from a [`Source`], which parses primitives with nom and waits while they are
//! incomplete, so that no byte is parsed twice however a message is cut into packets. Lists are read item
//! by item. Sizes are checked against [`Limits`] before memory is taken for them.

mod collections;
mod composite;
mod error;
mod limits;
mod negotiated;
pub mod primitive;
mod slice;
mod texts;

use bytes::BytesMut;

pub use error::WireError;
pub use limits::{Limit, Limits};
pub use negotiated::{FEATURE_GC_REFERRERS, FEATURE_REALISATION_PATHS, Negotiated};
pub use slice::{decode, decode_all, encode};
pub(crate) use texts::{read_message, wire_tag};

/// What a nom parser of ours returns.
pub type Parsed<'i, T> = nom::IResult<&'i [u8], T, WireError>;

/// A value with one wire form per negotiated protocol.
pub trait Wire: Sized + Send {
    /// Takes the value from `from`. Dropping the future loses what it has taken.
    fn read<S: Source>(from: &mut S) -> impl Future<Output = Result<Self, S::Error>> + Send;

    /// Appends the bytes. Cannot fail: values are valid by construction.
    fn encode(&self, on: &Negotiated, out: &mut BytesMut);
}

/// Where values come from: a connection, or bytes in memory.
pub trait Source: Send {
    /// What can go wrong: bytes that are no value, and whatever the place they come from adds.
    type Error: From<WireError> + Send;

    /// What was agreed with the sender.
    fn on(&self) -> &Negotiated;

    /// Parses one primitive, waiting for more bytes while it is incomplete.
    fn parse<T, P>(&mut self, parser: P) -> impl Future<Output = Result<T, Self::Error>> + Send
    where
        T: Send,
        P: for<'i> Fn(&Negotiated, &'i [u8]) -> Parsed<'i, T> + Send;
}

/// [`Wire::read`] of whatever type the place wants.
pub(crate) async fn read<T: Wire, S: Source>(from: &mut S) -> Result<T, S::Error> {
    T::read(from).await
}

/// Implements [`Wire`] for a struct: its fields in order, some only since a version.
macro_rules! wire_struct {
    ($type:ident { $($field:ident $(since $since:ident)?),* $(,)? }) => {
        impl $crate::wire::Wire for $type {
            async fn read<S: $crate::wire::Source>(from: &mut S) -> Result<Self, S::Error> {
                let _ = &from;
                $(let $field = $crate::wire::wire_struct!(@read from $($since)?);)*
                Ok(Self { $($field),* })
            }

            fn encode(&self, on: &$crate::wire::Negotiated, out: &mut bytes::BytesMut) {
                let _ = (on, &out);
                $($crate::wire::wire_struct!(@encode self $field on out $($since)?);)*
            }
        }
    };
    (@read $from:ident) => { $crate::wire::read($from).await? };
    (@read $from:ident $since:ident) => {
        if $from.on().version >= $crate::version::Version::$since {
            $crate::wire::read($from).await?
        } else {
            Default::default()
        }
    };
    (@encode $self:ident $field:ident $on:ident $out:ident) => {
        $crate::wire::Wire::encode(&$self.$field, $on, $out);
    };
    (@encode $self:ident $field:ident $on:ident $out:ident $since:ident) => {
        if $on.version >= $crate::version::Version::$since {
            $crate::wire::Wire::encode(&$self.$field, $on, $out);
        }
    };
}
pub(crate) use wire_struct;
