use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use super::nix32::{self, Nix32Error};

/// Longest name after the dash, in bytes.
const MAX_NAME: usize = 211;
const HASH_CHARACTERS: usize = 32;

/// A path in a store directory, without the directory: twenty bytes of digest and a name.
///
/// Ordered as the text of its base name is; cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub struct StorePath {
    digest: [u8; 20],
    name: Name,
}

/// Names of up to so many bytes, which are most of them, are kept in place: 64 bytes for a path and no allocation.
const SHORT: usize = 38;

/// A name that was checked.
#[derive(Clone, PartialEq, Eq)]
enum Name {
    /// With zeros behind it.
    Short {
        length: u8,
        bytes: [u8; SHORT],
    },
    Long(Arc<str>),
}

impl Name {
    fn new(name: &str) -> Result<Self, StorePathError> {
        check_name(name)?;
        let mut bytes = [0; SHORT];
        let Some(place) = bytes.get_mut(..name.len()) else {
            return Ok(Self::Long(name.into()));
        };
        place.copy_from_slice(name.as_bytes());
        Ok(Self::Short {
            length: name.len() as u8,
            bytes,
        })
    }

    fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { length, bytes } => bytes.get(..usize::from(*length)).unwrap_or_default(),
            Self::Long(name) => name.as_bytes(),
        }
    }

    fn as_str(&self) -> &str {
        match self {
            // It was text when it was copied.
            Self::Short { .. } => std::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Self::Long(name) => name,
        }
    }
}

/// Why a text is not the base name of a store path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StorePathError {
    /// There is no dash after 32 characters.
    #[error("{0:?} is not a store path name: expected 32 base 32 characters, a dash and a name")]
    Shape(String),
    /// The hash part is not base 32.
    #[error("{text:?} is not a store path name: {error}")]
    Digest {
        /// The text.
        text: String,
        /// What is wrong with its hash part.
        error: Nix32Error,
    },
    /// The name is empty, too long, begins with a forbidden dot or has a forbidden character.
    #[error("{0:?} is not a name: 1 to 211 of 0-9 a-z A-Z + . _ ? = -, not `.`, `..`, `.-…` or `..-…`")]
    Name(String),
}

impl StorePath {
    /// Puts a path together.
    pub fn new(digest: [u8; 20], name: &str) -> Result<Self, StorePathError> {
        Ok(Self {
            digest,
            name: Name::new(name)?,
        })
    }

    /// Reads `<32 base 32 characters>-<name>`.
    pub fn from_base_name(text: &str) -> Result<Self, StorePathError> {
        let bytes = text.as_bytes();
        if bytes.len() <= HASH_CHARACTERS + 1 || bytes[HASH_CHARACTERS] != b'-' {
            return Err(StorePathError::Shape(shorten(text)));
        }
        let digest = nix32::decode(&bytes[..HASH_CHARACTERS]).map_err(|error| StorePathError::Digest {
            text: shorten(text),
            error,
        })?;
        Self::new(digest, &text[HASH_CHARACTERS + 1..])
    }

    /// `<32 base 32 characters>-<name>`.
    #[must_use]
    pub fn base_name(&self) -> String {
        self.to_string()
    }

    /// The 32 characters before the dash.
    #[must_use]
    pub fn hash_part(&self) -> String {
        nix32::encode(&self.digest)
    }

    /// The bytes the hash part stands for.
    #[must_use]
    pub fn digest(&self) -> &[u8; 20] {
        &self.digest
    }

    /// What follows the dash.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    /// The 32 characters before the dash, and the name behind it.
    pub(crate) fn parts(&self) -> ([u8; HASH_CHARACTERS], &[u8]) {
        (nix32::encode_digest(&self.digest), self.name.as_bytes())
    }

    /// The digest as numbers that are ordered as its characters are: base 32 begins with the highest bits of the last
    /// byte, and its alphabet is in ASCII order.
    fn rank(&self) -> (u32, u128) {
        let (low, high) = self.digest.split_at(4);
        let high = high.first_chunk().map_or(0, |bytes| u128::from_le_bytes(*bytes));
        (low.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes)), high)
    }

    /// Whether the name ends in `.drv`.
    #[must_use]
    pub fn is_derivation(&self) -> bool {
        let name = self.name.as_bytes();
        name.len() > 4 && name.ends_with(b".drv")
    }
}

/// Which bytes may be in a name.
const ALLOWED: [bool; 256] = {
    let mut allowed = [false; 256];
    let mut byte = 0;
    while byte < 128_u8 {
        allowed[byte as usize] =
            byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'.' | b'_' | b'?' | b'=' | b'-');
        byte += 1;
    }
    allowed
};

/// Whether `name` may follow the dash of a store path, or be the name of an output.
pub fn check_name(name: &str) -> Result<(), StorePathError> {
    let dots = name == "." || name == ".." || name.starts_with(".-") || name.starts_with("..-");
    let allowed = name.bytes().all(|byte| ALLOWED[usize::from(byte)]);
    if name.is_empty() || name.len() > MAX_NAME || dots || !allowed {
        return Err(StorePathError::Name(shorten(name)));
    }
    Ok(())
}

/// At most 100 characters of what a peer sent, for an error text.
pub(super) fn shorten(text: &str) -> String {
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

impl Ord for StorePath {
    fn cmp(&self, other: &Self) -> Ordering {
        let ((low, high), (other_low, other_high)) = (self.rank(), other.rank());
        let digits = high.cmp(&other_high).then(low.cmp(&other_low));
        digits.then_with(|| self.name.as_bytes().cmp(other.name.as_bytes()))
    }
}

impl PartialOrd for StorePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The name counts too: many names with one digest are easily made.
impl Hash for StorePath {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(&self.digest);
        state.write(self.name.as_bytes());
    }
}

impl fmt::Display for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (hash, _) = self.parts();
        f.write_str(std::str::from_utf8(&hash).unwrap_or_default())?;
        f.write_str("-")?;
        f.write_str(self.name())
    }
}

impl fmt::Debug for StorePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for StorePath {
    type Err = StorePathError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::from_base_name(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_follow_the_rules_of_nix() {
        for good in ["a", ".a", "...", "a-b_c+d?e=f.g", &"x".repeat(211)] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".-a", "..-a", "a/b", "ä", "a b", &"x".repeat(212)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn long_names_are_kept_whole() {
        for length in [SHORT - 1, SHORT, SHORT + 1, MAX_NAME] {
            let name = "x".repeat(length);
            let path = StorePath::new([7; 20], &name).unwrap();
            assert_eq!(path.name(), name);
            assert_eq!(path, path.base_name().parse().unwrap());
        }
        assert_eq!(size_of::<StorePath>(), 64);
    }

    proptest! {
        #[test]
        fn order_is_the_order_of_the_text(a: [u8; 20], b: [u8; 20], m in "[a-z.-]{0,3}", n in "[a-z.-]{0,3}") {
            let a = StorePath::new(a, &format!("x{m}")).unwrap();
            let b = StorePath::new(b, &format!("x{n}")).unwrap();
            prop_assert_eq!(a.cmp(&b), a.base_name().cmp(&b.base_name()));
            prop_assert_eq!(StorePath::from_base_name(&a.base_name()).unwrap(), a);
        }
    }
}
