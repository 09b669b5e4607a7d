//! What is no backup, what is not as it was, and where none can go.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nixci_protocol::nixci::AddClosure;
use nixci_protocol::nixci::control::Request;
use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv};
use serde_json::{Value, json};

use crate::common::items::{item, noise, stream, zstd_of};
use crate::common::{ask, connect, submit, watch};
use crate::world::{backed_up, backup, check, config_for, daemon, good, names, refused, restore};

const SIBLING: &str = env!("CARGO_BIN_EXE_nixci-daemon");
/// Nobody in particular.
const OTHER: u32 = 65_534;

/// A daemon that has built something, with a large object.
async fn service(store: &TestDaemon) -> Service {
    let service = Service::start(Path::new(SIBLING), &[("here", &store.uri(), 1)]);
    let mut client = connect(&service.socket()).await;
    let large = zstd_of(&stream(&[item(1, &noise(1, 300_000), &[])]));
    client.call_framed(&AddClosure {}, &large[..], &mut ()).await.unwrap();
    let drvs = store.instantiate("refused", &[TestDrv::good("one").script("echo said")]);
    let evaluation = submit(&mut client, store, "one", &drvs).await;
    watch(&mut client, evaluation).await;
    service
}

fn copy_of(folder: &Path, to: &Path) {
    good(&Command::new("cp").arg("-a").arg(folder).arg(to).output().unwrap());
}

fn manifest(backup: &Path, change: impl FnOnce(&mut Value)) {
    let file = backup.join("manifest.json");
    let mut value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    change(&mut value);
    fs::write(file, value.to_string()).unwrap();
}

/// Changes one byte in the middle.
fn flip(file: &Path) {
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
}

type Damage = fn(&Path);

#[tokio::test(flavor = "multi_thread")]
async fn backups_that_are_not_as_they_were_are_refused() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let service = service(&store).await;
    let whole = service.scratch().join("whole");
    backed_up(&service, &whole);
    good(&check(&whole));
    let sums = Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(&whole)
        .output();
    good(&sums.unwrap());
    let cases: [(&str, Damage, &str); 13] = [
        (
            "index",
            |it| flip(&it.join("index.db")),
            "index.db is not as it was backed up: its hash is another",
        ),
        (
            "spool",
            |it| flip(&it.join("spool/spool.db")),
            "spool.db is not as it was",
        ),
        (
            "large",
            |it| flip(&it.join("spool/nars/0.nar.zst")),
            "0.nar.zst is not as it was",
        ),
        (
            "log",
            |it| flip(&it.join("logs/0/1.log.zst")),
            "1.log.zst is not as it was",
        ),
        (
            "no log",
            |it| fs::remove_file(it.join("logs/0/1.log.zst")).unwrap(),
            "it is missing",
        ),
        (
            "no index",
            |it| fs::remove_file(it.join("index.db")).unwrap(),
            "it is missing",
        ),
        (
            "no sums",
            |it| fs::remove_file(it.join("SHA256SUMS")).unwrap(),
            "it has no SHA256SUMS",
        ),
        (
            "sums",
            |it| flip(&it.join("SHA256SUMS")),
            "its hash is not that of the manifest",
        ),
        (
            "no manifest",
            |it| fs::remove_file(it.join("manifest.json")).unwrap(),
            "it has no manifest.json",
        ),
        (
            "nonsense",
            |it| fs::write(it.join("manifest.json"), "{").unwrap(),
            "its manifest.json: EOF",
        ),
        (
            "format",
            |it| manifest(it, |value| *value = json!({"format": 2, "nixci": "9.0", "new": true})),
            "was written by nixci 9.0, which is newer: its format is 2",
        ),
        (
            "schema",
            |it| manifest(it, |value| value["schemas"]["index"] = 999.into()),
            "its schema of the index is 999",
        ),
        (
            "other schema",
            |it| manifest(it, |value| value["schemas"]["spool"] = 1.into()),
            "and not 1 as was said of it",
        ),
    ];
    for (name, damage, expected) in cases {
        let copy = service.scratch().join(format!("copy-{name}"));
        copy_of(&whole, &copy);
        damage(&copy);
        let said = refused(&check(&copy));
        assert!(said.contains(expected), "{name}: {said}");
        let state = service.scratch().join("into");
        let said = refused(&restore(&copy, &state));
        assert!(said.contains(expected), "{name}: {said}");
        let left = if state.exists() { names(&state) } else { Vec::new() };
        assert!(left.is_empty() || left == ["lock"], "{name} leaves {left:?}");
    }
    // After all of these the same folder takes the whole one.
    good(&restore(&whole, &service.scratch().join("into")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_goes_to_a_new_place_outside() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let service = service(&store).await;
    let home = service.scratch();
    let before = names(home);
    let state = home.join("state");
    let full = home.join("full");
    fs::create_dir(&full).unwrap();
    fs::write(full.join("file"), "").unwrap();
    let cases: [(PathBuf, &str); 6] = [
        (state.join("backup"), "is inside the state folder"),
        (state.join("logs"), "is inside the state folder"),
        (full.clone(), "is there already and not an empty folder"),
        (full.join("file"), "is there already and not an empty folder"),
        (home.join("nowhere/backup"), "failed to look into"),
        (PathBuf::from("/"), "or has no name of its own"),
    ];
    for (to, expected) in cases {
        let said = refused(&backup(&service, &to));
        assert!(said.contains(expected), "{}: {said}", to.display());
    }
    assert_eq!(names(&full), ["file"]);
    // What cannot be read stops it.
    let log = state.join("logs/0/1.log.zst");
    let content = fs::read(&log).unwrap();
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    let said = refused(&backup(&service, &home.join("unread")));
    assert!(
        said.contains("failed to read") && said.contains("1.log.zst: it is not a file"),
        "{said}"
    );
    fs::remove_dir(&log).unwrap();
    fs::write(&log, content).unwrap();
    fs::remove_dir_all(&full).unwrap();
    assert_eq!(names(home), before);
    // An empty folder will do, and the daemon is as it was.
    let empty = home.join("empty");
    fs::create_dir(&empty).unwrap();
    good(&backup(&service, &empty));
    good(&check(&empty));
    let mut client = connect(&service.socket()).await;
    let _: Value = ask(&mut client, &Request::Info).await;
    // Another user may not, also where files can be read, and is told in one line.
    for folder in [home.to_owned(), state.clone()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let output = daemon(&service.config())
        .arg("backup")
        .arg(std::env::temp_dir().join("nixci-never"))
        .uid(OTHER)
        .output()
        .unwrap();
    let said = refused(&output);
    assert!(
        said.contains("belongs to user 0, and this is user 65534; run this as"),
        "{said}"
    );
    // No daemon, no backup.
    let nothing = config_for(&home.join("nothing"));
    let output = daemon(&nothing)
        .arg("backup")
        .arg(home.join("of-nothing"))
        .output()
        .unwrap();
    assert!(
        refused(&output).contains("there is no state of a daemon in"),
        "{output:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_goes_where_no_daemon_is() {
    let store = TestDaemon::start(NixVersion::V2_34);
    let service = service(&store).await;
    let home = service.scratch();
    let from = home.join("backup");
    backed_up(&service, &from);
    // A daemon that runs.
    let again = || daemon(&service.config()).arg("restore").arg(&from).output().unwrap();
    assert!(
        refused(&again()).contains("is in use by another nixci-daemon"),
        "{:?}",
        again()
    );
    service.stop();
    assert!(refused(&again()).contains("is not empty: it has `"), "{:?}", again());
    // Another store directory.
    let state = home.join("other");
    let config = config_for(&state);
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("store_dir = \"/other/store\"\n{text}")).unwrap();
    let output = daemon(&config).arg("restore").arg(&from).output().unwrap();
    assert!(refused(&output).contains("store_dir = \"/nix/store\""), "{output:?}");
    assert!(!state.exists());
    // The home of another user: what is hidden there stays, and what is restored becomes that user's.
    let state = home.join("home");
    fs::create_dir(&state).unwrap();
    fs::create_dir(state.join(".ssh")).unwrap();
    chown(&state, Some(OTHER), Some(OTHER)).unwrap();
    let output = restore(&from, &state);
    let said = String::from_utf8(good(&output)).unwrap();
    assert!(
        said.contains("(user 65534, group 65534)") && said.contains("tokens that were revoked"),
        "{said}"
    );
    assert!(said.contains("keep /etc/nixci apart"), "{said}");
    let all = Command::new("find")
        .arg(&state)
        .args(["-not", "-uid", "65534", "-not", "-name", ".ssh"])
        .output();
    assert_eq!(String::from_utf8_lossy(&good(&all.unwrap())), "");
    assert_eq!(fs::metadata(state.join(".ssh")).unwrap().uid(), 0);
}
