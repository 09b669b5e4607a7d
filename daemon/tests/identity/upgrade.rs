//! A client of the HTTP door as simple as can be: it writes the request by hand.

use std::net::SocketAddr;
use std::pin::Pin;

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::nixci::{FEATURE_CLOSURE, FEATURE_CONTROL};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Bytes both ways.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}
pub(crate) type AnyStream = Pin<Box<dyn Stream>>;

/// What the door said in place of letting somebody in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Turned {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) text: String,
}

/// The headers of a good request, but for the token.
pub(crate) const ASKED: &str = "Connection: keep-alive, Upgrade\r\nUpgrade: nix-worker-protocol\r\n";

pub(crate) fn bearer(token: &str) -> String {
    format!("{ASKED}Authorization: Bearer {token}\r\n")
}

pub(crate) fn hello() -> Hello {
    Hello {
        features: vec![FEATURE_CLOSURE.to_owned(), FEATURE_CONTROL.to_owned()],
        ..Hello::default()
    }
}

/// Connects with a token and shakes hands.
pub(crate) async fn connect(to: SocketAddr, token: &str) -> Result<Connection, Turned> {
    let stream: AnyStream = Box::pin(TcpStream::connect(to).await.unwrap());
    let switched = switch(stream, &bearer(token)).await?;
    let (read, write) = tokio::io::split(switched);
    Ok(Connection::open(read, write, hello()).await.unwrap())
}

/// Asks for the switch of protocols, with these headers.
pub(crate) async fn switch(mut stream: AnyStream, headers: &str) -> Result<AnyStream, Turned> {
    let request = format!("GET /connect HTTP/1.1\r\nHost: nixci\r\n{headers}\r\n");
    // It may be refused before all of it was sent.
    drop(stream.write_all(request.as_bytes()).await);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(error) => panic!("the answer ends early: {error}: {}", String::from_utf8_lossy(&head)),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    if status == 101 {
        let lower = head.to_lowercase();
        assert!(lower.contains("upgrade: nix-worker-protocol\r\n"), "{head}");
        assert!(lower.contains("connection: upgrade\r\n"), "{head}");
        return Ok(stream);
    }
    let length = head
        .lines()
        .find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let mut text = vec![0; length];
    stream.read_exact(&mut text).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    Err(Turned { status, head, text })
}

/// What the door says to a request without a switch.
pub(crate) async fn turned(to: SocketAddr, headers: &str) -> Turned {
    let stream: AnyStream = Box::pin(TcpStream::connect(to).await.unwrap());
    match switch(stream, headers).await {
        Ok(_) => panic!("it was let in: {headers}"),
        Err(turned) => turned,
    }
}
