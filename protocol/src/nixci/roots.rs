use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use sha2::{Digest as _, Sha256};

use crate::types::{StoreDir, StorePath};
use crate::wire::Negotiated;

/// What keeps these digests apart from others, and their versions from each other.
const DOMAIN: &[u8] = b"nixci-roots-1\0";
/// What the feature that asks for a set begins with.
const FEATURE: &str = "nixci-roots-1:";

/// The name of a set of paths: the SHA-256 of `nixci-roots-1`, the store directory, both ended by a zero byte, and the
/// sorted 20-byte digests of the paths, each once. Displayed as 64 hexadecimal digits.
///
/// A client that lists [`Self::feature`] in its handshake asks whether a daemon knows this set and has all of it; one
/// that does lists it too.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct RootsDigest([u8; 32]);

/// The text is not 64 lowercase hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a digest of roots has 64 lowercase hexadecimal digits")]
pub struct NotARootsDigest;

impl RootsDigest {
    /// That of some paths, in any order, repeated or not.
    #[must_use]
    pub fn of<'a>(store_dir: &StoreDir, paths: impl IntoIterator<Item = &'a StorePath>) -> Self {
        let mut members: Vec<[u8; 20]> = paths.into_iter().map(|path| *path.digest()).collect();
        Self::of_members(store_dir, &mut members)
    }

    /// That of paths with these digests, which are left sorted, each once.
    #[must_use]
    pub fn of_members(store_dir: &StoreDir, members: &mut Vec<[u8; 20]>) -> Self {
        members.sort_unstable();
        members.dedup();
        let mut hash = Sha256::new();
        hash.update(DOMAIN);
        hash.update(store_dir.as_str());
        hash.update(b"\0");
        hash.update(members.as_flattened());
        Self(hash.finalize().into())
    }

    /// Its 32 bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The feature by which a client asks for the set and a daemon says that it is there.
    #[must_use]
    pub fn feature(&self) -> String {
        format!("{FEATURE}{self}")
    }

    /// The set that a feature asks for; none when it is another feature, or a malformed one.
    #[must_use]
    pub fn from_feature(feature: &str) -> Option<Self> {
        feature.strip_prefix(FEATURE)?.parse().ok()
    }

    /// Whether the daemon at the other end said in the handshake that it has the whole set.
    #[must_use]
    pub fn is_known(&self, on: &Negotiated) -> bool {
        on.has(&self.feature())
    }
}

impl FromStr for RootsDigest {
    type Err = NotARootsDigest;

    fn from_str(text: &str) -> Result<Self, NotARootsDigest> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| NotARootsDigest)?;
        bytes.try_into().map(Self).map_err(|_| NotARootsDigest)
    }
}

impl fmt::Display for RootsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RootsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootsDigest({self})")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn digest(members: &[[u8; 20]]) -> RootsDigest {
        RootsDigest::of_members(&StoreDir::default(), &mut members.to_vec())
    }

    proptest! {
        #[test]
        fn order_and_repetition_do_not_matter(
            (mut members, shuffled) in proptest::collection::vec(any::<[u8; 20]>(), 1..20)
                .prop_flat_map(|members| (Just(members.clone()), Just(members).prop_shuffle())),
            again: prop::sample::Index,
        ) {
            let found = digest(&members);
            prop_assert_eq!(digest(&shuffled), found);
            members.push(members[again.index(members.len())]);
            prop_assert_eq!(digest(&members), found);
        }

        #[test]
        fn every_change_matters(
            members in proptest::collection::btree_set(any::<[u8; 20]>(), 1..20),
            at: prop::sample::Index, byte in 0_usize..20, other in 1_u8..,
        ) {
            let members = Vec::from_iter(members);
            let found = digest(&members);
            let at = at.index(members.len());
            let mut fewer = members.clone();
            let mut changed = fewer.remove(at);
            prop_assert_ne!(digest(&fewer), found);
            changed[byte] ^= other;
            let changed = [&fewer[..], &[changed]].concat();
            // Unless the change makes it another member.
            if !members.contains(&changed[changed.len() - 1]) {
                prop_assert_ne!(digest(&changed), found);
                prop_assert_ne!(digest(&[&members[..], &changed[changed.len() - 1..]].concat()), found);
            }
            let elsewhere = StoreDir::new("/other/store").unwrap();
            prop_assert_ne!(RootsDigest::of_members(&elsewhere, &mut members.clone()), found);
        }
    }

    #[test]
    fn only_its_own_text_is_a_digest() {
        let found = digest(&[[1; 20]]);
        let text = found.feature();
        assert_eq!(RootsDigest::from_feature(&text), Some(found));
        for text in [
            &text[..text.len() - 1],
            &format!("{text}0"),
            &text.to_uppercase(),
            &text.replace("roots-1", "roots-2"),
            "nixci-roots-1:",
            "",
        ] {
            assert_eq!(RootsDigest::from_feature(text), None, "{text}");
        }
    }
}
