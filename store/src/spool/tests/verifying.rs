//! What is taken, and why the rest is refused.

use nixci_protocol::types::HashAlgo;

use super::*;

fn check((info, nar): (PathInfo, Bytes), authority: Authority) -> std::result::Result<PathInfo, VerifyError> {
    verify(&rules(), info, nar, authority).map(|verified| verified.info().clone())
}

#[test]
fn paths_that_follow_from_their_content_are_proven() {
    let (lib, _) = text("lib", b"lib", &[]);
    for object in [
        text("a.drv", b"Derive()", &[&lib.path]),
        source("src", file_nar(b"hello\n"), &[]),
        source("src", file_nar(b"any bytes"), &[&lib.path]),
    ] {
        let checked = check(object.clone(), Authority::Untrusted).unwrap();
        assert_eq!(checked.path, object.0.path);
        assert!(!checked.info.ultimate, "never taken over from a peer");
    }
    // As Nix 2.34.8 addresses `hello\n`.
    let (x, _) = source("x", file_nar(b"hello\n"), &[]);
    assert_eq!(x.path.to_string(), "m5zd3qj7c4bs4g5d8hqvs5pc5xicclfg-x");
    // As `md5sum` and its kin print them for `hello\n`.
    for ca in [
        "md5:b1946ac92492d2347c6235b4d2611184",
        "sha1:f572d396fae9206628714fb2ce00f72e94f2258f",
        "sha256:5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03",
        "sha512:e7c22b994c59d9cf2b48e549b1e24666636045930d3da7c1acb299d1c3b7f931f94aae41edda2c2b207a36e10f8bcb8d45223e54878f5b316e7ce3b6bc019629",
    ] {
        let ca = ca.parse().unwrap();
        let ca = ContentAddress {
            method: ContentAddressMethod::Flat,
            hash: ca,
        };
        check(addressed("flat", ca, file_nar(b"hello\n"), &[]), Authority::Untrusted).unwrap();
    }
}

#[test]
fn an_object_that_refers_to_itself_is_proven_modulo_its_own_hash() {
    let blank = [0_u8; 20];
    let nar_with = |digest: &[u8; 20]| {
        let path = StorePath::new(*digest, "self").unwrap();
        file_nar(format!("I am at {path}, and again {path}").as_bytes())
    };
    let mut modulo = HashModulo::new(&blank);
    modulo.update(&nar_with(&blank));
    let ca = ContentAddress {
        method: ContentAddressMethod::Nar,
        hash: modulo.finish(),
    };
    let path = make_content_addressed_path(&dir(), "self", &ca, &BTreeSet::new(), true).unwrap();
    let nar = nar_with(path.digest());
    let object = info(path.clone(), &nar, BTreeSet::from([path]), Some(ca));
    check((object.clone(), nar.clone().into()), Authority::Untrusted).unwrap();

    let mut other = nar;
    let end = other.len() - 30;
    other[end] ^= 1;
    let mut lying = object;
    lying.info.nar_hash = NarHash::of(&other);
    let error = check((lying, other.into()), Authority::Untrusted).unwrap_err();
    assert!(matches!(error, VerifyError::Content { .. }), "{error}");
}

#[test]
fn lies_are_named_even_when_a_trusted_principal_tells_them() {
    let (good, nar) = text("a.drv", b"Derive()", &[]);
    let (lib, _) = text("lib", b"lib", &[]);
    let lie = |change: &dyn Fn(&mut PathInfo)| {
        let mut lying = good.clone();
        change(&mut lying);
        check((lying, nar.clone()), Authority::Trusted).unwrap_err()
    };
    assert!(matches!(lie(&|info| info.info.nar_size += 1), VerifyError::Size { .. }));
    assert!(matches!(
        lie(&|info| info.info.nar_hash = NarHash([0; 32])),
        VerifyError::NarHash { .. }
    ));
    let of_another = |info: &mut PathInfo| info.info.ca.as_mut().unwrap().hash = Hash::sha256_of(b"other");
    assert!(matches!(lie(&of_another), VerifyError::Content { .. }));
    let error = lie(&|info| {
        info.info.references.insert(lib.path.clone());
    });
    assert!(
        matches!(&error, VerifyError::Path { path, .. } if *path == good.path),
        "{error}"
    );
    let error = lie(&|info| info.path = lib.path.clone());
    assert!(matches!(error, VerifyError::Path { .. }), "{error}");
    let error = lie(&|info| {
        info.info.references.insert(info.path.clone());
    });
    assert!(matches!(error, VerifyError::Kind { .. }), "{error}");

    let ca = ContentAddress {
        method: ContentAddressMethod::Text,
        hash: Hash::sha256_of(b"x"),
    };
    let link: Vec<u8> = ["nix-archive-1", "(", "type", "symlink", "target", "x", ")"]
        .into_iter()
        .flat_map(|word| {
            let padding = word.len().next_multiple_of(8) - word.len();
            [
                &(word.len() as u64).to_le_bytes()[..],
                word.as_bytes(),
                &vec![0; padding],
            ]
            .concat()
        })
        .collect();
    let error = check(addressed("t", ca, link, &[]), Authority::Trusted).unwrap_err();
    assert!(matches!(error, VerifyError::NotAFile { .. }), "{error}");
}

#[test]
fn what_proves_nothing_needs_somebody_to_vouch_for_it() {
    let (mut built, nar) = text("built", b"output", &[]);
    built.info.ca = None;
    let error = check((built.clone(), nar.clone()), Authority::Untrusted).unwrap_err();
    assert!(
        error
            .to_string()
            .contains("because it lacks a signature by a trusted key: it has no signature"),
        "{error}"
    );
    check((built.clone(), nar.clone()), Authority::Trusted).unwrap();

    built.info.ca = Some(ContentAddress {
        method: ContentAddressMethod::Git,
        hash: Hash::from_bytes(HashAlgo::Sha1, &[0; 20]).unwrap(),
    });
    let error = check((built, nar), Authority::Untrusted).unwrap_err();
    assert!(matches!(error, VerifyError::Unsupported { .. }), "{error}");
}

#[test]
fn bytes_that_are_no_nar_are_refused_although_their_hash_is_right() {
    for (nar, what) in [
        (b"any bytes".to_vec(), "is not one"),
        (file_nar(b"hello")[..60].to_vec(), "ends elsewhere"),
        ([file_nar(b"hello"), b"and more".to_vec()].concat(), "ends elsewhere"),
    ] {
        let error = check(source("src", nar, &[]), Authority::Trusted).unwrap_err();
        assert!(error.to_string().contains(what), "{error}");
    }
}
