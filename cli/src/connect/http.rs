//! A daemon behind HTTP: `GET /connect`, a switch of protocols, and then the worker protocol as on a socket.
//!
//! Proxies are found as everywhere (`HTTPS_PROXY`, `NO_PROXY`), and so are certificates: those of the system or of
//! `SSL_CERT_FILE`, and those of `NIX_SSL_CERT_FILE` besides. Redirects are not followed, for a token would go along.

use std::net::IpAddr;
use std::sync::Once;
use std::time::Duration;

use nixci_protocol::client::{Connection, Hello};
use reqwest::header::{AUTHORIZATION, CONNECTION, HeaderValue, LOCATION, UPGRADE};
use reqwest::{Certificate, Client, ClientBuilder, Response, StatusCode, Url};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::{ExposeSecret as _, SecretString};

use super::About;
use crate::args::Global;
use crate::context::{Env, process_env};
use crate::exit::{Exit, Problem, chain};
use crate::identity::Identity;

/// What is asked for in `Upgrade`.
const PROTOCOL: &str = "nix-worker-protocol";
/// How long name, socket and TLS may take.
const CONNECT_TIME: Duration = Duration::from_secs(15);
/// How long the daemon may take to answer after that, and then to shake hands.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Bytes of an error's text that are read.
const SAID_BYTES: usize = 4096;
/// Characters of it that are shown.
const SAID_CHARS: usize = 400;

/// A daemon behind HTTP, and who we are there.
#[derive(Debug, Clone)]
pub(crate) struct Site {
    url: Url,
    /// As it is written: without a trailing slash.
    name: String,
    identity: Identity,
}

impl Site {
    /// The daemon at `text`, which begins with `https://` or `http://`.
    ///
    /// Fails with exit code 2 where it is no address of one, or where a token would travel in the clear.
    pub(crate) fn new(text: &str, global: &Global, env: Env<'_>) -> Result<Self, Problem> {
        // What follows `@` may be a password's end; such texts are not repeated.
        let url: Url = text
            .parse()
            .ok()
            .filter(Url::has_host)
            .ok_or_else(|| Problem::usage("the address of the daemon is no URL: `https://HOST` is"))?;
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Problem::usage(
                "the address of the daemon has a user or password in it: leave them out, a token says who you are",
            ));
        }
        if url.query().is_some() || url.fragment().is_some() {
            return Err(Problem::usage(format!(
                "`{text}` is no address of a daemon: leave out what follows `?` or `#`"
            )));
        }
        if url.scheme() == "http" && !is_loopback(&url) && !global.insecure_http {
            return Err(Problem::usage(format!(
                "`{text}` would carry your token in the clear: use `https://`, or --insecure-http where the way there is safe"
            )));
        }
        let name = url.as_str().trim_end_matches('/').to_owned();
        let identity = Identity::find(&name, global.token_file.as_deref(), env)?;
        Ok(Self { url, name, identity })
    }

    /// The same daemon, and who we are there by this token alone.
    ///
    /// Fails with exit code 2 where it is none.
    pub(crate) fn with_token(self, token: &SecretString) -> Result<Self, Problem> {
        Ok(Self {
            identity: Identity::given(&self.name, token)?,
            ..self
        })
    }

    /// Who we are there.
    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Its address, without a trailing slash.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Connects and shakes hands, with a token of its own for each connection.
    ///
    /// Fails with exit code 5 where the daemon lets us not in, and 4 where it is not there.
    pub(super) async fn open(&self, about: &About) -> Result<Connection, Problem> {
        let token = self.identity.token().await?;
        let mut address = self.url.clone();
        if let Ok(mut path) = address.path_segments_mut() {
            path.pop_if_empty().push("connect");
        }
        let asking = self
            .client()?
            .get(address)
            .header(AUTHORIZATION, bearer(&token)?)
            .header(CONNECTION, "Upgrade")
            .header(UPGRADE, PROTOCOL)
            .send();
        let response = self.in_time(asking).await?.map_err(|error| {
            Problem::unreachable(format!("cannot reach the daemon at `{}`: {}", self.name, why(error)))
        })?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            return Err(self.refused(response, &token).await);
        }
        let stream = self.in_time(response.upgrade()).await?.map_err(|error| {
            Problem::unreachable(format!("no switch of protocols with `{}`: {}", self.name, why(error)))
        })?;
        let (read, write) = tokio::io::split(stream);
        let hello = Hello {
            features: about.features(),
            store_dir: about.store_dir.clone(),
            // Only nixci answers there.
            at_once: true,
            ..Hello::default()
        };
        let opened = self.in_time(Connection::open(read, write, hello)).await?;
        opened.map_err(|error| Problem::unreachable(format!("no handshake with `{}`: {}", self.name, chain(&error))))
    }

    async fn in_time<T>(&self, work: impl Future<Output = T>) -> Result<T, Problem> {
        tokio::time::timeout(CONNECT_TIME + ANSWER_TIME, work)
            .await
            .map_err(|_| {
                Problem::unreachable(format!(
                    "the daemon at `{}` did not answer within {} s",
                    self.name,
                    (CONNECT_TIME + ANSWER_TIME).as_secs()
                ))
            })
    }

    fn client(&self) -> Result<Client, Problem> {
        let mut builder = builder()?.http1_only();
        if self.url.scheme() == "http" && is_loopback(&self.url) {
            // A proxy would carry the token away from this machine.
            builder = builder.no_proxy();
        }
        (builder.build()).map_err(|error| Problem::failed(format!("failed to start an HTTP client: {}", why(error))))
    }

    /// Why the daemon, or what stands before it, did not switch.
    async fn refused(&self, mut response: Response, token: &SecretString) -> Problem {
        let status = response.status();
        let name = &self.name;
        let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
        let location = location.map(|text| shown(text, token));
        let said = shown(&said(&mut response, SAID_BYTES).await, token);
        let said = if said.is_empty() {
            String::new()
        } else {
            format!(": {said}")
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let (what, hint) = self.identity.words();
                Problem::new(
                    Exit::NotAllowed,
                    format!("`{name}` refused {what} ({status}){said}; {hint}"),
                )
            }
            StatusCode::NOT_FOUND => Problem::unreachable(format!(
                "`{name}` answers, but there is no nixci behind `{name}/connect` ({status}): is the address right?"
            )),
            StatusCode::UPGRADE_REQUIRED => Problem::unreachable(format!(
                "`{name}` saw no request to switch protocols ({status}): a proxy in between drops the `Upgrade` \
                 header{said}"
            )),
            other if other.is_redirection() => Problem::unreachable(format!(
                "`{name}` sends elsewhere ({status}), where a token is not carried: give the new address{}",
                location.map(|to| format!(", `{to}`")).unwrap_or_default()
            )),
            other if other.is_success() => Problem::unreachable(format!(
                "`{name}/connect` answers, but not as nixci does ({status}): is the address right?"
            )),
            _ => Problem::unreachable(format!("`{name}` answered {status}{said}")),
        }
    }
}

/// What every HTTP client of ours has: the certificates, no redirects, and a limit for the time to connect.
pub(crate) fn builder() -> Result<ClientBuilder, Problem> {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        // An error says that there is one already, which can only be the same.
        drop(rustls::crypto::aws_lc_rs::default_provider().install_default());
    });
    Ok(Client::builder()
        .user_agent(concat!("nixci/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT_TIME)
        .redirect(reqwest::redirect::Policy::none())
        .tls_certs_merge(certificates(&process_env)?))
}

/// The certificates of `NIX_SSL_CERT_FILE`. What is no certificate in it is passed over, as by everybody.
fn certificates(env: Env<'_>) -> Result<Vec<Certificate>, Problem> {
    let Some(path) = env("NIX_SSL_CERT_FILE") else {
        return Ok(Vec::new());
    };
    let fail = |error: &dyn std::fmt::Display| {
        Problem::usage(format!(
            "failed to read certificates from `{path}`, which NIX_SSL_CERT_FILE names: {error}"
        ))
    };
    let found = CertificateDer::pem_file_iter(&path).map_err(|error| fail(&error))?;
    let mut certificates = Vec::new();
    for certificate in found {
        let certificate = certificate.map_err(|error| fail(&error))?;
        let is_root = rustls::RootCertStore::empty().add(certificate.clone()).is_ok();
        if is_root {
            certificates.push(Certificate::from_der(&certificate).map_err(|error| fail(&error))?);
        }
    }
    Ok(certificates)
}

/// A token as a header that no log shows.
pub(crate) fn bearer(token: &SecretString) -> Result<HeaderValue, Problem> {
    let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))
        .map_err(|_| Problem::usage("the token cannot be sent: it is no printable ASCII"))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The body of an answer, as far as it is read.
pub(crate) async fn said(response: &mut Response, most: usize) -> String {
    let mut body = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        body.extend_from_slice(&chunk[..chunk.len().min(most - body.len())]);
        if body.len() == most {
            break;
        }
    }
    String::from_utf8_lossy(&body).into_owned()
}

/// What the other side said, on one line, without what a terminal would obey, and without our token should it repeat it.
fn shown(text: &str, token: &SecretString) -> String {
    let text = text.replace(token.expose_secret(), "***");
    let words = text.split(|c: char| c.is_whitespace() || c.is_control());
    let line = words.filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    line.chars().take(SAID_CHARS).collect()
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    bare == "localhost"
        || bare.ends_with(".localhost")
        || bare.parse().is_ok_and(|address: IpAddr| address.is_loopback())
}

/// What went wrong, without the URL: it is in the sentence already.
fn why(error: reqwest::Error) -> String {
    chain(&error.without_url())
}
