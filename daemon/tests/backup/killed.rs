//! `kill -9` of a backup and of a restore.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use nixci_protocol::nixci::AddClosure;
use nixci_protocol::nixci::control::{Collected, Request};
use nixci_store::testing::Service;

use crate::common::items::{Item, item, noise, stream, zstd_of};
use crate::common::{ask, connect};
use crate::world::{backed_up, backup, check, config_for, daemon, good, look_through, names, refused, restore};

const SIBLING: &str = env!("CARGO_BIN_EXE_nixci-daemon");
const LARGE: u64 = 24;
const PATIENCE: Duration = Duration::from_secs(30);

/// A daemon whose spool takes a while to copy. No store answers it.
async fn large() -> Service {
    let service = Service::start(Path::new(SIBLING), &[("none", "unix:///nowhere", 1)]);
    let mut client = connect(&service.socket()).await;
    let items: Vec<Item> = (0..LARGE).map(|nth| item(nth, &noise(nth, 4 << 20), &[])).collect();
    let packed = zstd_of(&stream(&items));
    let added = client.call_framed(&AddClosure {}, &packed[..], &mut ()).await.unwrap();
    assert_eq!(added, LARGE);
    service
}

/// Kills a process as soon as there is this file.
fn kill_at(mut child: Child, file: &Path) {
    let since = Instant::now();
    while !file.exists() {
        assert!(since.elapsed() < PATIENCE, "{} does not come", file.display());
        assert!(
            child.try_wait().unwrap().is_none(),
            "it ended before {}",
            file.display()
        );
        std::thread::yield_now();
    }
    child.kill().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "it was done before it was killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_that_is_killed_leaves_nothing_that_looks_like_one() {
    let service = large().await;
    let to = service.scratch().join("to");
    std::fs::create_dir(&to).unwrap();
    let (dest, unfinished) = (to.join("daily"), to.join(".daily.nixci-unfinished"));
    for file in [
        "index.db",
        "spool/spool.db",
        "spool/nars/3.nar.zst",
        "spool/nars/17.nar.zst",
    ] {
        let child = daemon(&service.config())
            .arg("backup")
            .arg(&dest)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        kill_at(child, &unfinished.join(file));
        assert_eq!(names(&to), [".daily.nixci-unfinished"], "at {file}");
        let said = refused(&check(&unfinished));
        assert!(
            said.contains("not a backup, or not a whole one: it has no manifest.json"),
            "{said}"
        );
        let state = service.scratch().join("state-of-killed");
        let said = refused(&restore(&unfinished, &state));
        assert!(said.contains("it has no manifest.json"), "{said}");
        assert!(!state.exists(), "nothing was begun");
        // The daemon goes on, and collects: the lock is gone with who held it.
        let mut client = connect(&service.socket()).await;
        let collected: Collected = ask(&mut client, &Request::CollectGarbage { dry_run: false }).await;
        assert_eq!(collected.objects_before, LARGE);
    }
    // One that is under way is left alone by another. What the last one left would look like it.
    std::fs::remove_dir_all(&unfinished).unwrap();
    let mut slow = daemon(&service.config()).arg("backup").arg(&dest).spawn().unwrap();
    let since = Instant::now();
    while !unfinished.join("spool/nars/1.nar.zst").exists() {
        assert!(since.elapsed() < PATIENCE, "it does not begin");
        std::thread::yield_now();
    }
    let said = refused(&backup(&service, &dest));
    assert!(
        said.contains("another backup to") || said.contains("is there already"),
        "{said}"
    );
    assert!(slow.wait().unwrap().success());
    assert_eq!(names(&to), ["daily"]);
    good(&check(&dest));
    let state = service.scratch().join("restored");
    good(&restore(&dest, &state));
    look_through(&state).await;
    // What was left of others beside it goes too.
    std::fs::create_dir(to.join(".weekly.nixci-unfinished")).unwrap();
    backed_up(&service, &to.join("next"));
    assert_eq!(names(&to), ["daily", "next"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restore_that_is_killed_is_no_state_until_it_is_run_again() {
    let service = large().await;
    let from = service.scratch().join("backup");
    backed_up(&service, &from);
    let state = service.scratch().join("restored");
    let config = config_for(&state);
    for file in ["spool/nars/3.nar.zst", "spool/nars/17.nar.zst"] {
        let child = daemon(&config)
            .arg("restore")
            .arg(&from)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        kill_at(child, &state.join(".restore-unfinished").join(file));
        let said = refused(&daemon(&config).output().unwrap());
        assert!(
            said.contains("was cut off; run `nixci-daemon restore` again first"),
            "{said}"
        );
        let said = refused(
            &daemon(&config)
                .arg("backup")
                .arg(service.scratch().join("x"))
                .output()
                .unwrap(),
        );
        assert!(said.contains("there is no state of a daemon"), "{said}");
    }
    good(&daemon(&config).arg("restore").arg(&from).output().unwrap());
    assert_eq!(names(&state), ["index.db", "lock", "logs", "spool"]);
    look_through(&state).await;
}
