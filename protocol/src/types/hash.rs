use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::{Digest, Sha256};

use super::nix32;
use super::store_path::shorten;

const LONGEST: usize = 64;

/// A hash algorithm that Nix knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HashAlgo {
    /// MD5.
    Md5,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-512.
    Sha512,
}

/// A hash and its algorithm. Displayed as `sha256:<base 32>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Hash {
    algo: HashAlgo,
    /// Zero beyond the algorithm's length.
    bytes: [u8; LONGEST],
}

/// The SHA-256 of a NAR. Displayed as 64 hexadecimal digits, the form of the wire.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NarHash(pub [u8; 32]);

/// Why a text is not a hash.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HashError {
    /// Not an algorithm we know.
    #[error("{0:?} is not a hash algorithm: expected md5, sha1, sha256 or sha512")]
    Algo(String),
    /// Neither `algo:` nor `algo-` in front.
    #[error("hash {0:?} does not name its algorithm")]
    NoAlgo(String),
    /// Not hexadecimal, base 32 or base 64 of the right length.
    #[error("{text:?} is not a {algo} hash in hexadecimal, base 32 or base 64")]
    Digits {
        /// The text.
        text: String,
        /// The algorithm.
        algo: HashAlgo,
    },
    /// The hash is of another algorithm than the place allows.
    #[error("expected a sha256 hash, found {0}")]
    NotSha256(HashAlgo),
}

impl HashAlgo {
    /// Bytes in a hash.
    #[must_use]
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Md5 => 16,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Its name on the wire.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Md5 => "md5",
            Self::Sha1 => "sha1",
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }
}

impl Hash {
    /// A SHA-256 computed before.
    #[must_use]
    pub fn from_sha256(digest: [u8; 32]) -> Self {
        let mut bytes = [0; LONGEST];
        bytes[..32].copy_from_slice(&digest);
        Self {
            algo: HashAlgo::Sha256,
            bytes,
        }
    }

    /// The SHA-256 of some bytes.
    #[must_use]
    pub fn sha256_of(data: &[u8]) -> Self {
        Self::from_sha256(Sha256::digest(data).into())
    }

    /// A hash computed before; none when the length is not the algorithm's.
    #[must_use]
    pub fn from_bytes(algo: HashAlgo, digest: &[u8]) -> Option<Self> {
        let mut bytes = [0; LONGEST];
        bytes
            .get_mut(..algo.digest_len())
            .filter(|to| to.len() == digest.len())?
            .copy_from_slice(digest);
        Some(Self { algo, bytes })
    }

    /// The algorithm.
    #[must_use]
    pub fn algo(&self) -> HashAlgo {
        self.algo
    }

    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algo.digest_len()]
    }

    /// Reads digits in whichever encoding their number says.
    pub fn parse_digits(algo: HashAlgo, text: &str) -> Result<Self, HashError> {
        let len = algo.digest_len();
        let mut bytes = [0; LONGEST];
        let decoded = if text.len() == len * 2 {
            HEXLOWER_PERMISSIVE
                .decode_mut(text.as_bytes(), &mut bytes[..len])
                .is_ok()
        } else if text.len() == nix32::encoded_len(len) {
            nix32::decode_into(text.as_bytes(), &mut bytes[..len]).is_ok()
        } else {
            match BASE64.decode(text.as_bytes()) {
                Ok(digest) if digest.len() == len => {
                    bytes[..len].copy_from_slice(&digest);
                    true
                }
                Ok(_) | Err(_) => false,
            }
        };
        if decoded {
            Ok(Self { algo, bytes })
        } else {
            Err(HashError::Digits {
                text: shorten(text),
                algo,
            })
        }
    }

    /// The digits in hexadecimal, without the algorithm.
    #[must_use]
    pub fn hex(&self) -> String {
        HEXLOWER.encode(self.as_bytes())
    }

    /// The digits in base 32, without the algorithm.
    #[must_use]
    pub fn base32(&self) -> String {
        nix32::encode(self.as_bytes())
    }

    /// `sha256-<base 64>`.
    #[must_use]
    pub fn sri(&self) -> String {
        format!("{}-{}", self.algo, BASE64.encode(self.as_bytes()))
    }
}

impl NarHash {
    /// The hash of a NAR in memory.
    #[must_use]
    pub fn of(nar: &[u8]) -> Self {
        Self(Sha256::digest(nar).into())
    }
}

impl From<NarHash> for Hash {
    fn from(hash: NarHash) -> Self {
        Self::from_sha256(hash.0)
    }
}

impl TryFrom<Hash> for NarHash {
    type Error = HashError;

    fn try_from(hash: Hash) -> Result<Self, Self::Error> {
        match <[u8; 32]>::try_from(hash.as_bytes()) {
            Ok(bytes) => Ok(Self(bytes)),
            Err(_) => Err(HashError::NotSha256(hash.algo)),
        }
    }
}

impl FromStr for HashAlgo {
    type Err = HashError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "md5" => Ok(Self::Md5),
            "sha1" => Ok(Self::Sha1),
            "sha256" => Ok(Self::Sha256),
            "sha512" => Ok(Self::Sha512),
            _ => Err(HashError::Algo(shorten(text))),
        }
    }
}

impl FromStr for Hash {
    type Err = HashError;

    /// Reads `algo:<digits>` or `algo-<base 64>`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (algo, digits) = text
            .split_once([':', '-'])
            .ok_or_else(|| HashError::NoAlgo(shorten(text)))?;
        Self::parse_digits(algo.parse()?, digits)
    }
}

impl FromStr for NarHash {
    type Err = HashError;

    /// Reads bare digits, `sha256:<digits>` and `sha256-<base 64>`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hash = if text.starts_with("sha256:") || text.starts_with("sha256-") {
            text.parse()?
        } else {
            Hash::parse_digits(HashAlgo::Sha256, text)?
        };
        Self::try_from(hash)
    }
}

impl fmt::Display for HashAlgo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algo, self.base32())
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for NarHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_the_same_hash() {
        let hash = Hash::sha256_of(b"hello\n");
        for text in [hash.to_string(), hash.sri(), format!("sha256:{}", hash.hex())] {
            assert_eq!(text.parse::<Hash>().unwrap(), hash, "{text}");
            assert_eq!(text.parse::<NarHash>().unwrap(), NarHash::of(b"hello\n"), "{text}");
        }
        assert_eq!(hash.hex().parse::<NarHash>().unwrap(), NarHash::of(b"hello\n"));
        assert_eq!(hash.base32().parse::<NarHash>().unwrap(), NarHash::of(b"hello\n"));
    }

    #[test]
    fn bad_hashes_are_named() {
        for (text, part) in [
            ("sha256", "does not name its algorithm"),
            ("crc:00", "\"crc\" is not a hash algorithm"),
            ("sha256:zz", "\"zz\" is not a sha256 hash"),
        ] {
            let error = text.parse::<Hash>().unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
