//! The door inside TLS, by the daemon itself and behind a reverse proxy.

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use nixci_daemon::config::{Right, SecretFile, Tls};
use nixci_daemon::{Running, start};
use nixci_protocol::client::Connection;
use nixci_protocol::nixci::control::{Info, Request};
use nixci_store::testing::{NixVersion, TestDaemon, poll_until};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;

use crate::common;
use crate::connect::{GOOD, token};
use crate::upgrade::{AnyStream, bearer, hello, switch};

/// A certificate of `localhost` that signs itself, made by `openssl`.
fn certificate(folder: &Path) -> Tls {
    let (certificate, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    let made = Command::new("openssl")
        .args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '))
        .args([
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=DNS:localhost,IP:127.0.0.1",
        ])
        .args(["-addext", "basicConstraints=critical,CA:FALSE"])
        .arg("-keyout")
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    Tls {
        certificate,
        key: SecretFile { path: key, line: None },
    }
}

fn trusting(certificate: &Path, protocols: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(certificate).unwrap()).unwrap();
    let mut config = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

async fn inside(connector: &TlsConnector, to: SocketAddr) -> std::io::Result<AnyStream> {
    let stream = TcpStream::connect(to).await?;
    let name = ServerName::try_from("localhost").unwrap();
    Ok(Box::pin(connector.connect(name, stream).await?))
}

async fn principal(stream: AnyStream) -> String {
    let (read, write) = tokio::io::split(switch(stream, &bearer(GOOD)).await.unwrap());
    let mut connection = Connection::open(read, write, hello()).await.unwrap();
    let info: Info = common::ask(&mut connection, &Request::Info).await;
    info.principal
}

async fn daemon(home: &Path, store: &TestDaemon, tls: Option<Tls>) -> Running {
    let mut config = common::config(home, store, 1);
    config.tokens = vec![token("runner", GOOD, &[Right::Submit])];
    config.listen.tls = tls;
    start(config).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_speaks_tls_by_itself_and_takes_a_new_certificate() {
    nixci_daemon::tls::install_provider();
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let files = certificate(home.path());
    let daemon = daemon(home.path(), &store, Some(files.clone())).await;
    let http = daemon.http_addr.unwrap();
    let first = trusting(&files.certificate, &[b"http/1.1"]);
    assert_eq!(principal(inside(&first, http).await.unwrap()).await, "token:runner");
    // Pages too, over HTTP/2 where the client likes that better.
    let pem = std::fs::read(&files.certificate).unwrap();
    let client = reqwest::Client::builder()
        .tls_certs_only([reqwest::Certificate::from_pem(&pem).unwrap()])
        .build()
        .unwrap();
    let page = client
        .get(format!("https://localhost:{}/healthz", http.port()))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (page.status().as_u16(), page.version()),
        (200, reqwest::Version::HTTP_2)
    );
    assert!(
        daemon
            .ci
            .info(&nixci_daemon::Principal::http())
            .pages
            .unwrap()
            .starts_with("https://")
    );
    // Who speaks no TLS is let go, and the next is served.
    let plain: Result<(), reqwest::Error> = client.get(format!("http://{http}/")).send().await.map(drop);
    assert!(plain.is_err());
    // A certificate that was renewed is shown without a restart.
    let renewed = certificate(home.path());
    let second = trusting(&renewed.certificate, &[b"http/1.1"]);
    let stream = tokio::task::block_in_place(|| {
        poll_until("the new certificate", || {
            tokio::runtime::Handle::current().block_on(inside(&second, http)).ok()
        })
    });
    assert_eq!(principal(stream).await, "token:runner");
    assert!(inside(&first, http).await.is_err(), "the old one is not shown any more");
    daemon.stop().await;
}

/// A reverse proxy in front: TLS outside, plain inside.
#[tokio::test(flavor = "multi_thread")]
async fn the_door_works_behind_a_reverse_proxy() {
    nixci_daemon::tls::install_provider();
    let store = TestDaemon::start(NixVersion::V2_34);
    let home = tempfile::tempdir().unwrap();
    let files = certificate(home.path());
    let daemon = daemon(home.path(), &store, None).await;
    let behind = daemon.http_addr.unwrap();
    let proxy = crate::proxy::start(behind, home.path(), &files);
    let connector = trusting(&files.certificate, &[b"http/1.1"]);
    let stream = tokio::task::block_in_place(|| {
        poll_until("the proxy", || {
            tokio::runtime::Handle::current()
                .block_on(inside(&connector, proxy.address()))
                .ok()
        })
    });
    assert_eq!(principal(stream).await, "token:runner");
    let refused = switch(
        inside(&connector, proxy.address()).await.unwrap(),
        &bearer("somebody else's token"),
    )
    .await;
    assert_eq!(refused.err().map(|turned| turned.status), Some(401));
    daemon.stop().await;
    let listener = TcpListener::bind(behind).await;
    assert!(listener.is_ok(), "the daemon let go of its port");
}
