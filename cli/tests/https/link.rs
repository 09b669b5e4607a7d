//! What lies between a runner and a daemon: TLS, latency, and somebody who counts.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a helper of tests fails by panicking"
)]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, duplex};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

/// What went through since it was last asked, without TLS.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Traffic {
    /// How often the client spoke after it had listened, the first word included: round trips.
    pub(crate) trips: u32,
    /// Bytes from the client, and to it.
    pub(crate) up: u64,
    pub(crate) down: u64,
    /// Connections.
    pub(crate) connections: u32,
    client_spoke_last: bool,
}

/// A listening socket in front of a daemon's.
pub(crate) struct Link {
    address: SocketAddr,
    certificate: PathBuf,
    traffic: Arc<Mutex<Traffic>>,
    _runtime: Runtime,
}

impl Link {
    /// Terminates TLS for `localhost`, by a certificate that is made in `folder`, in front of `to`. A round trip takes
    /// as long as told.
    pub(crate) fn start(folder: &Path, to: SocketAddr, round_trip: Duration) -> Self {
        let certificate = make_certificate(folder);
        let acceptor = acceptor(folder);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).unwrap();
        let address = listener.local_addr().unwrap();
        let traffic: Arc<Mutex<Traffic>> = Arc::default();
        let counted = traffic.clone();
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                client.set_nodelay(true).unwrap();
                let (acceptor, counted) = (acceptor.clone(), counted.clone());
                tokio::spawn(async move {
                    let client = far_away(client, round_trip / 2);
                    // That somebody does not want our certificate is what some tests are about.
                    let Ok(client) = acceptor.accept(client).await else {
                        return;
                    };
                    let server = TcpStream::connect(to).await.unwrap();
                    server.set_nodelay(true).unwrap();
                    counted.lock().unwrap().connections += 1;
                    let (client_read, client_write) = tokio::io::split(client);
                    let (server_read, server_write) = server.into_split();
                    tokio::join!(
                        pass(client_read, server_write, true, &counted),
                        pass(server_read, client_write, false, &counted)
                    );
                });
            }
        });
        Self {
            address,
            certificate,
            traffic,
            _runtime: runtime,
        }
    }

    /// The address that the certificate is for.
    pub(crate) fn url(&self) -> String {
        format!("https://localhost:{}", self.address.port())
    }

    /// The certificate of who signed the link's.
    pub(crate) fn certificate(&self) -> &str {
        self.certificate.to_str().unwrap()
    }

    /// What went through since the last time.
    pub(crate) fn take(&self) -> Traffic {
        std::mem::take(&mut *self.traffic.lock().unwrap())
    }
}

fn openssl(folder: &Path, line: &str) {
    let output = Command::new("openssl")
        .current_dir(folder)
        .args(line.split_whitespace())
        .output()
        .expect("openssl starts: run .ci/setup");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// An authority of the test, and a certificate by it.
fn make_certificate(folder: &Path) -> PathBuf {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(
        folder,
        &format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-authority"),
    );
    openssl(
        folder,
        &format!(
            "req -x509 {key} -keyout link.key -out link.pem -days 2 -subj /CN=localhost -CA ca.pem -CAkey ca.key \
             -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE"
        ),
    );
    folder.join("ca.pem")
}

fn acceptor(folder: &Path) -> TlsAcceptor {
    drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    let chain = vec![CertificateDer::from_pem_file(folder.join("link.pem")).unwrap()];
    let key = PrivateKeyDer::from_pem_file(folder.join("link.key")).unwrap();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// The other end of a socket, so long away in each direction.
fn far_away(socket: TcpStream, delay: Duration) -> DuplexStream {
    let (near, far) = duplex(1 << 20);
    let (socket_read, socket_write) = socket.into_split();
    let (near_read, near_write) = tokio::io::split(near);
    tokio::spawn(carry(socket_read, near_write, delay));
    tokio::spawn(carry(near_read, socket_write, delay));
    far
}

/// Passes on what comes, each piece at its time.
async fn carry(
    mut from: impl AsyncRead + Send + Unpin + 'static,
    mut to: impl AsyncWrite + Send + Unpin + 'static,
    delay: Duration,
) {
    let (sender, mut pieces) = mpsc::channel::<(Instant, Vec<u8>)>(1024);
    tokio::spawn(async move {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            let piece = (Instant::now() + delay, buffer[..read].to_vec());
            if sender.send(piece).await.is_err() {
                break;
            }
        }
    });
    while let Some((at, piece)) = pieces.recv().await {
        tokio::time::sleep_until(at).await;
        if to.write_all(&piece).await.is_err() || to.flush().await.is_err() {
            return;
        }
    }
    // That it is closed already is as well.
    let _ = to.shutdown().await;
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    is_client: bool,
    counted: &Mutex<Traffic>,
) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        {
            let mut traffic = counted.lock().unwrap();
            if is_client {
                traffic.up += read as u64;
                traffic.trips += u32::from(!traffic.client_spoke_last);
            } else {
                traffic.down += read as u64;
            }
            traffic.client_spoke_last = is_client;
        }
        if to.write_all(&buffer[..read]).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}
