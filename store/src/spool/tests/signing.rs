//! What a signature proves, and what it does not.

use nixci_protocol::types::{SecretKey, Signature, fingerprint};

use super::*;

fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::from_seed(name, &[seed; 32]).unwrap()
}

/// An object whose path says nothing of its content, signed by this key.
fn signed(key: &SecretKey, content: &[u8], references: &[&StorePath]) -> (PathInfo, Bytes) {
    let (mut built, nar) = text("built", content, references);
    built.info.ca = None;
    let signature = key.sign(fingerprint(&dir(), &built).as_bytes());
    built.info.signatures.insert(signature);
    (built, nar)
}

fn refused(rules: &Rules, info: PathInfo, nar: Bytes) -> String {
    verify(rules, info, nar, Authority::Untrusted).unwrap_err().to_string()
}

#[test]
fn a_trusted_signature_proves_what_it_covers() {
    let (lib, _) = text("lib", b"lib", &[]);
    let (good, bad) = (key("good-1", 1), key("bad-1", 2));
    let rules = rules().trusting(vec![good.public()]);
    let (object, nar) = signed(&good, b"output", &[&lib.path]);
    let taken = verify(&rules, object.clone(), nar.clone(), Authority::Untrusted).unwrap();
    assert!(!taken.info().info.ultimate, "only the store that built it may say so");
    assert_eq!(taken.info().info.signatures, object.info.signatures, "they travel on");

    let (foreign, nar) = signed(&bad, b"output", &[]);
    assert_eq!(
        refused(&rules, foreign.clone(), nar.clone()),
        format!(
            "cannot add path '/nix/store/{}' because it lacks a signature by a trusted key: `bad-1` is not trusted \
             here; name the key in `trusted_public_keys` ([keys] of the daemon's configuration), or copy as a trusted \
             user with --no-check-sigs",
            foreign.path
        )
    );
    verify(&rules, foreign, nar, Authority::Trusted).unwrap();
}

#[test]
fn tampering_is_found_whatever_is_said() {
    let good = key("good-1", 1);
    let rules = rules().trusting(vec![good.public()]);
    let (lib, _) = text("lib", b"lib", &[]);
    let (object, _) = signed(&good, b"output", &[]);
    // Other bytes of the same size under the hash that was signed.
    let other: Bytes = file_nar(b"OUTPUT").into();
    let error = refused(&rules, object.clone(), other.clone());
    assert!(error.contains("has hash"), "{error}");
    // The hash of those bytes, which nobody signed.
    let mut honest = object.clone();
    honest.info.nar_hash = NarHash::of(&other);
    let error = refused(&rules, honest, other);
    assert!(
        error.contains("that by `good-1` is not one over its hash, size and references"),
        "{error}"
    );
    // References that nobody signed.
    let mut more = object.clone();
    more.info.references.insert(lib.path);
    let error = refused(&rules, more, file_nar(b"output").into());
    assert!(error.contains("lacks a signature by a trusted key"), "{error}");
    // A content address that lies is not saved by a signature.
    let (mut lying, nar) = signed(&good, b"output", &[]);
    lying.info.ca = Some("fixed:sha1:f572d396fae9206628714fb2ce00f72e94f2258f".parse().unwrap());
    let error = refused(&rules, lying, nar);
    assert!(error.contains("content address"), "{error}");
}

#[tokio::test]
async fn what_nobody_signed_is_refused_before_it_is_read() {
    let (spool, _folder) = spool();
    let spool = spool.trusting(vec![key("good-1", 1).public()]);
    let (mut object, _) = signed(&key("bad-1", 2), b"output", &[]);
    object.info.nar_size = u64::MAX;
    let mut nar = &b"rest"[..];
    let error = spool
        .receive(object.clone(), &mut nar, Authority::Untrusted)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("lacks a signature"), "{error}");
    assert_eq!(nar, b"rest");
    object.info.signatures = (0..=64)
        .map(|nth| Signature::new(&format!("k{nth}"), [0; 64]).unwrap())
        .collect();
    let error = spool.receive(object, &mut nar, Authority::Trusted).await.unwrap_err();
    assert!(
        error
            .to_string()
            .contains("has 65 signatures; more than 64 are refused"),
        "{error}"
    );
}

#[tokio::test]
async fn signatures_are_added_to_what_is_here() {
    let (spool, folder) = spool();
    let good = key("good-1", 1);
    let spool = spool.trusting(vec![good.public()]);
    let (object, nar) = text("src", b"content", &[]);
    let path = object.path.clone();
    spool.add(vec![proven((object.clone(), nar))]).await.unwrap();

    let covered = fingerprint(&dir(), &object);
    let trusted = good.sign(covered.as_bytes());
    let foreign = key("bad-1", 2).sign(covered.as_bytes());
    let forged = Signature::new("good-1", [7; 64]).unwrap();
    for signature in [&foreign, &forged] {
        let all = BTreeSet::from([trusted.clone(), signature.clone()]);
        let error = spool.sign(&path, all, Authority::Untrusted).await.unwrap_err();
        assert!(error.to_string().contains("by a trusted key"), "{error}");
    }
    assert!(
        spool
            .sign(&path, [trusted.clone()].into(), Authority::Untrusted)
            .await
            .unwrap()
    );
    assert!(
        spool
            .sign(&path, [foreign.clone()].into(), Authority::Trusted)
            .await
            .unwrap()
    );
    let (absent, _) = text("absent", b"", &[]);
    assert!(
        !spool
            .sign(&absent.path, BTreeSet::new(), Authority::Trusted)
            .await
            .unwrap()
    );

    let many = (0..63).map(|nth| Signature::new(&format!("k{nth}"), [0; 64]).unwrap());
    let error = spool.sign(&path, many.collect(), Authority::Trusted).await.unwrap_err();
    assert!(error.to_string().contains("has 65 signatures"), "{error}");

    drop(spool);
    let again = open(folder.path()).info(&path).await.unwrap().unwrap();
    assert_eq!(again.info.signatures, BTreeSet::from([trusted, foreign]));
}
