//! The issuer in `issuer.mjs`, and tokens it would never make.

use std::path::{Path, PathBuf};
use std::process::Command;

use data_encoding::BASE64URL_NOPAD;
use hmac::{Hmac, Mac as _};
use nixci_daemon::config::{Allow, Oidc, OidcKind, Right};
use nixci_store::testing::peers::{Peer, free_port, node_modules};
use serde_json::{Value, json};
use sha2::Sha256;

pub(crate) const AUDIENCE: &str = "https://ci.example.org";
pub(crate) const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

/// An issuer that runs.
pub(crate) struct Issuer {
    peer: Peer,
    client: reqwest::Client,
}

impl Issuer {
    pub(crate) fn start(folder: &Path) -> Self {
        nixci_daemon::tls::install_provider();
        let port = free_port();
        let mut command = Command::new(node_modules().join(".bin/node"));
        command
            .arg(PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/identity/issuer.mjs"))
            .arg(node_modules())
            .arg(port.to_string());
        Self {
            peer: Peer::start(command, port, folder),
            client: reqwest::Client::new(),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.peer.url()
    }

    /// The configuration that takes its jobs of `o/*`.
    pub(crate) fn config(&self) -> Oidc {
        Oidc {
            issuer: self.url(),
            kind: OidcKind::GitHub,
            audience: Some(AUDIENCE.to_owned()),
            forge: None,
            reuse: nixci_daemon::config::Reuse::Never,
            max_age: std::time::Duration::from_hours(1),
            claims: OidcKind::GitHub.claims(),
            allow: vec![Allow {
                repositories: Some(vec!["o/*".to_owned()]),
                rights: vec![Right::Submit],
                ..Allow::default()
            }],
        }
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> String {
        let answer = self
            .client
            .post(format!("{}{path}", self.url()))
            .json(body)
            .send()
            .await;
        answer.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> String {
        let answer = self.client.get(format!("{}{path}", self.url())).send().await;
        answer.unwrap().error_for_status().unwrap().text().await.unwrap()
    }

    /// A token with the claims of a push to `main` of `o/r`, and these.
    pub(crate) async fn make(&self, claims: Value) -> String {
        self.post("/make", &json!({ "claims": with(claims) })).await
    }
}

/// The claims of a push to `main` of `o/r`, and these besides or in their place; what is null is left out.
pub(crate) fn with(more: Value) -> Value {
    let mut claims = json!({
        "aud": AUDIENCE,
        "sub": "repo:evil/evil:ref:refs/heads/main",
        "jti": nixci_daemon::new_token().unwrap(),
        "repository": "o/r",
        "repository_id": "1",
        "repository_owner_id": "2",
        "ref": "refs/heads/main",
        "ref_protected": "true",
        "sha": COMMIT,
        "event_name": "push",
        "run_id": "77",
    });
    let Value::Object(more) = more else {
        panic!("claims are an object")
    };
    let map = claims.as_object_mut().unwrap();
    for (name, value) in more {
        map.insert(name, value);
    }
    map.retain(|_, value| !value.is_null());
    claims
}

fn part(value: &Value) -> String {
    BASE64URL_NOPAD.encode(value.to_string().as_bytes())
}

/// Seconds since the Unix epoch.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// The claims of a good token that somebody else signs.
fn forged(issuer: &str) -> Value {
    with(json!({ "iss": issuer, "iat": now(), "nbf": now(), "exp": now() + 300 }))
}

/// Signed by nobody.
pub(crate) fn unsigned(issuer: &str, algorithm: &str) -> String {
    let header = json!({ "alg": algorithm, "typ": "JWT", "kid": "first" });
    format!("{}.{}.", part(&header), part(&forged(issuer)))
}

/// Signed by HMAC, with what everybody knows as the key.
pub(crate) fn confused(issuer: &str, key: &[u8]) -> String {
    let header = json!({ "alg": "HS256", "typ": "JWT", "kid": "first" });
    let signed = format!("{}.{}", part(&header), part(&forged(issuer)));
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(signed.as_bytes());
    let signature = BASE64URL_NOPAD.encode(&mac.finalize().into_bytes());
    format!("{signed}.{signature}")
}

/// The same token with other claims and the old signature.
pub(crate) fn altered(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let parts: Vec<&str> = token.split('.').collect();
    let mut claims: Value = serde_json::from_slice(&BASE64URL_NOPAD.decode(parts[1].as_bytes()).unwrap()).unwrap();
    change(&mut claims);
    format!("{}.{}.{}", parts[0], part(&claims), parts[2])
}
