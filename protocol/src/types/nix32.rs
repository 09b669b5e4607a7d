//! Nix's base 32: the digits of store paths and of hashes.
//!
//! Character *i* counted from the end holds bits *5i* to *5i + 4* of the little-endian bit string.

const ALPHABET: &[u8; 32] = b"0123456789abcdfghijklmnpqrsvwxyz";

const INVALID: u8 = 0xff;

const VALUES: [u8; 256] = {
    let mut values = [INVALID; 256];
    let mut i = 0;
    while i < 32 {
        values[ALPHABET[i] as usize] = i as u8;
        i += 1;
    }
    values
};

/// Why a text is not the base 32 form of so many bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nix32Error {
    /// The number of characters does not fit the number of bytes.
    #[error("expected {expected} base 32 characters, found {found}")]
    Length {
        /// Characters that many bytes take.
        expected: usize,
        /// Characters there were.
        found: usize,
    },
    /// A character outside the alphabet (there is no `e`, `o`, `t` or `u`).
    #[error("{:?} is not a base 32 character", char::from(*.0))]
    Character(u8),
    /// Bits above the last byte are set.
    #[error("base 32 text has excess bits")]
    Excess,
}

/// Characters that `bytes` bytes take.
#[must_use]
pub const fn encoded_len(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// The base 32 form of some bytes.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    let mut text = vec![0; encoded_len(bytes.len())];
    encode_into(bytes, &mut text);
    text.into_iter().map(char::from).collect()
}

/// The base 32 form of the digest in a store path.
#[must_use]
pub(super) fn encode_digest(bytes: &[u8; 20]) -> [u8; 32] {
    let mut text = [0; 32];
    encode_into(bytes, &mut text);
    text
}

/// Five bytes are eight characters, so that both are walked in such groups: the bytes forwards, the text backwards.
fn encode_into(bytes: &[u8], text: &mut [u8]) {
    for (group, characters) in bytes.chunks(5).zip(text.rchunks_mut(8)) {
        let mut bits = [0; 8];
        bits[..group.len()].copy_from_slice(group);
        let mut bits = u64::from_le_bytes(bits);
        for character in characters.iter_mut().rev() {
            *character = ALPHABET[(bits & 0x1f) as usize];
            bits >>= 5;
        }
    }
}

/// Reads `N` bytes back from their base 32 form.
pub fn decode<const N: usize>(text: &[u8]) -> Result<[u8; N], Nix32Error> {
    let mut bytes = [0; N];
    decode_into(text, &mut bytes)?;
    Ok(bytes)
}

/// Reads as many bytes as `bytes` holds back from their base 32 form.
pub fn decode_into(text: &[u8], bytes: &mut [u8]) -> Result<(), Nix32Error> {
    let expected = encoded_len(bytes.len());
    if text.len() != expected {
        return Err(Nix32Error::Length {
            expected,
            found: text.len(),
        });
    }
    for (group, characters) in bytes.chunks_mut(5).zip(text.rchunks(8)) {
        let mut bits = 0;
        let mut seen = 0;
        for character in characters {
            let value = VALUES[usize::from(*character)];
            seen |= value;
            bits = bits << 5 | u64::from(value & 0x1f);
        }
        if seen == INVALID {
            let character = characters.iter().rev().find(|c| VALUES[usize::from(**c)] == INVALID);
            return Err(Nix32Error::Character(character.copied().unwrap_or_default()));
        }
        let bits = bits.to_le_bytes();
        let (low, excess) = bits.split_at(group.len());
        if excess.iter().any(|byte| *byte != 0) {
            return Err(Nix32Error::Excess);
        }
        group.copy_from_slice(low);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_hello_is_spelled_as_nix_spells_it() {
        let bytes = data_encoding::HEXLOWER
            .decode(b"1c37d01af40be2e80691de3cc3df44377a699afbb17c68f080964b2fd071fc13")
            .unwrap();
        let text = "04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw";
        assert_eq!(encode(&bytes), text);
        assert_eq!(decode::<32>(text.as_bytes()).unwrap().as_slice(), bytes);
    }

    #[test]
    fn bad_text_is_named() {
        assert_eq!(
            decode::<20>(b"short"),
            Err(Nix32Error::Length { expected: 32, found: 5 })
        );
        assert_eq!(decode::<20>(&[b'e'; 32]), Err(Nix32Error::Character(b'e')));
        assert_eq!(decode::<32>(&[b'z'; 52]), Err(Nix32Error::Excess));
    }
}
