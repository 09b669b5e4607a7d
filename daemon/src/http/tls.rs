//! TLS in the daemon itself, where no reverse proxy does it.
//!
//! The certificate is read again when its file changes, so that whatever renews it need not tell the daemon. What cannot be
//! used then is said in the log, and the old one stays.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use secrecy::ExposeSecret as _;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::{SecretError, SecretFile, Tls};

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(20);
/// What is spoken inside, the better one first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// Why a certificate or its key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The certificate cannot be read.
    #[error("`tls_certificate_file` {path}: {why}", path = .path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        why: String,
    },
    /// The key's file cannot be used.
    #[error("`tls_key_file` {path}: {source}", path = .path.display())]
    KeyFile {
        /// The file.
        path: PathBuf,
        /// Why.
        source: SecretError,
    },
    /// The file holds no key.
    #[error("`tls_key_file` {path} holds no private key in PEM that can be read", path = .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
    },
    /// They do not belong together, or are of a kind that is not known.
    #[error("`tls_certificate_file` {path} and its key cannot be used: {source}", path = .path.display())]
    Unfit {
        /// The certificate's file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
}

/// The certificate that is shown now. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Certificate(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    files: Tls,
    // Held for a copy.
    now: Mutex<Shown>,
}

#[derive(Clone)]
struct Shown {
    acceptor: TlsAcceptor,
    made_of: Made,
}

impl std::fmt::Debug for Shown {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shown")
            .field("made_of", &self.made_of)
            .finish_non_exhaustive()
    }
}

/// What tells that a file has changed: when, and how long it is. None where it is not there.
type Made = [Option<(SystemTime, u64)>; 2];

impl Certificate {
    /// Reads both files. Blocks.
    pub(crate) fn open(files: &Tls) -> Result<Self, TlsError> {
        crate::tls::install_provider();
        let now = Mutex::new(read(files)?);
        Ok(Self(Arc::new(Inner {
            files: files.clone(),
            now,
        })))
    }

    /// What greets the next connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.0
            .now
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .acceptor
            .clone()
    }

    /// Reads the files again whenever they change, until `stop`.
    pub(crate) async fn watch(self, stop: CancellationToken) {
        let mut beat = tokio::time::interval(LOOK);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(beat.tick()).await.is_some() {
            let this = self.clone();
            if tokio::task::spawn_blocking(move || this.look()).await.is_err() {
                return;
            }
        }
    }

    /// Reads the files again if they have changed. Blocks.
    fn look(&self) {
        let files = &self.0.files;
        let made_of = made(files);
        let known = self.0.now.lock().unwrap_or_else(PoisonError::into_inner).made_of;
        if made_of == known {
            return;
        }
        match read(files) {
            Ok(shown) => {
                *self.0.now.lock().unwrap_or_else(PoisonError::into_inner) = shown;
                info!(
                    "the certificate in {} is shown from now on",
                    files.certificate.display()
                );
            }
            Err(error) => {
                // Said once for each change.
                self.0.now.lock().unwrap_or_else(PoisonError::into_inner).made_of = made_of;
                warn!("the certificate was changed and cannot be used, so the old one stays: {error}");
            }
        }
    }
}

fn made(files: &Tls) -> Made {
    let of = |path: &Path| {
        let about = std::fs::metadata(path).ok()?;
        Some((about.modified().ok()?, about.len()))
    };
    [of(&files.certificate), of(&files.key.path)]
}

fn read(files: &Tls) -> Result<Shown, TlsError> {
    // Looked at before, so that what changes meanwhile is read again.
    let made_of = made(files);
    let path = &files.certificate;
    let unreadable = |why: String| TlsError::Certificate {
        path: path.clone(),
        why,
    };
    let pem = std::fs::read(path).map_err(|error: io::Error| unreadable(format!("failed to read it: {error}")))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| unreadable(format!("it is no PEM that can be read: {error}")))?;
    if chain.is_empty() {
        return Err(unreadable("it holds no certificate in PEM".to_owned()));
    }
    let key = key(&files.key)?;
    let unfit = |source| TlsError::Unfit {
        path: path.clone(),
        source,
    };
    let mut config = ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unfit)?;
    config.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).into();
    Ok(Shown {
        acceptor: TlsAcceptor::from(Arc::new(config)),
        made_of,
    })
}

fn key(file: &SecretFile) -> Result<PrivateKeyDer<'static>, TlsError> {
    let text = file.read().map_err(|source| TlsError::KeyFile {
        path: file.path.clone(),
        source,
    })?;
    PrivateKeyDer::from_pem_slice(text.expose_secret().as_bytes()).map_err(|_| TlsError::NoKey {
        path: file.path.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_shown_is_said() {
        use std::os::unix::fs::PermissionsExt as _;

        let dir = tempfile::tempdir().unwrap();
        let files = Tls {
            certificate: dir.path().join("cert.pem"),
            key: SecretFile {
                path: dir.path().join("key.pem"),
                line: None,
            },
        };
        let error = || Certificate::open(&files).unwrap_err().to_string();
        assert!(
            error().contains("cert.pem") && error().contains("failed to read"),
            "{}",
            error()
        );
        std::fs::write(&files.certificate, "nothing").unwrap();
        assert!(error().contains("holds no certificate"), "{}", error());
        let pem = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        std::fs::write(&files.certificate, pem).unwrap();
        assert!(error().contains("key.pem"), "{}", error());
        std::fs::write(&files.key.path, "the secret").unwrap();
        std::fs::set_permissions(&files.key.path, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert!(error().contains("everybody can read it"), "{}", error());
        std::fs::set_permissions(&files.key.path, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(error().contains("holds no private key"), "{}", error());
        assert!(!error().contains("the secret"));
    }
}
