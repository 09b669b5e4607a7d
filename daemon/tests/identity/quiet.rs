//! What is never written down: tokens, whole or in part, at any level of the log.

use std::path::Path;

use nixci_store::testing::{NixVersion, Service, TestDaemon};
use serde_json::json;

use crate::issuer::{AUDIENCE, Issuer, altered, unsigned};
use crate::upgrade::{bearer, connect, turned};

const DAEMON: &str = env!("CARGO_BIN_EXE_nixci-daemon");

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_in_the_log_at_any_level() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let folder = tempfile::tempdir().unwrap();
    let issuer = Issuer::start(folder.path());
    let config = format!(
        "http_read = \"token\"\n[[store]]\nname = \"s\"\nuri = {:?}\nslots = 1\n[[oidc]]\nissuer = {:?}\nkind = \"github\"\n\
         audience = {AUDIENCE:?}\n[[oidc.allow]]\nrepositories = [\"o/*\"]\n[[oidc.allow]]\nrepository_ids = [5, \"6\"]\nref_protected = true\n",
        store.uri(),
        issuer.url(),
    );
    let service = Service::with_environment(Path::new(DAEMON), &config, &[("NIXCI_LOG", "trace")]);
    let http = service.http();
    let good = issuer.make(json!({})).await;
    let refused = [
        issuer.make(json!({ "repository": "evil/r" })).await,
        issuer.make(json!({ "aud": "https://else.example.org" })).await,
        altered(&good, |claims| claims["repository"] = json!("o/x")),
        unsigned(&issuer.url(), "none"),
        "nixci_a-token-that-nobody-has-made".to_owned(),
    ];
    for token in &refused {
        turned(http, &bearer(token)).await;
    }
    drop(connect(http, &good).await.unwrap());
    turned(http, &bearer(&good)).await;
    let client = reqwest::Client::builder().http2_prior_knowledge().build().unwrap();
    for token in refused.iter().chain([&good]) {
        let page = client
            .get(format!("http://{http}/"))
            .bearer_auth(token)
            .send()
            .await
            .unwrap();
        assert_eq!(page.status(), 401, "pages take no token of a job");
        assert!(!page.text().await.unwrap().contains(token.as_str()));
    }
    service.stop();
    let log = service.log();
    assert!(log.contains("TRACE") && log.contains("let in a job of o/r"), "{log}");
    assert!(log.contains("no rule of [[oidc]]"), "{log}");
    for token in refused.iter().chain([&good]) {
        // Neither whole nor the parts that are secret: claims and signature.
        for part in token
            .split('.')
            .skip(1)
            .chain([token.as_str()])
            .filter(|part| part.len() > 20)
        {
            assert!(!log.contains(part), "a token is in the log");
        }
    }
}
