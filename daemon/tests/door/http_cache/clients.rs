//! Stock Nix of three versions.

use std::os::unix::fs::PermissionsExt as _;

use nixci_daemon::config::SecretFile;
use nixci_daemon::start;
use nixci_protocol::types::SecretKey;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use reqwest::header::{CACHE_CONTROL, CONTENT_TYPE};
use rstest::rstest;
use serde_json::Value;

use super::{Cached, dump, hash_part, header, info_of, said};
use crate::client::succeeds;
use crate::common::{config, connect, submit, watch};

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn stock_clients_substitute_and_look_into_paths(#[case] version: NixVersion) {
    let cached = Cached::start(version).await;
    let drvs = cached.store.instantiate(
        "http-cache",
        &[
            TestDrv::good("base"),
            TestDrv::good("app").needs(&["base"]),
            TestDrv::good("other"),
        ],
    );
    let out = |drv: &str| cached.store.run("nix-store", &["-r", drv]).trim().to_owned();
    let (app, base) = (out(&drvs["app"]), out(&drvs["base"]));
    let mib = if version == NixVersion::V2_34 { 125 } else { 12 };
    let big = cached.add("big", &[mib << 20, mib << 20, 5, 0]);

    let client = TestDaemon::builder(version)
        .config(&format!("substituters = {}?trusted=1", cached.url))
        .start();
    let url = cached.url.as_str();
    let closure = succeeds(&client, &["path-info", "--store", url, "--recursive", &app]).await;
    assert!(closure.contains(&app) && closure.contains(&base), "{closure}");

    // As a substituter: the daemon of the client fetches what it lacks.
    client.run("nix-store", &["-r", &app, &big]);
    assert!(client.physical(&base).exists(), "the closure came too");
    for path in [&app, &base, &big] {
        assert_eq!(info_of(&client, path), info_of(&cached.store, path));
    }
    assert_eq!(dump(&client, &app), dump(&cached.store, &app));
    client.run("nix-store", &["--verify", "--check-contents"]);

    // What nobody has is built, or reported as missing.
    let other = cached.store.run("nix-store", &["-q", "--outputs", &drvs["other"]]);
    let missing = client.output("nix-store", &["-r", other.trim()]);
    assert!(!missing.status.success());

    // As a store to copy from, a second time, by another client.
    let second = TestDaemon::start(version);
    succeeds(&second, &["copy", "--no-check-sigs", "--from", url, &app, &big]).await;
    assert_eq!(info_of(&second, &big), info_of(&cached.store, &big));
    assert!(cached.sent("fill").await + cached.sent("disk").await > 0);

    // Without trust nothing arrives that is not signed; what its content proves does.
    let strict = TestDaemon::builder(version)
        .config(&format!("substituters = {url}"))
        .start();
    let refused = strict.output("nix-store", &["-r", &app]);
    assert!(!refused.status.success(), "unsigned, and yet it came");
    assert!(!strict.physical(&app).exists());
    let small = cached.add("small", &[10]);
    strict.run("nix-store", &["-r", &small]);

    let ls = |store: String| {
        let arguments = ["store", "ls", "--json", "--recursive", "--store", &store, &big].map(str::to_owned);
        let client = &second;
        async move {
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            let text = succeeds(client, &arguments).await;
            without_offsets(serde_json::from_str(&text).unwrap())
        }
    };
    let listed = ls(url.to_owned()).await;
    assert_eq!(listed, ls(cached.store.local_uri()).await);
    let ours: Value = serde_json::from_str(&cached.text(&format!("{}.ls", hash_part(&big))).await).unwrap();
    assert_eq!(ours["version"], 1);
    assert_eq!(without_offsets(ours["root"].clone()), listed);

    let file = format!("{big}/sub/file-2");
    let content = succeeds(&second, &["store", "cat", "--store", url, &file]).await;
    assert_eq!(content.as_bytes(), std::fs::read(cached.store.physical(&file)).unwrap());
    cached.stop().await;
}

/// A listing as stores give it, which have no NAR.
fn without_offsets(mut node: Value) -> Value {
    let node_object = node.as_object_mut().unwrap();
    node_object.remove("narOffset");
    if node_object.get("executable") == Some(&Value::Bool(false)) {
        node_object.remove("executable");
    }
    if let Some(Value::Object(entries)) = node_object.get_mut("entries") {
        for (_, entry) in entries.iter_mut() {
            *entry = without_offsets(entry.take());
        }
    }
    node
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_builds_are_fetched_by_every_client() {
    let cached = Cached::start(NixVersion::V2_34).await;
    let drvs = cached
        .store
        .instantiate("http-log", &[TestDrv::good("talks").script("echo this was said")]);
    let mut connection = connect(&cached.daemon.socket).await;
    let evaluation = submit(&mut connection, &cached.store, "http-log", &drvs).await;
    watch(&mut connection, evaluation).await;
    drop(connection);
    let drv = &drvs["talks"];
    let out = cached.store.run("nix-store", &["-q", "--outputs", drv]);
    for version in [NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34] {
        let client = TestDaemon::start(version);
        for of in [drv.as_str(), out.trim()] {
            let log = succeeds(&client, &["log", "--store", &cached.url, of]).await;
            assert!(
                log.contains("building talks") && log.contains("this was said"),
                "{version} {of}: {log}"
            );
        }
    }
    let name = drv.rsplit('/').next().unwrap();
    for name in [
        name,
        name.strip_suffix(".drv").unwrap(),
        out.trim().rsplit('/').next().unwrap(),
    ] {
        let response = cached.get(&format!("log/{name}")).await;
        assert_eq!(header(&response, &CONTENT_TYPE), "text/plain; charset=utf-8");
        assert_eq!(header(&response, &CACHE_CONTROL), "max-age=60");
        assert!(response.text().await.unwrap().contains("this was said"), "{name}");
    }
    cached.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn outputs_of_content_addressed_derivations_are_substituted(#[case] version: NixVersion) {
    let features = "extra-experimental-features = ca-derivations";
    let store = TestDaemon::builder(version).config(features).start();
    let home = tempfile::tempdir().unwrap();
    let daemon = start(config(home.path(), &store, 1)).await.unwrap();
    let url = format!("http://{}", daemon.http_addr.unwrap());
    let drvs = [TestDrv::good("floats").floating()];
    let drv = store.instantiate("http-ca", &drvs)["floats"].clone();
    let out = store.run("nix-store", &["-r", &drv]);
    let client = TestDaemon::builder(version)
        .max_jobs(0)
        .config(&format!("{features}\nsubstituters = {url}?trusted=1"))
        .start();
    assert_eq!(client.instantiate("http-ca", &drvs)["floats"], drv);
    assert_eq!(client.run("nix-store", &["-r", &drv]), out);
    assert!(client.physical(out.trim()).exists());
    daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn the_lines_that_the_page_of_stores_shows_are_all_a_client_needs(#[case] version: NixVersion) {
    let key = SecretKey::from_seed("ci.test-1", &[7; 32]).unwrap();
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("key");
    std::fs::write(&path, key.expose()).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    let cached = Cached::with(version, |config| {
        config.keys.secret_key_files = vec![SecretFile { path, line: None }];
    })
    .await;
    let drvs = cached.store.instantiate(
        "http-signed",
        &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])],
    );
    let mut connection = connect(&cached.daemon.socket).await;
    let evaluation = submit(&mut connection, &cached.store, "http-signed", &drvs).await;
    watch(&mut connection, evaluation).await;
    let out = cached.store.run("nix-store", &["-q", "--outputs", &drvs["app"]]);
    let out = out.trim();

    let page = cached.text("stores").await;
    let lines: Vec<&str> = page.lines().filter(|line| line.contains("extra-")).collect();
    let lines = lines
        .join("\n")
        .replace("<pre class=\"tail\">", "")
        .replace("</pre>", "");
    assert!(
        lines.contains(&cached.url) && lines.contains(&key.public().to_string()),
        "{lines}"
    );
    let client = TestDaemon::builder(version)
        .config(&format!("require-sigs = true\n{lines}"))
        .start();
    client.run("nix-store", &["-r", out]);
    assert_eq!(info_of(&client, out), info_of(&cached.store, out));
    client.run("nix", &["store", "verify", "--recursive", "--no-contents", out]);

    // The same name with another key is somebody else.
    let other = SecretKey::from_seed("ci.test-1", &[8; 32])
        .unwrap()
        .public()
        .to_string();
    let stranger = TestDaemon::builder(version)
        .config(&format!(
            "require-sigs = true\n{}",
            lines.replace(&key.public().to_string(), &other)
        ))
        .start();
    let refused = stranger.output("nix-store", &["-r", out]);
    assert!(!refused.status.success(), "{}", said(&refused));
    assert!(!stranger.physical(out).exists());
    cached.stop().await;
}
