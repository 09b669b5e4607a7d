//! The wire forms of our three operations.

use bytes::BytesMut;

use super::{FEATURE_CLOSURE, FEATURE_CONTROL, OP_ADD_CLOSURE, OP_CONTROL, OP_QUERY_VALID_BATCH};
use crate::op::{Call, FramedCall, Operation, Unsupported, needs_feature, operations};
use crate::types::StorePath;
use crate::wire::primitive::{failure, put_string, string, text};
use crate::wire::{Negotiated, Source, Wire, WireError};

const DIGEST: usize = 20;

/// The reply to [`Control`] is one JSON value.
pub const CONTROL_VALUE: u64 = 0;
/// The reply to [`Control`] is a framed stream of JSON lines.
pub const CONTROL_LINES: u64 = 1;

operations! {
    /// Adds paths: a framed stream holding one zstd stream of `1`, a path info in the layout of 1.16 and its NAR for
    /// each, references first, and `0` at the end. What arrived whole stays when the stream breaks.
    AddClosure = OP_ADD_CLOSURE;
    with FEATURE_CLOSURE;
    reply u64;
    {}
}

impl FramedCall for AddClosure {}

/// Which of many paths are valid. Those that are stay protected until the connection ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QueryValidBatch {
    /// The digests of the paths, as one byte string on the wire.
    pub digests: Vec<[u8; DIGEST]>,
}

impl QueryValidBatch {
    /// Asks for some paths, in their order.
    #[must_use]
    pub fn of<'a>(paths: impl IntoIterator<Item = &'a StorePath>) -> Self {
        Self {
            digests: paths.into_iter().map(|path| *path.digest()).collect(),
        }
    }
}

impl Operation for QueryValidBatch {
    const OP: u32 = OP_QUERY_VALID_BATCH;
    const NAME: &'static str = "QueryValidBatch";

    fn check(on: &Negotiated) -> Result<(), Unsupported> {
        needs_feature(Self::NAME, FEATURE_CLOSURE, on)
    }
}

impl Call for QueryValidBatch {
    type Reply = Bitmap;
}

impl Wire for QueryValidBatch {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|on, input| {
            let (rest, body) = string(on.limits.text(), input)?;
            let (digests, odd) = body.as_chunks::<DIGEST>();
            if !odd.is_empty() {
                return Err(failure(WireError::Digests(body.len())));
            }
            let digests = digests.to_vec();
            Ok((rest, Self { digests }))
        })
        .await
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        let body = self.digests.as_flattened();
        put_string(body, out);
    }
}

/// One bit for each path asked for: bit *i* is bit `i % 8` of byte `i / 8`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Bitmap(pub Vec<u8>);

impl Bitmap {
    /// Whether bit `index` is set; bits beyond the end are not.
    #[must_use]
    pub fn get(&self, index: usize) -> bool {
        self.0.get(index / 8).is_some_and(|byte| byte >> (index % 8) & 1 == 1)
    }
}

impl FromIterator<bool> for Bitmap {
    fn from_iter<T: IntoIterator<Item = bool>>(bits: T) -> Self {
        let mut bytes = Vec::new();
        for (index, bit) in bits.into_iter().enumerate() {
            if index % 8 == 0 {
                bytes.push(0);
            }
            if let Some(last) = bytes.last_mut() {
                *last |= u8::from(bit) << (index % 8);
            }
        }
        Self(bytes)
    }
}

impl Wire for Bitmap {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|on, input| {
            let (rest, body) = string(on.limits.text(), input)?;
            Ok((rest, Self(body.to_vec())))
        })
        .await
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        put_string(&self.0, out);
    }
}

/// Asks or tells the daemon something in JSON, within `max_control`.
///
/// The reply is [`CONTROL_VALUE`] and one string, or [`CONTROL_LINES`] and frames of JSON lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    /// A [`super::control::Request`].
    pub json: String,
}

impl Operation for Control {
    const OP: u32 = OP_CONTROL;
    const NAME: &'static str = "Control";

    fn check(on: &Negotiated) -> Result<(), Unsupported> {
        needs_feature(Self::NAME, FEATURE_CONTROL, on)
    }
}

impl Wire for Control {
    async fn read<S: Source>(from: &mut S) -> Result<Self, S::Error> {
        from.parse(|on, input| {
            let (rest, json) = text(on.limits.control(), input)?;
            Ok((rest, Self { json: json.to_owned() }))
        })
        .await
    }

    fn encode(&self, _: &Negotiated, out: &mut BytesMut) {
        put_string(self.json.as_bytes(), out);
    }
}
