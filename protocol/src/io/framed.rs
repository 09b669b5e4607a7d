use bytes::{BufMut, BytesMut};

/// Appends one frame of a framed stream: its length and its bytes, unpadded. An empty one ends the stream.
pub fn put_frame(data: &[u8], out: &mut BytesMut) {
    out.reserve(8 + data.len());
    out.put_u64_le(data.len() as u64);
    out.put_slice(data);
}
