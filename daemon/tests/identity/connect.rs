//! The door itself: who is let in, what the others hear, and what comes after the switch.

use std::net::SocketAddr;

use nixci_daemon::config::{HashFrom, HttpRead, Projects, Right, Token};
use nixci_daemon::{Config, Running, TokenHash, start};
use nixci_protocol::client::Connection;
use nixci_protocol::nixci::control::{Info, Request};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::common;
use crate::upgrade::{ASKED, AnyStream, bearer, connect, hello, switch, turned};

pub(crate) const GOOD: &str = "a token that may submit everything";

/// Tokens of the configuration.
pub(crate) fn token(name: &str, text: &str, rights: &[Right]) -> Token {
    Token {
        name: name.to_owned(),
        hash: HashFrom::Here(TokenHash::of(text).unwrap()),
        rights: rights.to_vec(),
        projects: Projects::All,
        expires: None,
    }
}

async fn world(change: impl FnOnce(&mut Config)) -> (TestDaemon, tempfile::TempDir, Running, SocketAddr) {
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let mut config = common::config(home.path(), &store, 1);
    config.tokens = vec![
        token("runner", GOOD, &[Right::Read, Right::Submit]),
        token("idle", "a token that may do nothing", &[]),
        Token {
            expires: Some(1_000),
            ..token("old", "a token that has expired", &[Right::Submit])
        },
    ];
    change(&mut config);
    let daemon = start(config).await.unwrap();
    let http = daemon.http_addr.unwrap();
    (store, home, daemon, http)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runner_submits_over_http_as_on_the_socket() {
    let (store, _home, daemon, http) = world(|_| {}).await;
    let mut connection = connect(http, GOOD).await.unwrap();
    let info: Info = common::ask(&mut connection, &Request::Info).await;
    assert_eq!((info.principal.as_str(), info.trusted), ("token:runner", false));
    let drvs = store.instantiate("door", &[TestDrv::good("a"), TestDrv::failing("b")]);
    let evaluation = common::submit(&mut connection, &store, "k", &drvs).await;
    let watched = common::watch(&mut connection, evaluation).await;
    assert_eq!(watched.outcomes.len(), 2);
    daemon.stop().await;
}

#[rstest]
#[case::everybody_reads(HttpRead::Everyone)]
#[case::tokens_read(HttpRead::Token)]
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_hears_why(#[case] read: HttpRead) {
    let (_store, _home, daemon, http) = world(|config| config.listen.http_read = read).await;
    let no_upgrade = format!("Authorization: Bearer {GOOD}\r\n");
    let elsewhere = format!("Connection: Upgrade\r\nUpgrade: websocket\r\n{no_upgrade}");
    for (headers, status, words) in [
        (ASKED.to_owned(), 401, "this needs a token"),
        (String::new(), 401, "this needs a token"),
        (bearer("a token that nobody has"), 401, "not known here"),
        (bearer("a token that has expired"), 401, "has expired"),
        (bearer(&"x".repeat(17_000)), 401, "more than 16384 bytes"),
        (bearer(&"x".repeat(30_000)), 401, "this needs a token"),
        (bearer("a token that may do nothing"), 403, "lacks the right `submit`"),
        (no_upgrade, 426, "a reverse proxy in front must pass both on"),
        (elsewhere, 426, "a reverse proxy in front must pass both on"),
    ] {
        let said = turned(http, &headers).await;
        let named = &headers[..headers.len().min(200)];
        assert_eq!(said.status, status, "{named}: {said:?}");
        assert!(said.text.contains(words), "{named}: {said:?}");
        assert_eq!(said.text.matches('\n').count(), 1, "one line: {said:?}");
        let asks = said.head.to_lowercase().contains("www-authenticate: bearer");
        assert_eq!(asks, status == 401, "{said:?}");
    }
    connect(http, GOOD).await.unwrap();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_greeting_may_come_with_the_request() {
    let (_store, _home, daemon, http) = world(|_| {}).await;
    // What a client says first, caught from a real one.
    let (ours, theirs) = tokio::io::duplex(4_096);
    let (read, write) = tokio::io::split(theirs);
    let opening = tokio::spawn(Connection::open(read, write, hello()));
    let (mut from_client, mut to_client) = tokio::io::split(ours);
    let mut first = vec![0; 4_096];
    let said = from_client.read(&mut first).await.unwrap();
    let mut stream = TcpStream::connect(http).await.unwrap();
    let mut request = format!("GET /connect HTTP/1.1\r\nHost: x\r\n{}\r\n", bearer(GOOD)).into_bytes();
    request.extend_from_slice(&first[..said]);
    stream.write_all(&request).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "));
    let (mut from_daemon, mut to_daemon) = stream.into_split();
    tokio::spawn(async move { tokio::io::copy(&mut from_daemon, &mut to_client).await });
    tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_daemon).await });
    let mut connection = opening.await.unwrap().unwrap();
    let info: Info = common::ask(&mut connection, &Request::Info).await;
    assert_eq!(info.principal, "token:runner");
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_counted_for_each_holder_and_end_with_the_daemon() {
    let (_store, _home, daemon, http) = world(|config| {
        config.limits.connections_per_user = 2;
        config
            .tokens
            .push(token("other", "the token of somebody else", &[Right::Submit]));
    })
    .await;
    let mut first = connect(http, GOOD).await.unwrap();
    let second = connect(http, GOOD).await.unwrap();
    let full = connect(http, GOOD).await.map(drop).unwrap_err();
    assert_eq!(full.status, 503, "{full:?}");
    assert!(full.text.contains("`connections_per_user`") && full.head.to_lowercase().contains("retry-after"));
    let other = connect(http, "the token of somebody else").await.unwrap();
    drop((second, other));
    let again = tokio::time::timeout(std::time::Duration::from_secs(10), async {
        loop {
            // The daemon hears of the end a moment later.
            if let Ok(connection) = connect(http, GOOD).await {
                return connection;
            }
            tokio::task::yield_now().await;
        }
    });
    let again = again.await.expect("a place comes free");
    drop(again);
    daemon.stop().await;
    first.hung_up().await;
    let stream = TcpStream::connect(http).await;
    assert!(stream.is_err(), "nobody listens any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_shake_hands_is_let_go() {
    let (_store, _home, daemon, http) = world(|config| {
        config.limits.handshake_time = std::time::Duration::from_millis(200);
    })
    .await;
    let stream: AnyStream = Box::pin(TcpStream::connect(http).await.unwrap());
    let mut switched = switch(stream, &bearer(GOOD)).await.unwrap();
    let mut rest = Vec::new();
    switched.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"");
    daemon.stop().await;
}
