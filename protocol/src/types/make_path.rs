//! From content to path: the rules of worker-protocol section 7.3.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::{
    ContentAddress, ContentAddressMethod, Hash, HashAlgo, NarHash, StoreDir, StorePath, StorePathError,
    store_path::check_name,
};

/// Why an object of that kind has no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MakePathError {
    /// The name cannot be in a store path.
    #[error(transparent)]
    Name(#[from] StorePathError),
    /// Only texts and objects with a SHA-256 of their NAR may have references.
    #[error("{name:?} of kind {ca} may not have references, but has {count}")]
    References {
        /// The object's name.
        name: String,
        /// Its content address.
        ca: ContentAddress,
        /// How many there are.
        count: usize,
    },
    /// A text is hashed with SHA-256 and never refers to itself.
    #[error("text {name:?} must be hashed with sha256 and not refer to itself")]
    Text {
        /// The object's name.
        name: String,
    },
}

fn make(dir: &StoreDir, kind: &str, inner: &Hash, name: &str) -> Result<StorePath, StorePathError> {
    check_name(name)?;
    let mut sha256 = Sha256::new();
    for part in [
        kind,
        ":",
        inner.algo().name(),
        ":",
        &inner.hex(),
        ":",
        dir.as_str(),
        ":",
        name,
    ] {
        sha256.update(part.as_bytes());
    }
    let mut digest = [0; 20];
    for (i, byte) in sha256.finalize().into_iter().enumerate() {
        digest[i % 20] ^= byte;
    }
    StorePath::new(digest, name)
}

fn kind_with_references(kind: &str, dir: &StoreDir, references: &BTreeSet<StorePath>) -> String {
    let mut text = kind.to_owned();
    for reference in references {
        // Writing to a string cannot fail.
        let _ = write!(text, ":{}", dir.display(reference));
    }
    text
}

/// The path of a text (a `.drv`, what `builtins.toFile` makes) from the SHA-256 of its content.
pub fn make_text_path(
    dir: &StoreDir,
    name: &str,
    content: &Hash,
    references: &BTreeSet<StorePath>,
) -> Result<StorePath, MakePathError> {
    if content.algo() != HashAlgo::Sha256 {
        return Err(MakePathError::Text { name: name.to_owned() });
    }
    Ok(make(
        dir,
        &kind_with_references("text", dir, references),
        content,
        name,
    )?)
}

/// The path of a source or any object addressed by the SHA-256 of its NAR.
///
/// `references` are those to other paths; where `self_reference` is set, `nar` is the hash modulo the
/// own hash part ([`super::HashModulo`]).
pub fn make_source_path(
    dir: &StoreDir,
    name: &str,
    nar: NarHash,
    references: &BTreeSet<StorePath>,
    self_reference: bool,
) -> Result<StorePath, MakePathError> {
    let mut kind = kind_with_references("source", dir, references);
    if self_reference {
        kind.push_str(":self");
    }
    Ok(make(dir, &kind, &nar.into(), name)?)
}

/// The path of an object addressed in any other way: what a fixed-output derivation makes.
pub fn make_fixed_path(dir: &StoreDir, name: &str, ca: &ContentAddress) -> Result<StorePath, MakePathError> {
    let method = match ca.method {
        ContentAddressMethod::Flat => "",
        ContentAddressMethod::Nar if ca.hash.algo() == HashAlgo::Sha256 => {
            let nar = NarHash::try_from(ca.hash).map_err(|_| MakePathError::Text { name: name.to_owned() })?;
            return make_source_path(dir, name, nar, &BTreeSet::new(), false);
        }
        ContentAddressMethod::Nar => "r:",
        ContentAddressMethod::Git => "git:",
        ContentAddressMethod::Text => return make_text_path(dir, name, &ca.hash, &BTreeSet::new()),
    };
    let text = format!("fixed:out:{method}{}:{}:", ca.hash.algo(), ca.hash.hex());
    Ok(make(dir, "output:out", &Hash::sha256_of(text.as_bytes()), name)?)
}

/// The path of any content-addressed object; `references` are those to other paths.
pub fn make_content_addressed_path(
    dir: &StoreDir,
    name: &str,
    ca: &ContentAddress,
    references: &BTreeSet<StorePath>,
    self_reference: bool,
) -> Result<StorePath, MakePathError> {
    match (ca.method, ca.hash.algo()) {
        (ContentAddressMethod::Text, _) if self_reference => Err(MakePathError::Text { name: name.to_owned() }),
        (ContentAddressMethod::Text, _) => make_text_path(dir, name, &ca.hash, references),
        (ContentAddressMethod::Nar, HashAlgo::Sha256) => {
            let nar = NarHash::try_from(ca.hash).map_err(|_| MakePathError::Text { name: name.to_owned() })?;
            make_source_path(dir, name, nar, references, self_reference)
        }
        (ContentAddressMethod::Flat | ContentAddressMethod::Nar | ContentAddressMethod::Git, _) => {
            let count = references.len() + usize::from(self_reference);
            if count > 0 {
                return Err(MakePathError::References {
                    name: name.to_owned(),
                    ca: *ca,
                    count,
                });
            }
            make_fixed_path(dir, name, ca)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAR: &str = "sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw";

    /// What Nix 2.34.8 answered to `AddToStore`.
    #[test]
    fn paths_are_those_nix_makes() {
        let c: StorePath = "31kbxs2bh0fqc353qwrd5rl1fx1sw5dw-c".parse().unwrap();
        let none = BTreeSet::new();
        let with_c = BTreeSet::from([c]);
        let text = |content: &[u8]| format!("text:{}", Hash::sha256_of(content));
        let flat = format!("fixed:{}", Hash::sha256_of(b"hello\n"));
        let nar = format!("fixed:r:{NAR}");
        for (name, ca, references, expected) in [
            ("u", text(b"u"), &none, "7lmww5ks62qvwklysqlsfbn6p4yl2ijr-u"),
            ("x", text(b"hello\n"), &with_c, "5agllkldx4ixn5a77z0aldpn0rsyx3zr-x"),
            ("x", flat, &none, "974pyy65p8annw3kp4ibcknbhz1pndwm-x"),
            ("x", nar.clone(), &none, "m5zd3qj7c4bs4g5d8hqvs5pc5xicclfg-x"),
            ("x2", nar, &with_c, "p3srcycmsvg24pjrcd93zyzak66n3ylp-x2"),
        ] {
            let ca = ca.parse().unwrap();
            let path = make_content_addressed_path(&StoreDir::default(), name, &ca, references, false).unwrap();
            assert_eq!(path.to_string(), expected);
        }
    }

    #[test]
    fn flat_objects_have_no_references() {
        let ca: ContentAddress = format!("fixed:{}", Hash::sha256_of(b"")).parse().unwrap();
        let error = make_content_addressed_path(&StoreDir::default(), "x", &ca, &BTreeSet::new(), true).unwrap_err();
        assert!(error.to_string().contains("may not have references"), "{error}");
    }
}
