//! Clients that send bodies in the ways of old.

use bytes::BytesMut;
use nixci_protocol::io::{PathStreamWriter, StreamKind, put_frame};
use nixci_protocol::op::{Reply, Request};
use nixci_protocol::server::{Exchange, Handler, HandlerError, ServerHello, serve};
use nixci_protocol::types::{StoreDir, Trust};
use nixci_protocol::version::Version;
use nixci_protocol::wire::{Limits, Negotiated, Wire};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf, duplex, split};

use crate::fixture::*;

#[tokio::test]
async fn old_clients_send_nars_in_their_own_ways() {
    // 1.21, as Nix 2.3: AddToStoreNar is pulled. 1.22 the same; 1.20 sends it bare.
    let add = |minor: u64| {
        let mut bytes = b"cxin\0\0\0\0".to_vec();
        bytes.extend_from_slice(&(0x100 | minor).to_le_bytes());
        bytes.extend_from_slice(&[0; 16]);
        let mut out = BytesMut::new();
        let on = Negotiated::plain(
            Version {
                major: 1,
                minor: minor as u8,
            },
            StoreDir::default(),
        );
        39_u64.encode(&on, &mut out);
        info("old").encode(&on, &mut out);
        false.encode(&on, &mut out);
        true.encode(&on, &mut out);
        bytes.extend_from_slice(&out);
        bytes
    };
    for minor in [20, 21] {
        let (mut read, mut write, serving) = start_old();
        let mut bytes = add(minor);
        if minor == 20 {
            bytes.extend_from_slice(HELLO_NAR);
        }
        write.write_all(&bytes).await.unwrap();
        let mut heard = vec![0; 24];
        read.read_exact(&mut heard).await.unwrap();
        assert_eq!(heard[16..], LAST.to_le_bytes());
        if minor == 21 {
            for piece in [&HELLO_NAR[..13], &HELLO_NAR[13..]] {
                let mut wanted = [0; 16];
                read.read_exact(&mut wanted).await.unwrap();
                assert_eq!(wanted[..8], 0x6461_7461_u64.to_le_bytes());
                let mut chunk = words(&[piece.len() as u64]);
                chunk.extend_from_slice(piece);
                chunk.resize(chunk.len().next_multiple_of(8), 0);
                write.write_all(&chunk).await.unwrap();
            }
        }
        let mut last = [0; 8];
        read.read_exact(&mut last).await.unwrap();
        assert_eq!(last, LAST.to_le_bytes());
        // Still in step: an AddToStore of one file in the old form.
        let mut bytes = words(&[7, 1]);
        bytes.extend_from_slice(b"x\0\0\0\0\0\0\0");
        bytes.extend_from_slice(&words(&[1, 0, 6]));
        bytes.extend_from_slice(b"sha256\0\0");
        bytes.extend_from_slice(HELLO_NAR);
        write.write_all(&bytes).await.unwrap();
        let mut reply = vec![0; 64];
        read.read_exact(&mut reply).await.unwrap();
        assert_eq!(reply[..8], LAST.to_le_bytes());
        assert_eq!(&reply[16..61], b"/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-x");
        drop((read, write));
        serving.await.unwrap().unwrap();
    }
}

/// Takes a NAR or a file's content and checks that it is the one.
struct Old;

impl Handler for Old {
    async fn handle(&mut self, request: Request, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError> {
        let mut body = Vec::new();
        exchange.body().read_to_end(&mut body).await?;
        match request {
            Request::AddToStoreNar(_) => {
                assert_eq!(body, HELLO_NAR);
                Ok(Reply::Done)
            }
            Request::AddToStore(_) => {
                assert_eq!(body, b"hello\n");
                Ok(info("x").into())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn start_old() -> (ReadHalf<DuplexStream>, WriteHalf<DuplexStream>, Serving) {
    let (client, server) = duplex(4096);
    let (server_read, server_write) = split(server);
    let hello = ServerHello {
        version_text: "2.34.8".to_owned(),
        trust: Trust::Trusted,
        features: Vec::new(),
        store_dir: StoreDir::default(),
        limits: Limits::default(),
    };
    let serving = tokio::spawn(serve(server_read, server_write, hello, Old));
    let (read, write) = split(client);
    (read, write, serving)
}

#[tokio::test]
async fn frames_may_be_cut_anywhere() {
    let store = Store::default();
    let added = store.added.clone();
    let (mut read, mut write, serving) = start(store);
    let mut stream = PathStreamWriter::new(StreamKind::Counted, 2, StoreDir::default(), Vec::new());
    stream.add(&info("a"), HELLO_NAR).await.unwrap();
    stream.add(&info("b"), HELLO_NAR).await.unwrap();
    let body = stream.finish().await.unwrap();
    let mut said = BytesMut::from(&b"cxin\0\0\0\0"[..]);
    said.extend_from_slice(&words(&[0x125, 0, 0, 44, 0, 1]));
    for piece in body.chunks(7) {
        put_frame(piece, &mut said);
    }
    put_frame(&[], &mut said);
    let reading = tokio::spawn(async move {
        let mut heard = vec![0; 56];
        read.read_exact(&mut heard).await.map(|_| heard)
    });
    for piece in said.chunks(11) {
        write.write_all(piece).await.unwrap();
    }
    let heard = reading.await.unwrap().unwrap();
    assert_eq!(heard[48..], LAST.to_le_bytes());
    assert_eq!(added.lock().unwrap().len(), 2);
    drop(write);
    let _ = serving.await.unwrap();
}
