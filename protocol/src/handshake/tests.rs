use proptest::prelude::*;

use super::*;
use crate::nixci::{FEATURE_CLOSURE, RootsDigest};

fn offer(minor: u8, features: &[&str]) -> Offer {
    Offer {
        version: Version { major: 1, minor },
        features: features.iter().map(|feature| (*feature).to_owned()).collect(),
        ..Offer::default()
    }
}

fn server(offer: Offer) -> ServerHandshake {
    ServerHandshake::new(offer, "2.34.8".to_owned(), Trust::NotTrusted)
}

/// Lets both talk, `step` bytes at a time, until both are done.
fn talk(ours: Offer, theirs: Offer, step: usize) -> Result<(Agreed, Negotiated, usize), HandshakeError> {
    talk_to_one_who_knows(None, ours, theirs, step)
}

fn talk_to_one_who_knows(
    known: Option<RootsDigest>,
    ours: Offer,
    theirs: Offer,
    step: usize,
) -> Result<(Agreed, Negotiated, usize), HandshakeError> {
    let mut to_server = BytesMut::new();
    let mut to_client = BytesMut::new();
    let mut client = ClientHandshake::start(ours, &mut to_server);
    let mut server = server(theirs);
    let (mut agreed, mut negotiated) = (None, None);
    let (mut client_sees, mut server_sees) = (BytesMut::new(), BytesMut::new());
    let mut spoken = 0;
    while agreed.is_none() || negotiated.is_none() {
        let taken = to_server.split_to(step.min(to_server.len()));
        server_sees.extend_from_slice(&taken);
        let progress = server.receive(&server_sees, &mut to_client)?;
        let _ = server_sees.split_to(progress.consumed);
        if let Some(asked) = server.asks() {
            server.answer(known == Some(asked), &mut to_client);
        }
        negotiated = negotiated.or(progress.done);
        let back = to_client.split_to(step.min(to_client.len()));
        client_sees.extend_from_slice(&back);
        let progress = client.receive(&client_sees, &mut to_server)?;
        let _ = client_sees.split_to(progress.consumed);
        agreed = agreed.or(progress.done);
        spoken += taken.len() + back.len();
    }
    assert!(
        to_server.is_empty() && to_client.is_empty(),
        "something was said that nobody reads"
    );
    Ok((agreed.unwrap(), negotiated.unwrap(), spoken))
}

#[test]
fn every_version_agrees_on_the_lower_of_both() {
    for (client, daemon) in (18..=38).flat_map(|client| (18..=38).map(move |daemon| (client, daemon))) {
        for step in [1, 7, 8, 1000] {
            let (agreed, negotiated, _) = talk(offer(client, &["a"]), offer(daemon, &["a"]), step).unwrap();
            assert_eq!(agreed.negotiated, negotiated);
            let minor = client.min(daemon);
            assert_eq!(negotiated.version, Version { major: 1, minor });
            assert_eq!(negotiated.has("a"), minor == 38);
            assert_eq!(agreed.daemon_version.is_some(), minor >= 33);
            assert_eq!(agreed.trust == Trust::NotTrusted, minor >= 35);
        }
    }
}

#[test]
fn a_client_that_knows_its_server_says_all_in_one_turn() {
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    let mut client = ClientHandshake::start_at_once(offer(38, &["a", "b"]), &mut to_server);
    let mut server = server(offer(38, &["b"]));
    let negotiated = server.receive(&to_server, &mut to_client).unwrap();
    assert_eq!(negotiated.consumed, to_server.len());
    to_server.clear();
    let agreed = client.receive(&to_client, &mut to_server).unwrap();
    assert_eq!(agreed.consumed, to_client.len());
    assert!(to_server.is_empty(), "everything was said before");
    let agreed = agreed.done.unwrap();
    assert_eq!(Some(agreed.negotiated), negotiated.done);
    assert_eq!(agreed.daemon_version.as_deref(), Some("2.34.8"));
}

#[test]
fn to_say_all_at_once_to_an_older_server_is_an_error_and_no_misunderstanding() {
    let (mut to_server, mut to_client) = (BytesMut::new(), BytesMut::new());
    let mut client = ClientHandshake::start_at_once(offer(38, &["a"]), &mut to_server);
    // Magic and version; what follows the old server would misread.
    server(offer(37, &[]))
        .receive(&to_server[..16], &mut to_client)
        .unwrap();
    let error = client.receive(&to_client, &mut to_server).unwrap_err();
    assert!(matches!(
        error,
        HandshakeError::Version(Version { major: 1, minor: 37 })
    ));

    // Who offers less himself has nothing to say ahead.
    let mut out = BytesMut::new();
    let _ = ClientHandshake::start_at_once(offer(37, &["a"]), &mut out);
    assert_eq!(out.len(), 16);
}

#[test]
fn features_are_those_of_both() {
    let ours = offer(38, &["zzz", "mine", "aaa", "aaa", "shared"]);
    let (agreed, _, _) = talk(ours, offer(38, &["shared", "theirs"]), 8).unwrap();
    assert_eq!(agreed.negotiated.features, BTreeSet::from(["shared".to_owned()]));
}

#[test]
fn a_server_shows_a_client_only_features_it_listed() {
    for (listed, shown) in [(&["x-other"][..], &[][..]), (&["mine", "x-other", "mine"], &["mine"])] {
        let mut to_client = BytesMut::new();
        let mut server = server(offer(38, &["mine", "ours"]));
        let mut heard = BytesMut::from(&b"cxin\0\0\0\0"[..]);
        put_number(0x126, &mut heard);
        put_number(listed.len() as u64, &mut heard);
        for name in listed {
            put_string(name.as_bytes(), &mut heard);
        }
        server.receive(&heard, &mut to_client).unwrap();
        let mut expected = BytesMut::new();
        put_number(shown.len() as u64, &mut expected);
        for name in shown {
            put_string(name.as_bytes(), &mut expected);
        }
        assert_eq!(to_client[16..], expected[..]);
    }
}

fn roots(number: u8) -> RootsDigest {
    RootsDigest::of_members(&StoreDir::default(), &mut vec![[number; 20]])
}

#[test]
fn a_set_of_roots_is_asked_for_in_no_more_words_and_turns_than_any_feature() {
    let (asked, other) = (roots(1), roots(2));
    let feature = asked.feature();
    let ours = offer(38, &[FEATURE_CLOSURE, &feature]);
    for step in [1, 7, 8, 1000] {
        for (known, theirs, is_known) in [
            (Some(asked), &[FEATURE_CLOSURE][..], true),
            (Some(other), &[FEATURE_CLOSURE], false),
            (None, &[FEATURE_CLOSURE], false),
            (Some(asked), &[], false),
        ] {
            let (agreed, negotiated, _) = talk_to_one_who_knows(known, ours.clone(), offer(38, theirs), step).unwrap();
            assert_eq!(agreed.negotiated, negotiated);
            assert_eq!(asked.is_known(&negotiated), is_known);
            assert!(!other.is_known(&negotiated));
            assert_eq!(negotiated.has(FEATURE_CLOSURE), !theirs.is_empty());
        }
    }
    // Who does not know our feature, or has no features at all, is not asked.
    let (_, negotiated, _) =
        talk_to_one_who_knows(Some(asked), offer(38, &[&feature]), offer(38, &[FEATURE_CLOSURE]), 8).unwrap();
    assert!(negotiated.features.is_empty());
    let (_, negotiated, _) = talk_to_one_who_knows(Some(asked), ours, offer(37, &[FEATURE_CLOSURE]), 8).unwrap();
    assert!(negotiated.features.is_empty());
}

#[test]
fn a_server_asks_once_and_takes_nothing_before_the_answer() {
    let mut said = b"cxin\0\0\0\0".to_vec();
    let mut rest = BytesMut::new();
    put_number(0x126, &mut rest);
    // One that is malformed, two that are not, and our feature last.
    put_number(4, &mut rest);
    let malformed = &roots(1).feature()[1..];
    for feature in [malformed, &roots(1).feature(), &roots(2).feature(), FEATURE_CLOSURE] {
        put_string(feature.as_bytes(), &mut rest);
    }
    said.extend_from_slice(&rest);
    let words = said.len();
    said.extend_from_slice(&[0; 16]);
    let mut out = BytesMut::new();
    let mut server = server(offer(38, &[FEATURE_CLOSURE]));
    assert_eq!(server.asks(), None);
    server.answer(true, &mut out);
    let progress = server.receive(&said, &mut out).unwrap();
    assert_eq!((progress.consumed, progress.done.is_none()), (words, true));
    assert_eq!((server.asks(), out.len()), (Some(roots(1)), 16));
    assert_eq!(server.receive(&said[words..], &mut out).unwrap().consumed, 0);
    server.answer(true, &mut out);
    assert_eq!(server.asks(), None);
    let done = server.receive(&said[words..], &mut out).unwrap().done.unwrap();
    assert!(roots(1).is_known(&done) && !roots(2).is_known(&done));
    assert_eq!(server.roots(), Some(roots(1)));
}

#[test]
fn unknown_features_in_any_number_are_overlooked() {
    let many: Vec<_> = (0..50_000).map(|n| format!("feature-{n}")).collect();
    let mut ours = offer(38, &["known"]);
    ours.features.extend(many.iter().cloned());
    let (agreed, _, _) = talk(ours.clone(), offer(38, &["known"]), 64 * 1024).unwrap();
    assert_eq!(agreed.negotiated.features.len(), 1);
    let (agreed, _, _) = talk(offer(38, &["known"]), ours.clone(), 64 * 1024).unwrap();
    assert_eq!(agreed.negotiated.features.len(), 1);

    let mut theirs = offer(38, &["known"]);
    theirs.limits.max_features = 50_000;
    let error = talk(ours, theirs, 64 * 1024).unwrap_err().to_string();
    assert_eq!(
        error,
        "the peer lists 50001 features, which exceeds max_features (50000)"
    );
}

/// worker-protocol appendix B.
#[test]
fn the_bytes_are_those_of_nix() {
    let mut out = BytesMut::new();
    let mut client = ClientHandshake::start(offer(38, &[]), &mut out);
    let said = b"oixd\0\0\0\0\x26\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x06\0\0\0\0\0\0\x002.34.8\0\0\x01\0\0\0\0\0\0\0";
    let agreed = client.receive(said, &mut out).unwrap().done.unwrap();
    assert_eq!(
        out[..],
        *b"cxin\0\0\0\0\x26\x01\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    );
    assert_eq!(agreed.daemon_version.as_deref(), Some("2.34.8"));
    assert_eq!(agreed.trust, Trust::Trusted);

    let heard = out.split();
    let mut server = ServerHandshake::new(offer(38, &[]), "2.34.8".to_owned(), Trust::Trusted);
    server.receive(&heard, &mut out).unwrap().done.unwrap();
    assert_eq!(out[..], said[..]);
}

#[test]
fn the_magic_is_answered_before_the_version_is_known() {
    let mut out = BytesMut::new();
    let mut server = server(offer(38, &[]));
    let progress = server.receive(b"cxin\0\0\0\0", &mut out).unwrap();
    assert_eq!((progress.consumed, out.len()), (8, 16));
    assert!(progress.done.is_none());
}

#[test]
fn a_client_may_name_a_cpu() {
    let mut out = BytesMut::new();
    let mut said = b"cxin\0\0\0\0".to_vec();
    for word in [0x115_u64, 1, 5, 0] {
        said.extend_from_slice(&word.to_le_bytes());
    }
    let progress = server(offer(38, &[])).receive(&said, &mut out).unwrap();
    assert_eq!(progress.consumed, said.len());
    assert_eq!(progress.done.unwrap().version, Version { major: 1, minor: 21 });
}

#[test]
fn peers_that_do_not_fit_are_named() {
    let mut out = BytesMut::new();
    let error = server(offer(38, &[]))
        .receive(b"GET / HTTP/1.1\r\n", &mut out)
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("the peer does not speak the Nix worker protocol"),
        "{error}"
    );
    let mut said = b"cxin\0\0\0\0".to_vec();
    said.extend_from_slice(&0x111_u64.to_le_bytes());
    let error = server(offer(38, &[])).receive(&said, &mut out).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the peer speaks protocol 1.17, we need 1.18 or a later 1.x"
    );
    assert_eq!(out.len(), 16, "a client that is too old learns our version");

    // A server takes a client of any later major, a client only a server of ours.
    let mut said = b"cxin\0\0\0\0".to_vec();
    said.extend_from_slice(&0x226_u64.to_le_bytes());
    assert!(server(offer(38, &[])).receive(&said, &mut out).is_ok());
    let mut client = ClientHandshake::start(offer(38, &[]), &mut out);
    let mut said = b"oixd\0\0\0\0".to_vec();
    said.extend_from_slice(&0x226_u64.to_le_bytes());
    assert!(client.receive(&said, &mut out).is_err());
}

proptest! {
    #[test]
    fn nonsense_never_panics(bytes: Vec<u8>, minor in 18_u8..=38) {
        let mut out = BytesMut::new();
        let _ = server(offer(minor, &["a"])).receive(&bytes, &mut out);
        let mut said = b"cxin\0\0\0\0\x26\x01\0\0\0\0\0\0".to_vec();
        said.extend_from_slice(&bytes);
        let _ = server(offer(minor, &["a"])).receive(&said, &mut out);
        let mut said = b"oixd\0\0\0\0\x26\x01\0\0\0\0\0\0".to_vec();
        said.extend_from_slice(&bytes);
        let _ = ClientHandshake::start(offer(minor, &["a"]), &mut out).receive(&said, &mut out);
    }
}
