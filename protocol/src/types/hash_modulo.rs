use sha2::{Digest, Sha256};

use super::{Hash, nix32};

const PART: usize = 32;

/// The SHA-256 of a NAR in which the object's own hash part is blanked, as the paths of
/// self-referential content-addressed objects are made from.
///
/// Every occurrence of the 32 characters is hashed as zero bytes; after the NAR, `|` and the offset of
/// each occurrence follow. Memory is one offset per occurrence, so callers bound the NAR's size.
#[derive(Debug)]
pub struct HashModulo {
    sha256: Sha256,
    part: [u8; PART],
    /// The last bytes that may be the beginning of an occurrence.
    held: Vec<u8>,
    /// Bytes hashed so far, which is the offset of the first held byte.
    hashed: u64,
    offsets: Vec<u64>,
}

impl HashModulo {
    /// Blanks the hash part that `digest` stands for.
    #[must_use]
    pub fn new(digest: &[u8; 20]) -> Self {
        let mut part = [0; PART];
        part.copy_from_slice(nix32::encode(digest).as_bytes());
        Self {
            sha256: Sha256::new(),
            part,
            held: Vec::new(),
            hashed: 0,
            offsets: Vec::new(),
        }
    }

    /// Takes the next bytes of the NAR.
    pub fn update(&mut self, data: &[u8]) {
        // In steps, so that the held buffer stays small however much is passed.
        for piece in data.chunks(64 * 1024) {
            self.held.extend_from_slice(piece);
            self.blank_held();
        }
    }

    fn blank_held(&mut self) {
        let mut at = 0;
        while let Some(found) = find(&self.held[at..], &self.part) {
            at += found;
            self.held[at..at + PART].fill(0);
            self.offsets.push(self.hashed + at as u64);
            at += PART;
        }
        let ready = self.held.len().saturating_sub(PART - 1).max(at.min(self.held.len()));
        self.sha256.update(&self.held[..ready]);
        self.held.drain(..ready);
        self.hashed += ready as u64;
    }

    /// The hash.
    #[must_use]
    pub fn finish(mut self) -> Hash {
        self.sha256.update(&self.held);
        for offset in &self.offsets {
            self.sha256.update(format!("|{offset}").as_bytes());
        }
        Hash::from_sha256(self.sha256.finalize().into())
    }
}

fn find(haystack: &[u8], needle: &[u8; PART]) -> Option<usize> {
    haystack.windows(PART).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn occurrences_are_blanked_wherever_the_pieces_are_cut() {
        let digest = [7; 20];
        let part = nix32::encode(&digest);
        let text = format!("a{part}{part}bc{part}d");
        let mut blank = text.replace(&part, &"\0".repeat(32)).into_bytes();
        blank.extend_from_slice(b"|1|33|67");
        let expected = Hash::sha256_of(&blank);
        for size in 1..text.len() {
            let mut hasher = HashModulo::new(&digest);
            text.as_bytes().chunks(size).for_each(|piece| hasher.update(piece));
            assert_eq!(hasher.finish(), expected, "pieces of {size}");
        }
    }
}
