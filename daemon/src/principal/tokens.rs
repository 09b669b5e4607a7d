//! Tokens: known by their SHA-256, compared in constant time.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::Principal;
use crate::config::{HashFrom, Right, Token};

/// Random bytes in a token that we make.
const TOKEN_BYTES: usize = 32;
/// Shorter tokens can be guessed, and their hash turned back.
const SHORTEST: usize = 20;

/// The SHA-256 of a token. A token is long and random, so nothing slower is needed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenHash([u8; 32]);

/// Why a token, or the hash of one, is not taken.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// Not a hash.
    #[error("a hash of a token has 64 hexadecimal digits; `nixci-daemon hash-token` prints it")]
    NotAHash,
    /// Too short.
    #[error(
        "a token needs at least {SHORTEST} characters, or it can be guessed; `nixci-daemon hash-token --new` makes one"
    )]
    TooShort,
    /// The file with the hash cannot be read.
    #[error("failed to read the hash of token `{name}` from {path}: {source}", path = .path.display())]
    File {
        /// The token's name.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{path} of token `{name}`: {source}", path = .path.display())]
    Content {
        /// The token's name.
        name: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<TokenError>,
    },
    /// The system gave no random bytes.
    #[error("failed to get random bytes: {0}")]
    Random(#[source] io::Error),
}

impl TokenHash {
    /// The hash of a token that somebody chose.
    pub fn of(token: &str) -> Result<Self, TokenError> {
        if token.chars().count() < SHORTEST {
            return Err(TokenError::TooShort);
        }
        Ok(Self::of_any(token.as_bytes()))
    }

    fn of_any(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenHash(…)")
    }
}

impl FromStr for TokenHash {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .map(Self)
            .ok_or(TokenError::NotAHash)
    }
}

/// Makes a token. It is shown once, to whom it is for.
pub fn new_token() -> Result<String, TokenError> {
    let mut bytes = [0; TOKEN_BYTES];
    let mut filled = 0;
    while filled < bytes.len() {
        let got = rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty());
        filled += got.map_err(|error| TokenError::Random(error.into()))?;
    }
    Ok(format!("nixci_{}", BASE64URL_NOPAD.encode(&bytes)))
}

/// The tokens that are taken.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Vec<(TokenHash, Principal)>,
}

impl Tokens {
    /// Reads the hashes that are in files.
    pub(crate) fn load(tokens: &[Token]) -> Result<Self, TokenError> {
        let known = tokens.iter().map(|token| {
            let hash = match &token.hash {
                HashFrom::Here(hash) => *hash,
                HashFrom::File(path) => {
                    let (name, path) = (|| token.name.clone(), || path.clone());
                    let text = std::fs::read_to_string(path()).map_err(|source| TokenError::File {
                        name: name(),
                        path: path(),
                        source,
                    })?;
                    text.trim().parse().map_err(|source| TokenError::Content {
                        name: name(),
                        path: path(),
                        source: Box::new(source),
                    })?
                }
            };
            Ok((hash, Principal::token(&token.name, token.rights.clone())))
        });
        Ok(Self {
            known: known.collect::<Result<_, TokenError>>()?,
        })
    }

    /// Whose token this is. All are compared, whichever fits.
    fn holder(&self, token: &[u8]) -> Option<&Principal> {
        let asked = TokenHash::of_any(token);
        let mut found = u32::MAX;
        for ((hash, _), nth) in self.known.iter().zip(0_u32..) {
            let fits: Choice = hash.0.ct_eq(&asked.0);
            found.conditional_assign(&nth, fits);
        }
        self.known.get(found as usize).map(|(_, holder)| holder)
    }

    /// The holder of a token that gives `right`.
    pub(crate) fn may(&self, token: &[u8], right: Right) -> Result<&Principal, Refused> {
        match self.holder(token) {
            None => Err(Refused::Unknown),
            Some(holder) if holder.has(right) => Ok(holder),
            Some(_) => Err(Refused::NotEnough),
        }
    }
}

/// Why a token does not help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Nobody has it.
    Unknown,
    /// It is good for other things.
    NotEnough,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(name: &str, text: &str, rights: Vec<Right>) -> Token {
        Token {
            name: name.to_owned(),
            hash: HashFrom::Here(TokenHash::of(text).unwrap()),
            rights,
        }
    }

    #[test]
    fn a_token_is_known_by_its_hash_and_gives_its_rights() {
        let made = new_token().unwrap();
        assert_ne!(made, new_token().unwrap());
        let tokens = Tokens::load(&[
            token("other", "another token that is long", vec![Right::Read]),
            token("cache", &made, vec![Right::Read]),
            token("idle", "a token without any right", vec![]),
        ])
        .unwrap();
        let holder = tokens.may(made.as_bytes(), Right::Read).unwrap();
        assert_eq!(
            (holder.name(), holder.is_trusted(), holder.is_local()),
            ("token:cache", false, false)
        );
        for (wrong, why) in [
            ("", Refused::Unknown),
            (&made[1..], Refused::Unknown),
            ("a token without any right", Refused::NotEnough),
        ] {
            assert_eq!(tokens.may(wrong.as_bytes(), Right::Read), Err(why), "{wrong:?}");
        }
        assert_eq!(Tokens::default().may(b"", Right::Read), Err(Refused::Unknown));
    }

    #[test]
    fn a_hash_may_be_in_a_file() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("hash");
        let text = "twenty characters or more";
        let from_file = Token {
            name: "f".to_owned(),
            hash: HashFrom::File(file.clone()),
            rights: vec![Right::Read],
        };
        let missing = Tokens::load(std::slice::from_ref(&from_file)).unwrap_err().to_string();
        assert!(missing.contains("token `f`") && missing.contains("hash"), "{missing}");
        std::fs::write(&file, text).unwrap();
        let not_a_hash = Tokens::load(std::slice::from_ref(&from_file)).unwrap_err().to_string();
        assert!(not_a_hash.contains("64 hexadecimal digits"), "{not_a_hash}");
        assert!(!not_a_hash.contains(text), "the token itself is not told: {not_a_hash}");
        std::fs::write(&file, format!("{}\n", TokenHash::of(text).unwrap())).unwrap();
        let tokens = Tokens::load(&[from_file]).unwrap();
        assert!(tokens.may(text.as_bytes(), Right::Read).is_ok());
    }

    #[test]
    fn short_tokens_are_refused() {
        assert!(TokenHash::of("nineteen characters").is_err());
        assert!(TokenHash::of("twenty characters 20").is_ok());
        assert_eq!(
            TokenHash::of("twenty characters 20")
                .unwrap()
                .to_string()
                .parse::<TokenHash>()
                .unwrap(),
            TokenHash::of("twenty characters 20").unwrap()
        );
    }
}
