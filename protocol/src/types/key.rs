use std::fmt;
use std::str::FromStr;

use data_encoding::BASE64;
use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};

use super::Signature;
use super::signature::check_key_name;
use super::store_path::shorten;

/// A key that signatures are checked with: `<name>:<base 64 of 32 bytes>`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: Box<str>,
    key: VerifyingKey,
}

/// A key that signs: `<name>:<base 64 of seed and public key>`. Never shown by `Debug`, wiped when dropped.
#[derive(Clone)]
pub struct SecretKey {
    name: Box<str>,
    key: SigningKey,
}

/// Why a text is not a key. The text itself is told only of public keys.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not the form of a public key.
    #[error("{0:?} is not a public key: expected a name, a colon and 32 bytes in base 64")]
    Public(String),
    /// The bytes are no key of this kind.
    #[error("the bytes of public key {0:?} are not an Ed25519 key")]
    NotAPoint(String),
    /// Not the form of a secret key.
    #[error(
        "it is not a secret key: expected a name, a colon and 64 bytes in base 64, as `nix key generate-secret` prints"
    )]
    Secret,
    /// A public key where a secret one should be.
    #[error("it is the public key {0:?}; the secret key it belongs to is needed")]
    OnlyPublic(String),
    /// The two halves of a secret key do not belong together.
    #[error("the halves of secret key {0:?} do not belong together")]
    Torn(String),
}

impl PublicKey {
    /// The name, by which signatures refer to it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether a signature of this key's name covers `message`.
    #[must_use]
    pub fn verifies(&self, message: &[u8], signature: &Signature) -> bool {
        let bytes = ed25519_dalek::Signature::from_bytes(signature.as_bytes());
        *self.name == *signature.name() && self.key.verify_strict(message, &bytes).is_ok()
    }
}

impl SecretKey {
    /// A key made from 32 random bytes.
    pub fn from_seed(name: &str, seed: &[u8; 32]) -> Result<Self, KeyError> {
        if !check_key_name(name) {
            return Err(KeyError::Secret);
        }
        Ok(Self {
            name: name.into(),
            key: SigningKey::from_bytes(seed),
        })
    }

    /// The name, which its signatures bear.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The key that its signatures are checked with.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey {
            name: self.name.clone(),
            key: self.key.verifying_key(),
        }
    }

    /// Signs a message.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature::from_parts(self.name.clone(), self.key.sign(message).to_bytes())
    }

    /// The text form, for the file it is kept in.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{}:{}", self.name, BASE64.encode(&self.key.to_keypair_bytes()))
    }
}

/// Name and bytes of a key.
fn parts(text: &str) -> Option<(&str, Vec<u8>)> {
    let (name, digits) = text.split_once(':')?;
    let bytes = BASE64.decode(digits.as_bytes()).ok()?;
    check_key_name(name).then_some((name, bytes))
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || KeyError::Public(shorten(text));
        let (name, bytes) = parts(text).ok_or_else(|| match text.split_once(':') {
            // What looks like a secret key is not repeated.
            Some((name, digits)) if digits.len() > 64 => KeyError::Public(format!("{}:…", shorten(name))),
            Some(_) | None => bad(),
        })?;
        let bytes: [u8; 32] = match <[u8; 32]>::try_from(bytes) {
            Ok(bytes) => bytes,
            Err(bytes) if bytes.len() > 32 => return Err(KeyError::Public(format!("{}:…", shorten(name)))),
            Err(_) => return Err(bad()),
        };
        match VerifyingKey::from_bytes(&bytes) {
            Ok(key) if !key.is_weak() => Ok(Self { name: name.into(), key }),
            Ok(_) | Err(_) => Err(KeyError::NotAPoint(shorten(name))),
        }
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, bytes) = parts(text).ok_or(KeyError::Secret)?;
        let bytes: [u8; 64] = match <[u8; 64]>::try_from(bytes) {
            Ok(bytes) => bytes,
            Err(bytes) if bytes.len() == 32 => return Err(KeyError::OnlyPublic(shorten(name))),
            Err(_) => return Err(KeyError::Secret),
        };
        match SigningKey::from_keypair_bytes(&bytes) {
            Ok(key) => Ok(Self { name: name.into(), key }),
            Err(_) => Err(KeyError::Torn(shorten(name))),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, BASE64.encode(self.key.as_bytes()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey({}:redacted)", self.name)
    }
}
