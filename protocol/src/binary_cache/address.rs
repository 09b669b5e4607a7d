//! The addresses of a binary cache.

use crate::types::{NarHash, nix32};

/// How a NAR is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As it is.
    Plain,
    /// In zstd frames.
    Packed,
}

/// The address of a NAR: `<hash part of the path>-<hash of the NAR>.nar`, and `.zst` where it is packed. It says all that is
/// needed to find the NAR, and it never means another one: a path that was built anew with other content has another address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NarAddress {
    /// The digest of the path.
    pub path: [u8; 20],
    /// The hash of the NAR as it is, not packed.
    pub nar_hash: NarHash,
    /// How it is sent.
    pub form: Form,
}

impl NarAddress {
    /// Reads what follows `nar/`; none when it is no address.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (stem, form) = match text.strip_suffix(".zst") {
            Some(stem) => (stem, Form::Packed),
            None => (text, Form::Plain),
        };
        let (path, nar_hash) = stem.strip_suffix(".nar")?.split_once('-')?;
        Some(Self {
            path: hash_part(path)?,
            nar_hash: NarHash(nix32::decode(nar_hash.as_bytes()).ok()?),
            form,
        })
    }
}

impl std::fmt::Display for NarAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let suffix = match self.form {
            Form::Plain => "",
            Form::Packed => ".zst",
        };
        let (path, nar_hash) = (nix32::encode(&self.path), nix32::encode(&self.nar_hash.0));
        write!(f, "nar/{path}-{nar_hash}.nar{suffix}")
    }
}

/// What is at the top of the cache, named after the hash part of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// `<hash part>.narinfo`.
    Narinfo([u8; 20]),
    /// `<hash part>.ls`.
    Listing([u8; 20]),
}

/// A name at the top that belongs to the cache, but has no hash part in front.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NoHashPart;

impl About {
    /// Reads a name; none when it is none of the cache's.
    #[must_use]
    pub fn parse(name: &str) -> Option<Result<Self, NoHashPart>> {
        let (hash, about): (_, fn([u8; 20]) -> Self) = match name.rsplit_once('.')? {
            (hash, "narinfo") => (hash, Self::Narinfo),
            (hash, "ls") => (hash, Self::Listing),
            _ => return None,
        };
        Some(hash_part(hash).map(about).ok_or(NoHashPart))
    }
}

fn hash_part(text: &str) -> Option<[u8; 20]> {
    nix32::decode(text.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q";
    const NAR: &str = "04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw";

    #[test]
    fn addresses_are_read_as_they_are_written() {
        for (form, suffix) in [(Form::Plain, ""), (Form::Packed, ".zst")] {
            let text = format!("{PATH}-{NAR}.nar{suffix}");
            let address = NarAddress::parse(&text).unwrap();
            assert_eq!(address.form, form);
            assert_eq!(address.to_string(), format!("nar/{text}"));
        }
        let digest = nix32::decode(PATH.as_bytes()).unwrap();
        assert_eq!(
            About::parse(&format!("{PATH}.narinfo")),
            Some(Ok(About::Narinfo(digest)))
        );
        assert_eq!(About::parse(&format!("{PATH}.ls")), Some(Ok(About::Listing(digest))));
    }

    #[test]
    fn nonsense_is_no_address() {
        let long = "0".repeat(100_000);
        for bad in [
            "",
            ".nar",
            "-.nar",
            ".zst",
            "x.nar.zst",
            NAR,
            &format!("{NAR}.nar.zst"),
            &format!("{PATH}-{NAR}"),
            &format!("{PATH}-{NAR}.zst"),
            &format!("{PATH}-{NAR}.nar.xz"),
            &format!("{PATH}-{NAR}.nar.zst.zst"),
            &format!("{PATH}-{NAR}.nar.nar"),
            &format!("{PATH}-{NAR}-.nar"),
            &format!("{PATH}--{NAR}.nar"),
            &format!("{NAR}-{PATH}.nar"),
            &format!("{PATH}-{}.nar", &NAR[1..]),
            &format!("{}-{NAR}.nar", PATH.to_uppercase()),
            &format!("{}-{NAR}.nar", PATH.replace('g', "e")),
            &format!("{PATH}-z{}.nar", &NAR[1..]),
            &format!("../{PATH}-{NAR}.nar"),
            &format!("{PATH}-{NAR}.nar\0"),
            &format!("ü{}-{NAR}.nar", &PATH[2..]),
            &long,
            &format!("{long}-{long}.nar.zst"),
        ] {
            assert_eq!(NarAddress::parse(bad), None, "{bad}");
        }
        for bad in ["", "narinfo", "stores", "a.html", PATH, "x.narinfo.gz"] {
            assert_eq!(About::parse(bad), None, "{bad}");
        }
        for bad in [
            ".narinfo".to_owned(),
            "x.ls".to_owned(),
            format!("{PATH}0.narinfo"),
            format!("{PATH}-name.narinfo"),
            format!("{}.ls", PATH.replace('g', "u")),
            format!("{}é.narinfo", &PATH[2..]),
            format!("{long}.narinfo"),
        ] {
            assert_eq!(About::parse(&bad), Some(Err(NoHashPart)), "{bad}");
        }
    }
}
