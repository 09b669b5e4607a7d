use std::fmt;
use std::str::FromStr;

use super::store_path::shorten;
use super::{Hash, HashAlgo, HashError};

/// How the content of an object is put in order before it is hashed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ContentAddressMethod {
    /// A text with references: `text:`.
    Text,
    /// The bytes of one file: `fixed:`.
    Flat,
    /// The NAR: `fixed:r:`.
    Nar,
    /// The tree as Git would store it: `fixed:git:`.
    Git,
}

/// A method and the algorithm, as `AddToStore` names them: `fixed:r:sha256`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AddMethod {
    /// What is hashed.
    pub method: ContentAddressMethod,
    /// How.
    pub algo: HashAlgo,
}

/// What an object's path was made from: `fixed:r:sha256:<base 32>`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContentAddress {
    /// What was hashed.
    pub method: ContentAddressMethod,
    /// The hash.
    pub hash: Hash,
}

/// Why a text is not a content address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ContentAddressError {
    /// Neither `text:` nor `fixed:` in front.
    #[error("{0:?} is not a content address: expected text: or fixed:")]
    Prefix(String),
    /// What follows the method is no hash or algorithm.
    #[error("{text:?} is not a content address: {error}")]
    Hash {
        /// The text.
        text: String,
        /// What is wrong with it.
        error: HashError,
    },
}

impl ContentAddressMethod {
    /// The text in front of the algorithm.
    #[must_use]
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Text => "text:",
            Self::Flat => "fixed:",
            Self::Nar => "fixed:r:",
            Self::Git => "fixed:git:",
        }
    }

    fn strip(text: &str) -> Result<(Self, &str), ContentAddressError> {
        // The longer prefixes first: `fixed:` begins all but one of them.
        [Self::Text, Self::Nar, Self::Git, Self::Flat]
            .into_iter()
            .find_map(|method| Some((method, text.strip_prefix(method.prefix())?)))
            .ok_or_else(|| ContentAddressError::Prefix(shorten(text)))
    }
}

impl FromStr for AddMethod {
    type Err = ContentAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (method, algo) = ContentAddressMethod::strip(text)?;
        let algo = algo.parse().map_err(|error| ContentAddressError::Hash {
            text: shorten(text),
            error,
        })?;
        Ok(Self { method, algo })
    }
}

impl FromStr for ContentAddress {
    type Err = ContentAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (method, hash) = ContentAddressMethod::strip(text)?;
        let hash = hash.parse().map_err(|error| ContentAddressError::Hash {
            text: shorten(text),
            error,
        })?;
        Ok(Self { method, hash })
    }
}

impl fmt::Display for AddMethod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.method.prefix(), self.algo)
    }
}

impl fmt::Display for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.method.prefix(), self.hash)
    }
}

impl fmt::Debug for ContentAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
