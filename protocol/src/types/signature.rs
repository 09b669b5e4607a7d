use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;

use super::store_path::shorten;

/// An Ed25519 signature and the name of its key: `<name>:<base 64 of 64 bytes>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Signature {
    name: Box<str>,
    bytes: [u8; 64],
}

/// The text is not a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signature: expected a key name, a colon and 64 bytes in base 64")]
pub struct SignatureError(String);

impl Signature {
    /// Puts a signature together; the name must be neither empty nor contain a colon, white space or control characters.
    pub fn new(name: &str, bytes: [u8; 64]) -> Result<Self, SignatureError> {
        if !check_key_name(name) {
            return Err(SignatureError(shorten(name)));
        }
        Ok(Self::from_parts(name.into(), bytes))
    }

    pub(super) fn from_parts(name: Box<str>, bytes: [u8; 64]) -> Self {
        Self { name, bytes }
    }

    /// The name of the key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The signature itself.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 64] {
        &self.bytes
    }

    /// The signature itself in base 64.
    #[must_use]
    pub fn base64(&self) -> String {
        BASE64.encode(&self.bytes)
    }
}

/// Whether a key may have this name. In a narinfo it is part of a line.
pub(super) fn check_key_name(name: &str) -> bool {
    let is_foreign = |c: char| c == ':' || c.is_whitespace() || c.is_control();
    !name.is_empty() && !name.contains(is_foreign)
}

impl FromStr for Signature {
    type Err = SignatureError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || SignatureError(shorten(text));
        let (name, digits) = text.split_once(':').ok_or_else(bad)?;
        let bytes = BASE64.decode(digits.as_bytes()).map_err(|_| bad())?;
        Self::new(name, bytes.try_into().map_err(|_| bad())?).map_err(|_| bad())
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, self.base64())
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
