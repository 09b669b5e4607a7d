//! The text that tells of a path in a binary cache.

use std::fmt::Write as _;

use super::{Form, NarAddress};
use crate::types::{Hash, PathInfo, StoreDir};

/// A compressed NAR: what a narinfo says of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// SHA-256 of the compressed bytes.
    pub file_hash: Hash,
    /// How many there are.
    pub file_size: u64,
}

/// The narinfo of a path as Nix writes it. `FileHash` and `FileSize` are known once the NAR was packed into a file; clients
/// do without.
#[must_use]
pub fn narinfo(dir: &StoreDir, info: &PathInfo, packed: Option<Packed>) -> String {
    let PathInfo { path, info } = info;
    let url = NarAddress {
        path: *path.digest(),
        nar_hash: info.nar_hash,
        form: Form::Packed,
    };
    let mut text = format!("StorePath: {}\nURL: {url}\nCompression: zstd\n", dir.display(path));
    // Writing to a string cannot fail.
    if let Some(packed) = packed {
        let _ = write!(text, "FileHash: {}\nFileSize: {}\n", packed.file_hash, packed.file_size);
    }
    let nar_hash = Hash::from(info.nar_hash);
    let _ = write!(text, "NarHash: {nar_hash}\nNarSize: {}\nReferences:", info.nar_size);
    if info.references.is_empty() {
        // The space belongs to the format.
        text.push(' ');
    }
    for reference in &info.references {
        let _ = write!(text, " {reference}");
    }
    text.push('\n');
    if let Some(deriver) = &info.deriver {
        let _ = writeln!(text, "Deriver: {deriver}");
    }
    for signature in &info.signatures {
        let _ = writeln!(text, "Sig: {signature}");
    }
    if let Some(ca) = &info.ca {
        let _ = writeln!(text, "CA: {ca}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{NarHash, StorePath, UnkeyedPathInfo};

    #[test]
    fn a_narinfo_says_what_nix_reads_in_it() {
        let path = |name: &str| -> StorePath { format!("g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-{name}").parse().unwrap() };
        let mut info = PathInfo {
            path: path("hello"),
            info: UnkeyedPathInfo {
                deriver: None,
                nar_hash: NarHash::of(b"nar"),
                references: std::collections::BTreeSet::new(),
                registration_time: 7,
                nar_size: 3,
                ultimate: true,
                signatures: std::collections::BTreeSet::new(),
                ca: None,
            },
        };
        let nar = Hash::from(info.info.nar_hash);
        let address = format!("nar/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-{}.nar.zst", nar.base32());
        let dir = StoreDir::default();
        assert_eq!(
            narinfo(&dir, &info, None),
            format!(
                "StorePath: /nix/store/{}\nURL: {address}\nCompression: zstd\nNarHash: {nar}\nNarSize: 3\nReferences: \n",
                info.path
            )
        );
        info.info.references = [path("hello"), path("glibc")].into();
        info.info.deriver = Some(path("hello.drv"));
        let signature = format!("key-1:{}", base64_of_64_zeros());
        info.info.signatures = [signature.parse().unwrap()].into();
        let ca = format!("fixed:r:{}", Hash::sha256_of(b"x"));
        info.info.ca = Some(ca.parse().unwrap());
        let packed = Packed {
            file_hash: Hash::sha256_of(b"packed"),
            file_size: 2,
        };
        let told = narinfo(&dir, &info, Some(packed));
        let expected = format!(
            "FileHash: {}\nFileSize: 2\nNarHash: {nar}\nNarSize: 3\nReferences: {} {}\nDeriver: {}\nSig: {signature}\nCA: {ca}\n",
            packed.file_hash,
            path("glibc"),
            path("hello"),
            path("hello.drv")
        );
        assert!(told.ends_with(&expected), "{told}");
    }

    fn base64_of_64_zeros() -> String {
        "A".repeat(86) + "=="
    }
}
