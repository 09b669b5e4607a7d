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
    (0..encoded_len(bytes.len()))
        .rev()
        .map(|i| {
            let (byte, shift) = (i * 5 / 8, i * 5 % 8);
            let low = u16::from(bytes[byte]);
            let high = bytes.get(byte + 1).map_or(0, |b| u16::from(*b) << 8);
            char::from(ALPHABET[usize::from((low | high) >> shift & 0x1f)])
        })
        .collect()
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
    bytes.fill(0);
    for (i, character) in text.iter().rev().enumerate() {
        let value = VALUES[usize::from(*character)];
        if value == INVALID {
            return Err(Nix32Error::Character(*character));
        }
        let (byte, shift) = (i * 5 / 8, i * 5 % 8);
        let bits = u16::from(value) << shift;
        bytes[byte] |= (bits & 0xff) as u8;
        match bytes.get_mut(byte + 1) {
            Some(next) => *next |= (bits >> 8) as u8,
            None if bits >> 8 != 0 => return Err(Nix32Error::Excess),
            None => {}
        }
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
