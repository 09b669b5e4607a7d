//! Handshakes as they should not be.

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::log::Incoming;
use nixci_protocol::nixci::{FEATURE_CLOSURE, FEATURE_CONTROL};
use nixci_protocol::testing::{Damage, negotiated};
use nixci_protocol::wire::decode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::Scene;
use super::raw::{PATIENCE, Raw, Said, string, words};

const MAGIC: u64 = 0x6e69_7863;

/// What somebody hears who says this and waits until the daemon hangs up.
async fn heard_by(scene: &Scene, said: &[u8]) -> Vec<u8> {
    let mut stream = UnixStream::connect(scene.socket()).await.unwrap();
    drop(stream.write_all(said).await);
    let mut heard = Vec::new();
    let reading = stream.read_to_end(&mut heard);
    // Closed with something unread, a socket says so in place of its end.
    drop(
        tokio::time::timeout(PATIENCE, reading)
            .await
            .expect("the daemon hangs up"),
    );
    heard
}

#[tokio::test(flavor = "multi_thread")]
async fn who_speaks_something_else_is_told_in_his_own_words() {
    let scene = Scene::new().await;
    for (version, shown) in [(0x10a, "1.10"), (0x111, "1.17"), (0x000, "0.0")] {
        let heard = heard_by(&scene, &words(&[MAGIC, version, 0, 0])).await;
        assert_eq!(heard[..16], words(&[0x6478_696f, 0x126]));
        let on = negotiated(18, false);
        let Ok((Incoming::Error(error), [])) = decode::<Incoming>(&on, &heard[16..]) else {
            panic!("{}", heard.escape_ascii());
        };
        let expected =
            format!("error: this daemon speaks protocol 1.18 to 1.38, this client {shown}; use Nix 2.0 or later there");
        assert_eq!(error.message, expected);
    }
    let http = heard_by(&scene, b"GET / HTTP/1.1\r\nHost: ci\r\n\r\n").await;
    assert!(http.starts_with(b"HTTP/1.1 400 "), "{}", http.escape_ascii());
    for nonsense in [&b"SSH-2.0-OpenSSH_9.6\r\n"[..], &[0xff; 64], b"nixc\0\0\0\0"] {
        assert_eq!(heard_by(&scene, nonsense).await, b"");
    }
    // As stock daemons do, the lower of both versions is taken, whatever the other is.
    for version in [0x226, 0xff_ffff_ffff_ffff_u64] {
        let mut stream = UnixStream::connect(scene.socket()).await.unwrap();
        stream.write_all(&words(&[MAGIC, version, 0, 0, 0])).await.unwrap();
        let mut heard = vec![0; 24];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, words(&[0x6478_696f, 0x126, 0]));
    }
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn features_in_any_number_are_harmless_and_ours_are_shown_to_who_lists_them() {
    let scene = Scene::new().await;
    let ours = string(FEATURE_CLOSURE);
    for (listed, shown) in [
        (vec![], vec![]),
        (vec!["x-other", "x-other", ""], vec![]),
        (vec![FEATURE_CLOSURE, "x-other", FEATURE_CLOSURE], vec![FEATURE_CLOSURE]),
    ] {
        let mut stream = UnixStream::connect(scene.socket()).await.unwrap();
        let mut said = words(&[MAGIC, 0x126, listed.len() as u64]);
        for name in &listed {
            said.extend(string(name));
        }
        stream.write_all(&said).await.unwrap();
        let mut expected = words(&[0x6478_696f, 0x126, shown.len() as u64]);
        for _ in &shown {
            expected.extend_from_slice(&ours);
        }
        let mut heard = vec![0; expected.len()];
        stream.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard, expected);
        stream.write_all(&words(&[0, 0])).await.unwrap();
        let mut length = [0; 8];
        stream.read_exact(&mut length).await.unwrap();
        assert!(
            u64::from_le_bytes(length) < 100,
            "the daemon's version follows the features"
        );
    }
    let mut features: Vec<String> = (0..50_000).map(|n| format!("x-feature-{n}")).collect();
    features.push(FEATURE_CONTROL.to_owned());
    features.push(FEATURE_CONTROL.to_owned());
    let stream = UnixStream::connect(scene.socket()).await.unwrap();
    let (read, write) = stream.into_split();
    let hello = Hello {
        features,
        ..Hello::default()
    };
    let mut client = Connection::open(read, write, hello).await.unwrap();
    assert_eq!(
        client.negotiated().features,
        [FEATURE_CONTROL.to_owned()].into(),
        "what was not listed is not used"
    );
    client.control_one(r#"{"op":"info"}"#).await.unwrap();
    // More than may be listed, and an endless one: there is no place in a handshake to say so.
    for said in [words(&[MAGIC, 0x126, 100_001]), words(&[MAGIC, 0x126, 1, 1 << 40])] {
        assert_eq!(heard_by(&scene, &said).await, words(&[0x6478_696f, 0x126]));
    }
    // An operation of ours without its feature is one that does not exist.
    let mut plain = Raw::greet(&scene.socket(), 38, false).await;
    plain.send(&words(&[0x6e63_6903, 0])).await;
    assert!(matches!(plain.said().await, Said::Error(error) if error.contains("invalid operation")));
    assert!(!plain.goes_on().await);
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_may_break_off_anywhere_and_be_random() {
    let scene = Scene::new().await;
    let mut whole = words(&[MAGIC, 0x126, 1]);
    whole.extend(string(FEATURE_CLOSURE));
    whole.extend(words(&[1, 7]));
    for cut in 0..whole.len() {
        let mut stream = UnixStream::connect(scene.socket()).await.unwrap();
        stream.write_all(&whole[..cut]).await.unwrap();
        stream.shutdown().await.unwrap();
        let reading = async { stream.read_to_end(&mut Vec::new()).await };
        drop(
            tokio::time::timeout(PATIENCE, reading)
                .await
                .expect("the daemon hangs up"),
        );
    }
    let mut damage = Damage::new(38);
    for _ in 0..300 {
        let mut stream = UnixStream::connect(scene.socket()).await.unwrap();
        drop(stream.write_all(&damage.of(&whole)).await);
        drop(stream.shutdown().await);
        let reading = async { stream.read_to_end(&mut Vec::new()).await };
        drop(
            tokio::time::timeout(PATIENCE, reading)
                .await
                .expect("the daemon hangs up"),
        );
    }
    scene.others_go_on().await;
}
