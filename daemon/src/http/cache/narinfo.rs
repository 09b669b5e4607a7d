//! `/<hash part>.narinfo`: what is known of a path, and where its NAR is.

use std::fmt::Write as _;

use axum::http::HeaderMap;
use axum::response::Response;
use nixci_protocol::types::{Hash, NarHash, PathInfo, StoreDir, nix32};
use nixci_store::nar_cache::Packed;

use super::address::{Form, NarAddress};
use super::answer::{self, Refusal};
use super::{Cache, listing};

/// The narinfo of a path as Nix writes it. `FileHash` and `FileSize` are known once the NAR was packed into a file; clients
/// do without.
pub(super) fn text(dir: &StoreDir, info: &PathInfo, packed: Option<Packed>) -> String {
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

/// The tag of a narinfo: it changes with every change of the text.
pub(super) fn etag(text: &str) -> String {
    format!("\"{}\"", nix32::encode(&NarHash::of(text.as_bytes()).0[..20]))
}

pub(super) async fn narinfo(cache: &Cache, digest: &[u8; 20], headers: &HeaderMap) -> Result<Response, Refusal> {
    let known = cache.known(digest).await?.ok_or_else(|| listing::nobody(digest))?;
    Ok(answer::whole(
        headers,
        "text/x-nix-narinfo",
        &known.etag,
        answer::FOR_A_DAY,
        known.narinfo.clone(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nixci_protocol::types::{StorePath, UnkeyedPathInfo};

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
            text(&dir, &info, None),
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
        let told = text(&dir, &info, Some(packed));
        let expected = format!(
            "FileHash: {}\nFileSize: 2\nNarHash: {nar}\nNarSize: 3\nReferences: {} {}\nDeriver: {}\nSig: {signature}\nCA: {ca}\n",
            packed.file_hash,
            path("glibc"),
            path("hello"),
            path("hello.drv")
        );
        assert!(told.ends_with(&expected), "{told}");
        assert_ne!(etag(&told), etag(&text(&dir, &info, None)));
    }

    fn base64_of_64_zeros() -> String {
        "A".repeat(86) + "=="
    }
}
