//! Signatures: what nixci signs, what its clients make of it, and whose it believes.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::client::{all_outputs, nix, remote_program, succeeds};
use crate::common::{body_for, config, connect, connect_stock, submit, try_connect, watch};
use nixci_daemon::config::{SecretFile, Writes};
use nixci_daemon::{Config, Running, start};
use nixci_protocol::client::Connection;
use nixci_protocol::nixci::AddClosure;
use nixci_protocol::nixci::outcome::Outcome;
use nixci_protocol::op;
use nixci_protocol::types::{PathInfo, PublicKey, SecretKey, StoreDir, StorePath};
use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv};
use rstest::rstest;

pub(crate) fn key(name: &str, seed: u8) -> SecretKey {
    SecretKey::from_seed(name, &[seed; 32]).unwrap()
}

/// Writes a key where only its owner may read it.
pub(crate) fn key_file(folder: &Path, text: &str) -> PathBuf {
    let name: String = text.chars().take_while(|c| *c != ':').collect();
    let path = folder.join(format!("{name}.sec"));
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

pub(crate) fn signing(mut config: Config, keys: &[&Path]) -> Config {
    let file = |path: &&Path| SecretFile {
        path: path.to_path_buf(),
        line: None,
    };
    config.keys.secret_key_files = keys.iter().map(file).collect();
    config
}

fn parse(path: &str) -> StorePath {
    StoreDir::default().parse(path.trim()).unwrap()
}

async fn info(connection: &mut Connection, path: &str) -> PathInfo {
    let path = parse(path);
    let question = op::QueryPathInfo { path: path.clone() };
    let info = connection.call(&question, &mut ()).await.unwrap().unwrap();
    PathInfo { path, info }
}

fn is_signed(info: &PathInfo, by: &PublicKey) -> bool {
    info.is_signed_by(&StoreDir::default(), std::slice::from_ref(by))
}

/// Has nixci build these, and returns the paths of their outputs.
async fn built(daemon: &Path, from: &TestDaemon, drvs: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut client = connect(daemon).await;
    let evaluation = submit(&mut client, from, "sign", drvs).await;
    let watched = watch(&mut client, evaluation).await;
    for (job, outcome) in &watched.outcomes {
        assert!(matches!(outcome, Outcome::Succeeded { .. }), "{job}: {outcome:?}");
    }
    let mut outputs = BTreeMap::new();
    for (name, drv) in drvs {
        let question = op::QueryDerivationOutputMap {
            drv: parse(drv).try_into().unwrap(),
        };
        let map = client.call(&question, &mut ()).await.unwrap();
        let path = map.into_values().next().unwrap().unwrap();
        outputs.insert(name.clone(), StoreDir::default().display(&path).to_string());
    }
    outputs
}

/// Changes a file of a store behind its back, keeping its size.
fn tamper(file: &Path) {
    let writable = |mode| std::fs::set_permissions(file, std::fs::Permissions::from_mode(mode)).unwrap();
    let mut bytes = std::fs::read(file).unwrap();
    bytes.reverse();
    writable(0o644);
    std::fs::write(file, bytes).unwrap();
    writable(0o444);
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn outputs_arrive_signed_where_signatures_are_required(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let home = tempfile::tempdir().unwrap();
    // A key as that version makes it.
    let made = store.run("nix", &["key", "generate-secret", "--key-name", "nixci.test-1"]);
    let public = made.trim().parse::<SecretKey>().unwrap().public();
    let file = key_file(home.path(), &made);
    let daemon = start(signing(config(home.path(), &store, 2), &[&file])).await.unwrap();
    let substituter = remote_program(home.path(), &daemon.socket);

    let client = |trusted: &PublicKey| {
        TestDaemon::builder(version)
            .config(&format!(
                "require-sigs = true\nsubstituters = {substituter}\ntrusted-public-keys = {trusted}"
            ))
            .start()
    };
    let friend = client(&public);
    let stranger = client(&key("nixci.test-1", 9).public());
    let graph = [TestDrv::good("base"), TestDrv::good("app").needs(&["base"])];
    let drvs = friend.instantiate("signed", &graph);
    assert_eq!(stranger.instantiate("signed", &graph), drvs);
    let outputs = built(&daemon.socket, &friend, &drvs).await;

    let fetch = |out: &'static str| ["-r", outputs[out].as_str(), "--max-jobs", "0"].map(str::to_owned);
    let fetched = friend.command("nix-store").args(fetch("app")).output().unwrap();
    assert!(
        fetched.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&fetched.stderr),
        friend.log()
    );
    assert!(friend.physical(&outputs["app"]).exists());
    for out in outputs.values() {
        succeeds(&friend, &["store", "verify", "--sigs-needed", "1", out]).await;
    }
    let refused = stranger.command("nix-store").args(fetch("app")).output().unwrap();
    assert!(!refused.status.success(), "a key of the same name is not the key");
    assert!(!stranger.physical(&outputs["app"]).exists());

    // What nobody built here is told as it is.
    let mut door = connect(&daemon.socket).await;
    for (drv, out) in drvs.values().zip(outputs.values()) {
        assert!(!is_signed(&info(&mut door, drv).await, &public));
        assert!(is_signed(&info(&mut door, out).await, &public));
    }
    drop(door);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_merely_was_there_is_not_signed() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let ours = key("nixci.test-1", 1);
    let file = key_file(home.path(), &ours.expose());
    let drvs = store.instantiate(
        "there",
        &[TestDrv::good("there"), TestDrv::good("made").needs(&["there"])],
    );
    succeeds(
        &store,
        &["build", "--no-link", &all_outputs(store.version(), &drvs["there"])],
    )
    .await;
    let daemon = start(signing(config(home.path(), &store, 2), &[&file])).await.unwrap();
    let outputs = built(&daemon.socket, &store, &drvs).await;
    let mut door = connect(&daemon.socket).await;
    assert!(!is_signed(&info(&mut door, &outputs["there"]).await, &ours.public()));
    // And again from memory.
    for _ in 0..2 {
        assert!(is_signed(&info(&mut door, &outputs["made"]).await, &ours.public()));
    }
    drop(door);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lie_of_the_store_is_not_signed_and_told() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let ours = key("nixci.test-1", 1);
    let file = key_file(home.path(), &ours.expose());
    let service = Service::with_config(
        Path::new(env!("CARGO_BIN_EXE_nixci-daemon")),
        &format!(
            "[keys]\nsecret_key_files = [{:?}]\n[[store]]\nname = \"behind\"\nuri = {:?}\nslots = 2\n",
            file,
            store.uri()
        ),
    );
    let graph = [TestDrv::good("good"), TestDrv::good("bad"), TestDrv::good("longer")];
    let drvs = store.instantiate("lie", &graph);
    let outputs = built(&service.socket(), &store, &drvs).await;
    tamper(&store.physical(&outputs["bad"]));
    let longer = store.physical(&outputs["longer"]);
    std::fs::set_permissions(&longer, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(&longer, "much more than was there when it was built").unwrap();

    let mut door = connect(&service.socket()).await;
    assert!(is_signed(&info(&mut door, &outputs["good"]).await, &ours.public()));
    for out in ["bad", "longer", "bad"] {
        let told = info(&mut door, &outputs[out]).await;
        assert!(
            told.info
                .signatures
                .iter()
                .all(|signature| signature.name() != ours.name()),
            "{told:?}"
        );
    }
    let log = service.log();
    let said = info(&mut connect_stock(&store).await, &outputs["bad"])
        .await
        .info
        .nar_hash;
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("it is not signed")).collect();
    assert_eq!(lines.len(), 2, "each once: {log}");
    assert!(
        lines[0].contains(&outputs["bad"]) && lines[0].contains(&said.to_string()),
        "{log}"
    );
    assert!(lines[0].contains("and sends one with "), "{log}");
    assert!(lines[1].contains(&outputs["longer"]), "{log}");
    assert!(!log.contains(&ours.expose()[14..40]), "the secret is not in the log");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_added_later_signs_without_reading_again() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let (first, second) = (key("first-1", 1), key("second-1", 2));
    let files = [&first, &second].map(|key| key_file(home.path(), &key.expose()));
    let drvs = store.instantiate("later", &[TestDrv::good("read"), TestDrv::good("unread")]);
    let daemon = start(signing(config(home.path(), &store, 2), &[&files[0]]))
        .await
        .unwrap();
    let outputs = built(&daemon.socket, &store, &drvs).await;
    let mut door = connect(&daemon.socket).await;
    let many = (0..8).map(|_| async {
        let mut door = connect(&daemon.socket).await;
        info(&mut door, &outputs["read"]).await
    });
    for told in futures_util::future::join_all(many).await {
        assert!(is_signed(&told, &first.public()));
    }
    assert!(!is_signed(&info(&mut door, &outputs["read"]).await, &second.public()));
    drop(door);
    daemon.stop().await;

    // If these were read now, they would be found to be other than the store says.
    for out in outputs.values() {
        tamper(&store.physical(out));
    }
    let files: Vec<&Path> = files.iter().map(PathBuf::as_path).collect();
    let daemon = start(signing(config(home.path(), &store, 2), &files)).await.unwrap();
    let mut door = connect(&daemon.socket).await;
    let told = info(&mut door, &outputs["read"]).await;
    assert!(
        is_signed(&told, &first.public()) && is_signed(&told, &second.public()),
        "{told:?}"
    );
    assert!(!is_signed(&info(&mut door, &outputs["unread"]).await, &first.public()));
    drop(door);
    daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn floating_outputs_arrive_signed(#[case] version: NixVersion) {
    let features = "experimental-features = nix-command flakes ca-derivations";
    let store = TestDaemon::builder(version).config(features).start();
    let home = tempfile::tempdir().unwrap();
    let ours = key("nixci.test-1", 1);
    let file = key_file(home.path(), &ours.expose());
    let mut settings = signing(config(home.path(), &store, 2), &[&file]);
    settings.stores[0].features.push("ca-derivations".to_owned());
    let daemon = start(settings).await.unwrap();
    let client = TestDaemon::builder(version)
        .config(&format!(
            "{features}\nrequire-sigs = true\nsubstituters = {}\ntrusted-public-keys = {}",
            remote_program(home.path(), &daemon.socket),
            ours.public()
        ))
        .start();
    let graph = [
        TestDrv::good("low").floating(),
        TestDrv::good("high").floating().needs(&["low"]),
    ];
    let drvs = client.instantiate("floating", &graph);
    let outputs = built(&daemon.socket, &client, &drvs).await;
    let mut door = connect(&daemon.socket).await;
    for out in outputs.values() {
        assert!(is_signed(&info(&mut door, out).await, &ours.public()), "{out}");
    }
    drop(door);
    let all = all_outputs(version, &drvs["high"]);
    let fetched = client.output("nix", &["build", "--no-link", "--max-jobs", "0", &all]);
    assert!(
        fetched.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&fetched.stderr),
        client.log()
    );
    assert!(client.physical(&outputs["high"]).exists());
    daemon.stop().await;
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn uploads_are_taken_with_a_trusted_signature_only(#[case] version: NixVersion) {
    let store = TestDaemon::start(version);
    let client = TestDaemon::start(version);
    let home = tempfile::tempdir().unwrap();
    let builder = key("builder-1", 3);
    let file = key_file(home.path(), &builder.expose());
    let mut settings = config(home.path(), &store, 1);
    settings.keys.trusted_public_keys = vec![builder.public()];
    settings.listen.trusted_users = Vec::new();
    let daemon = start(settings.clone()).await.unwrap();
    let socket = format!("unix://{}", daemon.socket.display());
    let drvs = client.instantiate("upload", &[TestDrv::good("lib"), TestDrv::good("app").needs(&["lib"])]);
    let all = all_outputs(version, &drvs["app"]);
    succeeds(&client, &["build", "--no-link", &all]).await;
    let out = succeeds(&client, &["path-info", &all]).await;
    let out = out.trim();

    let refused = nix(&client, &["copy", "--no-check-sigs", "--to", &socket, out]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success());
    assert!(
        said.contains("cannot add path '/nix/store/") && said.contains("because it lacks a signature by a trusted key"),
        "{said}"
    );
    let sign = [
        "store",
        "sign",
        "--recursive",
        "--key-file",
        file.to_str().unwrap(),
        out,
    ];
    succeeds(&client, &sign).await;
    succeeds(&client, &["copy", "--to", &socket, out]).await;
    let mut door = connect(&daemon.socket).await;
    let taken = info(&mut door, out).await;
    assert!(is_signed(&taken, &builder.public()), "{taken:?}");

    // Other content under that signature.
    let mut nar = Vec::new();
    let mut source = connect_stock(&client).await;
    source
        .nar_from_path(&taken.path, taken.info.nar_size, &mut nar, &mut ())
        .await
        .unwrap();
    let content = nar.windows(3).position(|part| part == b"app").unwrap();
    nar[content] ^= 1;
    let mut forged = taken.clone();
    forged.path = StorePath::new([7; 20], "forged").unwrap();
    let request = |info: PathInfo| op::AddToStoreNar {
        info,
        repair: false,
        dont_check_sigs: true,
    };
    for tampered in [forged, taken] {
        let error = door.call_framed(&request(tampered.clone()), &nar[..], &mut ()).await;
        let said = error.unwrap_err().to_string();
        let expected = if tampered.path.name() == "forged" {
            "that by `builder-1` is not one over its hash, size and references"
        } else {
            "has hash"
        };
        assert!(said.contains(expected), "{said}");
        // The connection is in step.
        info(&mut door, out).await;
    }
    drop(door);
    daemon.stop().await;

    // Somebody who is trusted must ask for it, as at a stock store.
    let other = tempfile::tempdir().unwrap();
    let daemon = start(config(other.path(), &store, 1)).await.unwrap();
    let socket = format!("unix://{}", daemon.socket.display());
    assert!(!nix(&client, &["copy", "--to", &socket, out]).await.status.success());
    succeeds(&client, &["copy", "--no-check-sigs", "--to", &socket, out]).await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_travel_on_to_the_store_and_are_added_there() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let client = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let (builder, second) = (key("builder-1", 3), key("second-1", 4));
    let files = [&builder, &second].map(|key| key_file(home.path(), &key.expose()).display().to_string());
    let drvs = client.instantiate("travel", &[TestDrv::good("app")]);
    let all = all_outputs(client.version(), &drvs["app"]);
    succeeds(&client, &["build", "--no-link", &all]).await;
    let out = succeeds(&client, &["path-info", &all]).await;
    let out = out.trim();
    succeeds(&client, &["store", "sign", "--key-file", &files[0], out]).await;

    let mut settings = config(home.path(), &store, 1);
    settings.listen.writes = Writes::Through;
    settings.keys.trusted_public_keys = vec![builder.public()];
    let daemon = start(settings).await.unwrap();
    let shared = format!("unix://{}?root={}", daemon.socket.display(), store.root().display());
    succeeds(&client, &["copy", "--to", &shared, out]).await;
    let behind = info(&mut connect_stock(&store).await, out).await;
    assert!(is_signed(&behind, &builder.public()), "{behind:?}");

    // Collected there, and sent again: the spool's copy does not stand in the way.
    store.run("nix-store", &["--delete", out]);
    succeeds(&client, &["copy", "--to", &shared, out]).await;
    assert!(store.physical(out).exists());

    succeeds(
        &store,
        &["store", "sign", "--store", &shared, "--key-file", &files[1], out],
    )
    .await;
    let behind = info(&mut connect_stock(&store).await, out).await;
    assert!(is_signed(&behind, &second.public()), "{behind:?}");
    let mut door = connect(&daemon.socket).await;
    assert!(is_signed(&info(&mut door, out).await, &second.public()));
    drop(door);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn signatures_are_added_to_the_spool_by_whoever_has_the_right() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let (builder, foreign) = (key("builder-1", 3), key("foreign-1", 4));
    let files = [&builder, &foreign].map(|key| key_file(home.path(), &key.expose()).display().to_string());
    let mut settings = config(home.path(), &store, 1);
    settings.keys.trusted_public_keys = vec![builder.public()];
    settings.listen.trusted_users = Vec::new();
    let daemon = start(settings).await.unwrap();
    let drvs = store.instantiate("spooled", &[TestDrv::good("app")]);
    let mut door = connect(&daemon.socket).await;
    let body = body_for(&store, drvs.values()).await;
    door.call_framed(&AddClosure {}, &body[..], &mut ()).await.unwrap();
    let pipe = remote_program(home.path(), &daemon.socket);
    let drv = drvs["app"].as_str();
    let sign = async |file: &str| nix(&store, &["store", "sign", "--store", &pipe, "--key-file", file, drv]).await;
    let ours = sign(&files[0]).await;
    assert!(ours.status.success(), "{}", String::from_utf8_lossy(&ours.stderr));
    let refused = sign(&files[1]).await;
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("`foreign-1` is not trusted here"), "{said}");
    let told = info(&mut door, drv).await;
    assert_eq!(told.info.signatures.len(), 1);
    assert!(is_signed(&told, &builder.public()));

    // On the stores behind only those who are trusted add any.
    succeeds(&store, &["build", "--no-link", &all_outputs(store.version(), drv)]).await;
    let out = succeeds(&store, &["path-info", &all_outputs(store.version(), drv)]).await;
    let request = op::AddSignatures {
        path: parse(&out),
        signatures: BTreeSet::from([builder.sign(b"anything")]),
    };
    let error = door.call(&request, &mut ()).await.unwrap_err().to_string();
    assert!(error.contains("`trusted_users`"), "{error}");
    drop(door);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_file_that_others_can_read_stops_the_start_and_nothing_is_left_bound() {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let home = tempfile::tempdir().unwrap();
    let ours = key("nixci.test-1", 1);
    let file = key_file(home.path(), &ours.expose());
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let error = start(signing(config(home.path(), &store, 1), &[&file]))
        .await
        .unwrap_err();
    let said = error.to_string();
    let expected = format!("secret key file {}: everybody can read it (mode 0644)", file.display());
    assert!(said.contains(&expected), "{said}");
    assert!(try_connect(&home.path().join("socket")).await.is_err());

    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o400)).unwrap();
    let daemon: Running = start(signing(config(home.path(), &store, 1), &[&file])).await.unwrap();
    daemon.stop().await;
}
