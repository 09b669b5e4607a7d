//! Tokens: known by their SHA-256, compared in constant time.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use nixci_protocol::nixci::control::Millis;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use super::{Principal, Refused};
use crate::config::{HashFrom, Token};

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

    pub(super) fn of_any(token: &[u8]) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl TokenHash {
    /// Its bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 32] {
        &self.0
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

/// Random bytes of the system.
#[cfg(target_os = "linux")]
fn fill(bytes: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < bytes.len() {
        filled += rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(())
}

/// Random bytes of the system.
#[cfg(not(target_os = "linux"))]
fn fill(bytes: &mut [u8]) -> io::Result<()> {
    io::Read::read_exact(&mut std::fs::File::open("/dev/urandom")?, bytes)
}

/// Makes a token. It is shown once, to whom it is for.
pub fn new_token() -> Result<String, TokenError> {
    let mut bytes = [0; TOKEN_BYTES];
    fill(&mut bytes).map_err(TokenError::Random)?;
    Ok(format!("nixci_{}", BASE64URL_NOPAD.encode(&bytes)))
}

#[derive(Debug)]
struct Known {
    hash: TokenHash,
    expires: Option<Millis>,
    holder: Principal,
}

/// The tokens of the configuration.
#[derive(Debug, Default)]
pub(crate) struct Tokens {
    known: Vec<Known>,
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
            Ok(Known {
                hash,
                expires: token.expires,
                holder: Principal::token(&token.name, token.rights.clone(), token.projects.clone()),
            })
        });
        Ok(Self {
            known: known.collect::<Result<_, TokenError>>()?,
        })
    }

    /// Who has the token of this hash. All are compared, whichever fits.
    pub(super) fn of_hash(&self, asked: TokenHash, now: Millis) -> Result<Principal, Refused> {
        let mut found = u32::MAX;
        for (known, nth) in self.known.iter().zip(0_u32..) {
            let fits: Choice = known.hash.0.ct_eq(&asked.0);
            found.conditional_assign(&nth, fits);
        }
        let known = self.known.get(found as usize).ok_or(Refused::Unknown)?;
        if known.expires.is_some_and(|at| at <= now) {
            return Err(Refused::Expired);
        }
        Ok(known.holder.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Projects, Right};

    fn token(name: &str, text: &str, rights: Vec<Right>) -> Token {
        Token {
            name: name.to_owned(),
            hash: HashFrom::Here(TokenHash::of(text).unwrap()),
            rights,
            projects: Projects::All,
            expires: None,
        }
    }

    impl Tokens {
        fn holder(&self, token: &[u8], now: Millis) -> Result<Principal, Refused> {
            self.of_hash(TokenHash::of_any(token), now)
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
        let holder = tokens.holder(made.as_bytes(), 0).unwrap();
        assert_eq!(
            (holder.name(), holder.is_trusted(), holder.is_local()),
            ("token:cache", false, false)
        );
        assert!(holder.has(Right::Read) && !holder.has(Right::Submit));
        for wrong in ["", &made[1..]] {
            assert_eq!(tokens.holder(wrong.as_bytes(), 0), Err(Refused::Unknown), "{wrong:?}");
        }
        assert!(!tokens.holder(b"a token without any right", 0).unwrap().has(Right::Read));
        assert_eq!(Tokens::default().holder(b"", 0), Err(Refused::Unknown));
    }

    #[test]
    fn a_token_ends_when_it_expires() {
        let mut ends = token("ends", "a token that ends at some time", vec![Right::Read]);
        ends.expires = Some(1_000);
        let tokens = Tokens::load(&[ends]).unwrap();
        let at = |now| tokens.holder(b"a token that ends at some time", now);
        assert!(at(999).is_ok());
        assert_eq!(at(1_000), Err(Refused::Expired));
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
            projects: Projects::All,
            expires: None,
        };
        let missing = Tokens::load(std::slice::from_ref(&from_file)).unwrap_err().to_string();
        assert!(missing.contains("token `f`") && missing.contains("hash"), "{missing}");
        std::fs::write(&file, text).unwrap();
        let not_a_hash = Tokens::load(std::slice::from_ref(&from_file)).unwrap_err().to_string();
        assert!(not_a_hash.contains("64 hexadecimal digits"), "{not_a_hash}");
        assert!(!not_a_hash.contains(text), "the token itself is not told: {not_a_hash}");
        std::fs::write(&file, format!("{}\n", TokenHash::of(text).unwrap())).unwrap();
        let tokens = Tokens::load(&[from_file]).unwrap();
        assert!(tokens.holder(text.as_bytes(), 0).is_ok());
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
