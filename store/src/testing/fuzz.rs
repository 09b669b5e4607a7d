//! What is done to any bytes in this crate, as in `nixci_protocol::testing`.

use std::collections::BTreeSet;

use bytes::Bytes;
use nixci_protocol::binary_cache::{self, About, Form, NarAddress};
use nixci_protocol::io::NarScanner;
use nixci_protocol::testing::{Target, negotiated, seeds as wire_seeds, targets as wire_targets};
use nixci_protocol::types::{
    ContentAddress, ContentAddressMethod, DrvPath, Hash, NarHash, PathInfo, Signature, StoreDir, StorePath,
    UnkeyedPathInfo, make_content_addressed_path, nix32,
};
use nixci_protocol::wire::{decode, encode};

use crate::derivation::Derivation;
use crate::spool::{Authority, Rules, verify};

/// The targets of this crate and of the protocol.
pub fn targets() -> Vec<Target> {
    let mut all = wire_targets();
    all.push(Target {
        name: "derivation",
        run: derivation,
    });
    all.push(Target {
        name: "narinfo",
        run: narinfo,
    });
    all.push(Target {
        name: "spool",
        run: spool,
    });
    all
}

/// Good inputs of any target.
pub fn seeds(target: &str) -> Vec<(String, Vec<u8>)> {
    match target {
        "derivation" => [
            (
                "plain",
                r#"Derive([("out","/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-app","","")],[("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-lib.drv",["dev","out"])],["/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-src"],"x86_64-linux","/bin/sh",["-c","echo \"a\\b\" > $out\n"],[("name","app"),("requiredSystemFeatures","kvm")])"#,
            ),
            (
                "fixed",
                r#"Derive([("out","/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-app","sha256","0000000000000000000000000000000000000000000000000000000000000000")],[],[],"builtin","builtin:fetchurl",[],[])"#,
            ),
            (
                "floating",
                r#"Derive([("out","","r:sha256","")],[],[],"x86_64-linux","/bin/sh",[],[("__json","{\"requiredSystemFeatures\":[\"kvm\"]}"),("out","")])"#,
            ),
            (
                "dynamic",
                r#"DrvWithVersion("xp-dyn-drv",[("out","","r:sha256","")],[("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-lib.drv",(["out"],[("out",["bin"])]))],[],"x86_64-linux","/bin/sh",[],[])"#,
            ),
        ]
        .map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec()))
        .into(),
        "narinfo" => {
            let on = negotiated(38, false);
            let path = |name: &str| StorePath::new([7; 20], name).expect("a name");
            let mut info = PathInfo {
                path: path("app"),
                info: UnkeyedPathInfo {
                    deriver: None,
                    nar_hash: NarHash::of(b"nar"),
                    references: BTreeSet::new(),
                    registration_time: 1,
                    nar_size: 120,
                    ultimate: false,
                    signatures: BTreeSet::new(),
                    ca: None,
                },
            };
            let bare = encode(&on, &info).to_vec();
            info.info.deriver = Some(path("app.drv"));
            info.info.references = [path("app"), path("lib")].into();
            info.info.signatures = [Signature::new("ci.example.org-1", [7; 64]).expect("a name")].into();
            info.info.ca = Some(ContentAddress {
                method: ContentAddressMethod::Nar,
                hash: Hash::sha256_of(b"nar"),
            });
            let full = encode(&on, &info).to_vec();
            let address = NarAddress {
                path: [7; 20],
                nar_hash: NarHash::of(b"nar"),
                form: Form::Packed,
            };
            let address = address.to_string();
            let about = format!("{}.narinfo", nix32::encode(&[7; 20]));
            vec![
                ("bare".to_owned(), bare),
                ("full".to_owned(), full),
                ("address".to_owned(), address.as_bytes()["nar/".len()..].to_vec()),
                ("about".to_owned(), about.into_bytes()),
            ]
        }
        "spool" => {
            let nar = nixci_protocol::testing::nar();
            (0..4).map(|how| (format!("how-{how}"), [&[how][..], &nar].concat())).collect()
        }
        other => wire_seeds(other),
    }
}

/// A `.drv` is read or refused, and what is read has nothing but names that may be on a disk.
fn derivation(data: &[u8]) {
    let path = StorePath::new([7; 20], "app.drv").expect("a name");
    let path = DrvPath::try_from(path).expect("the name of a derivation");
    let Ok(read) = Derivation::parse(&path, &StoreDir::default(), data) else {
        return;
    };
    assert!(!read.outputs.is_empty());
    for input in read.references() {
        let again = StorePath::from_base_name(&input.base_name()).expect("a path is one");
        assert_eq!(&again, input);
    }
}

/// What a narinfo says of a path is read in it by another reader than ours, line for line; an address that is understood
/// has one spelling.
fn narinfo(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        if let Some(address) = NarAddress::parse(text) {
            assert_eq!(address.to_string(), format!("nar/{text}"));
        }
        if let Some(Ok(About::Narinfo(digest) | About::Listing(digest))) = About::parse(text) {
            assert_eq!(text.split('.').next(), Some(nix32::encode(&digest).as_str()));
        }
    }
    let Ok((info, _)) = decode::<PathInfo>(&negotiated(38, false), data) else {
        return;
    };
    if info.info.nar_size == 0 {
        return;
    }
    let text = binary_cache::narinfo(&StoreDir::default(), &info, None);
    let read = nix_narinfo::NarInfo::parse_in(&nix_derivation::StoreDir::default(), text.as_bytes());
    let read = read.unwrap_or_else(|error| panic!("{error} in:\n{text}"));
    assert_eq!(read.nar_size(), info.info.nar_size);
    assert_eq!(read.references().len(), info.info.references.len());
    assert_eq!(read.deriver().is_some(), info.info.deriver.is_some());
    assert_eq!(read.content_address().is_some(), info.info.ca.is_some());
    assert_eq!(read.signatures().len(), info.info.signatures.len());
    assert!(read.extensions().is_empty(), "a line of the peer's own in:\n{text}");
    assert_eq!(read.file_size(), None, "a line of the peer's own in:\n{text}");
}

/// Content that is accepted is a NAR, and what proves nothing is accepted only from who is trusted.
fn spool(data: &[u8]) {
    let [how, nar @ ..] = data else { return };
    let dir = StoreDir::default();
    let method = match how % 4 {
        0 => None,
        1 => Some(ContentAddressMethod::Nar),
        2 => Some(ContentAddressMethod::Flat),
        _ => Some(ContentAddressMethod::Text),
    };
    let ca = method.map(|method| ContentAddress {
        method,
        hash: Hash::sha256_of(nar),
    });
    let path = match &ca {
        Some(ca) => make_content_addressed_path(&dir, "app", ca, &BTreeSet::new(), false).expect("it has an address"),
        None => StorePath::new([7; 20], "app").expect("a name"),
    };
    let info = PathInfo {
        path,
        info: UnkeyedPathInfo {
            deriver: None,
            nar_hash: NarHash::of(nar),
            references: BTreeSet::new(),
            registration_time: 0,
            nar_size: nar.len() as u64,
            ultimate: false,
            signatures: BTreeSet::new(),
            ca,
        },
    };
    let mut scanner = NarScanner::new();
    let is_nar = scanner.push(nar).is_ok_and(|taken| taken == nar.len()) && scanner.is_done();
    let rules = Rules::new(dir);
    for authority in [Authority::Trusted, Authority::Untrusted] {
        let accepted = verify(&rules, info.clone(), Bytes::copy_from_slice(nar), authority).is_ok();
        assert!(is_nar || !accepted, "what is no NAR is accepted");
        assert!(
            ca.is_some() || authority == Authority::Trusted || !accepted,
            "accepted without a proof"
        );
        if is_nar && (ca.is_none() || method == Some(ContentAddressMethod::Nar)) && authority == Authority::Trusted {
            assert!(accepted, "a NAR that is what it should be is refused");
        }
    }
}
