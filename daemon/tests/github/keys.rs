//! Keys for tests, made anew by the peers' own Node for each.

use nixci_store::testing::peers::node_modules;
use std::process::Command;

/// Private keys as PEM, and the public half of the first two.
#[derive(serde::Deserialize)]
pub(crate) struct Keys {
    pub(crate) pkcs1: String,
    pub(crate) pkcs8: String,
    pub(crate) public: String,
    /// What an App never has.
    pub(crate) ec_sec1: String,
    pub(crate) ec_pkcs8: String,
    pub(crate) locked: String,
}

const MAKE: &str = r#"
const { generateKeyPairSync } = require("crypto");
const rsa = generateKeyPairSync("rsa", { modulusLength: 2048 });
const ec = generateKeyPairSync("ec", { namedCurve: "prime256v1" }).privateKey;
const pem = (key, type, more) => key.export({ type, format: "pem", ...more });
console.log(JSON.stringify({
    pkcs1: pem(rsa.privateKey, "pkcs1"),
    pkcs8: pem(rsa.privateKey, "pkcs8"),
    public: pem(rsa.publicKey, "spki"),
    ec_sec1: pem(ec, "sec1"),
    ec_pkcs8: pem(ec, "pkcs8"),
    locked: pem(rsa.privateKey, "pkcs8", { cipher: "aes-256-cbc", passphrase: "x" }),
}));
"#;

pub(crate) fn make() -> Keys {
    let node = node_modules().join(".bin/node");
    let made = Command::new(node).args(["-e", MAKE]).output().expect("node runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    serde_json::from_slice(&made.stdout).unwrap()
}
