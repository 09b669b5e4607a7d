//! Bytes that make no sense.

use bytes::BytesMut;
use nixci_protocol::client::{Connection, Error, Hello};
use nixci_protocol::log::RemoteError;
use nixci_protocol::nixci::QueryValidBatch;
use nixci_protocol::op::IsValidPath;
use nixci_protocol::server::ServeError;
use nixci_protocol::types::StoreDir;
use nixci_protocol::version::Version;
use nixci_protocol::wire::{Limits, Negotiated, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

use crate::fixture::*;

/// Sends raw bytes after a handshake of 1.37 (no features), and returns what the server says until it hangs up.
async fn raw(bytes: &[u8]) -> (Vec<u8>, Result<(), ServeError>) {
    let (mut read, mut write, serving) = start(Store::default());
    let mut said = b"cxin\0\0\0\0".to_vec();
    said.extend_from_slice(&0x125_u64.to_le_bytes());
    said.extend_from_slice(&[0; 16]);
    said.extend_from_slice(bytes);
    let writing = tokio::spawn(async move {
        // The server may hang up before it has read all of it.
        let _ = write.write_all(&said).await;
        let _ = write.shutdown().await;
        write
    });
    let mut heard = Vec::new();
    read.read_to_end(&mut heard).await.unwrap();
    let outcome = serving.await.unwrap();
    drop(writing.await.unwrap());
    (heard[48..].to_vec(), outcome)
}

/// The error message in the bytes of one error, and nothing behind it.
fn one_error(heard: &[u8]) -> String {
    let mut on = Negotiated::plain(Version { major: 1, minor: 37 }, StoreDir::default());
    on.limits = Limits::default();
    assert_eq!(heard[..8], 0x6378_7470_u64.to_le_bytes());
    nixci_protocol::wire::decode_all::<RemoteError>(&on, &heard[8..])
        .unwrap()
        .message
}

#[tokio::test]
async fn malformed_requests_get_one_error_that_names_them() {
    let path = b"/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-foo";
    let mut padded = words(&[1, 47]);
    padded.extend_from_slice(path);
    padded.push(1);
    let mut foreign = words(&[1, 10]);
    foreign.extend_from_slice(b"/not/store\0\0\0\0\0\0");
    let mut frame = words(&[44, 0, 1]);
    frame.extend_from_slice(&words(&[1 << 40]));
    let mut too_many = words(&[44, 0, 1, 8]);
    too_many.extend_from_slice(&words(&[2_000_000]));
    too_many.extend_from_slice(&words(&[0]));
    for (bytes, expected) in [
        (words(&[999]), "operation 999: invalid operation 999"),
        (words(&[1 << 32]), "operation 4294967296: invalid operation 4294967296"),
        (words(&[0x6e63_6901]), "QueryValidBatch: invalid operation 1852008705"),
        (
            words(&[1, 9_000_000]),
            "IsValidPath: string of 9000000 bytes exceeds max_string (65536)",
        ),
        (
            padded,
            "IsValidPath: string of 47 bytes is padded with 0x01, not with zeros",
        ),
        (
            foreign,
            "IsValidPath: path \"/not/store\" is not in the store directory /nix/store",
        ),
        (words(&[35, 0, 2]), "VerifyStore: 2 is not a valid bool"),
        (words(&[9, 0, 7]), "BuildPaths: 7 is not a valid build mode"),
        (
            words(&[31, 5_000_000]),
            "QueryValidPaths: list of 5000000 items exceeds max_items (1000000)",
        ),
    ] {
        let (heard, outcome) = raw(&bytes).await;
        assert_eq!(one_error(&heard), expected);
        assert_eq!(outcome.unwrap_err().to_string(), expected);
    }
    let (heard, outcome) = raw(&frame).await;
    let message = "malformed stream of paths";
    assert!(
        one_error(&heard).contains("frame of 1099511627776 bytes exceeds max_frame (16777216)"),
        "{message}"
    );
    assert!(outcome.is_err());
    // A stream that is wrong inside of good frames is the handler's error, and the connection stays.
    let (heard, outcome) = raw(&too_many).await;
    let expected = "malformed stream of paths: list of 2000000 items exceeds max_paths (1000000)";
    assert_eq!(one_error(&heard), expected);
    outcome.unwrap();
}

#[tokio::test]
async fn a_client_that_hangs_up_in_the_middle_ends_its_own_connection() {
    let mut request = words(&[1, 47]);
    request.extend_from_slice(b"/nix/store/");
    for (bytes, expected) in [
        (&b""[..], None),
        (&request[..3], Some("the client hung up during the next operation")),
        (&request, Some("the client hung up during IsValidPath")),
        (
            &words(&[44, 0, 1, 8]),
            Some("AddMultipleToStore: the client hung up in the middle of what it sent"),
        ),
    ] {
        let (mut read, mut write, serving) = start(Store::default());
        let mut said = b"cxin\0\0\0\0".to_vec();
        said.extend_from_slice(&0x125_u64.to_le_bytes());
        said.extend_from_slice(&[0; 16]);
        said.extend_from_slice(bytes);
        write.write_all(&said).await.unwrap();
        write.shutdown().await.unwrap();
        read.read_to_end(&mut Vec::new()).await.unwrap();
        let found = serving.await.unwrap().err().map(|error| error.to_string());
        assert_eq!(found.as_deref(), expected);
    }
}

/// Plays a server: answers a handshake of 1.37 with `said` behind it.
async fn against(said: Vec<u8>) -> Result<Connection, Error> {
    let (client, server) = duplex(1 << 16);
    let (read, write) = split(client);
    let (mut server_read, mut server_write) = split(server);
    tokio::spawn(async move {
        let mut bytes = b"oixd\0\0\0\0".to_vec();
        bytes.extend_from_slice(&0x125_u64.to_le_bytes());
        bytes.extend_from_slice(b"\x06\0\0\0\0\0\0\x002.34.8\0\0\x01\0\0\0\0\0\0\0");
        bytes.extend_from_slice(&said);
        server_write.write_all(&bytes).await.unwrap();
        let mut heard = Vec::new();
        let _ = server_read.read_to_end(&mut heard).await;
    });
    Connection::open(read, write, Hello::default()).await
}

#[tokio::test]
async fn a_server_that_refuses_or_talks_nonsense_is_named() {
    let mut refusal = BytesMut::new();
    let on = Negotiated::plain(Version { major: 1, minor: 37 }, StoreDir::default());
    refusal.extend_from_slice(&0x6378_7470_u64.to_le_bytes());
    RemoteError::new("cannot open store").encode(&on, &mut refusal);
    let error = against(refusal.to_vec()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server refused the connection: cannot open store"
    );

    let error = against(words(&[0x1234])).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the server sent something malformed: unexpected message 0x1234 on the log channel"
    );
}

#[tokio::test]
async fn bytes_nobody_asked_for_make_a_connection_unusable() {
    let mut connection = against(words(&[LAST, LAST])).await.unwrap();
    let error = connection
        .call(&IsValidPath { path: path("x") }, &mut ())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NotReusable), "{error}");
}

#[tokio::test]
async fn an_operation_the_peer_does_not_know_is_not_sent() {
    let mut connection = against(words(&[LAST])).await.unwrap();
    let error = connection.call(&QueryValidBatch::default(), &mut ()).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "QueryValidBatch needs the feature nixci-closure-1, which the peer does not have"
    );
    assert!(connection.is_reusable());
}

/// All that a server answers to somebody who says this and then waits.
async fn heard_by(said: &[u8]) -> (Vec<u8>, Result<(), ServeError>) {
    let (mut read, mut write, serving) = start(Store::default());
    write.write_all(said).await.unwrap();
    let mut heard = vec![0; 4096];
    let mut filled = 0;
    loop {
        match read.read(&mut heard[filled..]).await.unwrap() {
            0 => break,
            taken => filled += taken,
        }
    }
    drop((read, write));
    heard.truncate(filled);
    (heard, serving.await.unwrap())
}

#[tokio::test]
async fn a_client_of_another_time_reads_why_it_is_not_served() {
    for (version, shown) in [(0x10a, "1.10"), (0x111, "1.17"), (0x026, "0.38")] {
        let mut said = b"cxin\0\0\0\0".to_vec();
        // It says all it has to say before it looks at the answer.
        said.extend_from_slice(&words(&[version, 0, 0]));
        let (heard, outcome) = heard_by(&said).await;
        let text =
            format!("error: this daemon speaks protocol 1.18 to 1.38, this client {shown}; use Nix 2.0 or later there");
        let mut expected = words(&[0x6478_696f, 0x126, 0x6378_7470, text.len() as u64]);
        expected.extend_from_slice(text.as_bytes());
        expected.resize(expected.len().next_multiple_of(8), 0);
        expected.extend_from_slice(&words(&[1]));
        assert_eq!(heard, expected);
        assert!(matches!(outcome, Err(ServeError::Handshake(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn who_speaks_http_is_answered_in_http_and_others_with_silence() {
    let (heard, outcome) = heard_by(b"GET /nix-cache-info HTTP/1.1\r\nHost: ci\r\n\r\n").await;
    let heard = String::from_utf8(heard).unwrap();
    assert!(heard.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{heard}");
    assert!(heard.ends_with("use it as a store: unix://PATH\n"), "{heard}");
    assert!(matches!(outcome, Err(ServeError::Handshake(_))), "{outcome:?}");
    let (heard, _) = heard_by(b"SSH-2.0-OpenSSH_9.6\r\n").await;
    assert_eq!(heard, b"");
}
