/// Damage that is the same every time: changes to bytes as a fuzzer would try them.
#[derive(Debug, Clone)]
pub struct Damage(u64);

/// Numbers at which something usually changes.
const EDGES: [u64; 12] = [
    0,
    1,
    2,
    7,
    8,
    255,
    65_536,
    u32::MAX as u64,
    1 << 32,
    i64::MAX as u64,
    u64::MAX - 7,
    u64::MAX,
];

impl Damage {
    /// Begins with a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below a bound; 0 where there is none.
    pub fn below(&mut self, bound: usize) -> usize {
        let bound = bound as u64;
        self.number().checked_rem(bound).unwrap_or(0) as usize
    }

    /// Random bytes.
    pub fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.number() as u8).collect()
    }

    /// A damaged copy: one to four changes.
    #[must_use]
    pub fn of(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut damaged = bytes.to_vec();
        for _ in 0..=self.below(4) {
            self.change(&mut damaged);
        }
        damaged
    }

    fn change(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        let word = self.below(bytes.len() / 8) * 8;
        let to = at + self.below((bytes.len() - at).min(64));
        match self.below(8) {
            0 if !bytes.is_empty() => bytes[at] ^= 1 << self.below(8),
            1 if !bytes.is_empty() => bytes[at] = self.number() as u8,
            2 if bytes.len() >= 8 => {
                let edge = EDGES[self.below(EDGES.len())];
                bytes[word..word + 8].copy_from_slice(&edge.to_le_bytes());
            }
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..to)),
            5 => {
                let piece = bytes[at..to].to_vec();
                bytes.splice(at..at, piece);
            }
            6 if bytes.len() >= 16 => {
                // Two words change places.
                let other = self.below(bytes.len() / 8) * 8;
                for byte in 0..8 {
                    bytes.swap(word + byte, other + byte);
                }
            }
            _ => {
                let length = self.below(24);
                let more = self.bytes(length);
                bytes.splice(at..at, more);
            }
        }
    }
}
