//! Hostile clients of the HTTP door.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use nixci_protocol::op::AddTextToStore;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Scene;
use super::raw::PATIENCE;
use crate::common::connect;

/// What a new client may wait while others hold connections and say nothing. The daemon gives them a minute for a head.
const AT_ONCE: Duration = Duration::from_secs(10);

fn address(scene: &Scene) -> SocketAddr {
    scene.service.http()
}

/// Says something, and returns the beginning of what is answered until the daemon hangs up.
async fn answer(to: SocketAddr, said: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let talking = async {
        drop(stream.write_all(said).await);
        // A whole request waits for its answer; what is not one ends.
        if !said.ends_with(b"\r\n\r\n") {
            drop(stream.shutdown().await);
        }
        let mut heard = Vec::new();
        // Closed with something unread, a connection is reset; what came before counts.
        drop(stream.read_to_end(&mut heard).await);
        heard
    };
    let heard = tokio::time::timeout(PATIENCE, talking)
        .await
        .expect("the daemon hangs up");
    String::from_utf8_lossy(&heard).into_owned()
}

fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: ci\r\nConnection: close\r\n{headers}\r\n").into_bytes()
}

/// The status, 0 where there is no answer.
async fn status(to: SocketAddr, said: &[u8]) -> u16 {
    let answer = answer(to, said).await;
    let status = answer.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.map_or(0, |status| status.parse().unwrap())
}

async fn works(to: SocketAddr) {
    assert_eq!(status(to, &get("/nix-cache-info", "")).await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_over_http_is_refused_and_the_next_request_is_served() {
    let scene = Scene::new().await;
    let to = address(&scene);
    let text = AddTextToStore {
        name: "known".to_owned(),
        text: "known".into(),
        references: std::collections::BTreeSet::new(),
    };
    let path = connect(&scene.socket()).await.call(&text, &mut ()).await.unwrap();
    let narinfo = format!("/{}.narinfo", &path.base_name()[..32]);
    let told = answer(to, &get(&narinfo, "")).await;
    let nar = told
        .lines()
        .find_map(|line| line.strip_prefix("URL: "))
        .expect("it is known")
        .to_owned();
    let nar = format!("/{nar}");
    assert_eq!(status(to, &get(&nar, "")).await, 200);

    let many = (0..1_000).map(|n| format!("{n}-{n}")).collect::<Vec<_>>().join(",");
    for range in [
        "bytes=5-2",
        "bytes=99999999-",
        "bytes=-0",
        "bytes=-99999999999",
        "bytes=0-18446744073709551616",
        "bytes=18446744073709551615-18446744073709551615",
        "bytes=a-b",
        "bytes=",
        "lines=1-2",
        &format!("bytes={many}"),
    ] {
        let status = status(to, &get(&nar, &format!("Range: {range}\r\n"))).await;
        assert!(matches!(status, 200 | 206 | 416), "{range}: {status}");
    }
    let long = "x".repeat(300_000);
    let headers = (0..5_000).map(|n| format!("X-{n}: y\r\n")).collect::<Vec<_>>().concat();
    let mut wrong = Vec::new();
    for (said, expected) in [
        (get("/", &format!("X-Long: {long}\r\n")), &[431, 0][..]),
        (get("/", &headers), &[431, 0]),
        (get(&format!("/{long}"), ""), &[414, 431, 0]),
        (get("/nar/../../../etc/passwd", ""), &[404]),
        (get("/nar/%2e%2e%2f%2e%2e%2fetc%2fpasswd", ""), &[400, 404]),
        (get("/%00%00.narinfo", ""), &[400, 404]),
        (get("/%ff%fe.narinfo", ""), &[400, 404]),
        (get("/7lmww5ks62qvwklysqlsfbn6p4yl2ij.narinfo", ""), &[400, 404]),
        (get("/eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee.narinfo", ""), &[400, 404]),
        (get("/log/..%2f..%2fetc", ""), &[400, 404]),
        (get("/realisations/sha256:zz!out.doi", ""), &[400, 404]),
        (get("/nix-cache-info", "Content-Length: -1\r\n"), &[400, 0]),
        (
            get("/nix-cache-info", "Content-Length: 99999999999999999999\r\n"),
            &[400, 413, 0],
        ),
        (get("/nix-cache-info", "If-None-Match: \"\\\r\n"), &[200, 400]),
        (
            b"GET /nix-cache-info HTTP/1.1\r\nHost: ci\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"
                .to_vec(),
            &[200, 400, 0],
        ),
        (b"\0\0\0\0\0\0\0\0\r\n\r\n".to_vec(), &[400, 0]),
        (
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff".to_vec(),
            &[0],
        ),
        (b"GET ".to_vec(), &[400, 0]),
    ] {
        let status = status(to, &said).await;
        let shown = String::from_utf8_lossy(&said[..said.len().min(100)]).into_owned();
        if !expected.contains(&status) {
            wrong.push(format!("{shown:?}: {status}"));
        }
        works(to).await;
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_holds_http_connections_and_says_nothing_keeps_nobody_out() {
    let scene = Scene::with("[limits]\nconnections = 40\n").await;
    let to = address(&scene);
    let mut held = Vec::new();
    for n in 0..200 {
        let mut stream = TcpStream::connect(to).await.unwrap();
        if n % 2 == 0 {
            drop(stream.write_all(b"GET / HTTP/1.1\r\nHost: ").await);
        }
        held.push(stream);
    }
    let began = Instant::now();
    for _ in 0..20 {
        works(to).await;
    }
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    drop(held);
    scene.others_go_on().await;
}
