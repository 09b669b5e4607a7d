//! A process that is killed while it adds and collects: the test runs itself again, and again.

use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;

const FOLDER: &str = "NIXCI_TEST_KILLED_SPOOL";
const TEST: &str = "spool::tests::collecting::killed::a_collection_that_is_killed_leaves_a_spool_that_is_whole";
const KILLS: u64 = 12;

/// Adds and collects until it is killed.
async fn run(folder: &Path) {
    let spool = open(folder);
    for round in u64::from(std::process::id()) << 32.. {
        let bottom = source("bottom", file_nar(&noise(round, 20_000)), &[]);
        let large = source("large", file_nar(&noise(round, 300_000)), &[&bottom.0.path]);
        let tops = (0..50_u64).map(|nth| text("top", &[round, nth].map(u64::to_le_bytes).concat(), &[&bottom.0.path]));
        let tops: Vec<_> = tops.collect();
        spool
            .add(tops.iter().chain([&bottom]).cloned().map(proven).collect())
            .await
            .unwrap();
        add(&spool, &large).await;
        // Something of each block stays for a while.
        collect(&spool, &[&tops[7].0.path]).await;
    }
}

#[test]
fn a_collection_that_is_killed_leaves_a_spool_that_is_whole() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_time()
        .build()
        .unwrap();
    if let Some(folder) = std::env::var_os(FOLDER) {
        runtime.block_on(run(folder.as_ref()));
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", TEST])
            .env(FOLDER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It is at work once the database grows or changes; from then on any moment is as good as any other.
        let database = folder.path().join("spool.db-wal");
        let changed = || {
            std::fs::metadata(&database)
                .and_then(|file| Ok((file.len(), file.modified()?)))
                .ok()
        };
        let (before, since) = (changed(), Instant::now());
        while changed() == before {
            assert!(since.elapsed() < Duration::from_mins(1), "the child does nothing");
            assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
            std::thread::yield_now();
        }
        let until = Duration::from_micros(
            noise(kill, 2)
                .into_iter()
                .fold(0, |all, byte| all << 8 | u64::from(byte)),
        );
        let since = Instant::now();
        while since.elapsed() < until {
            std::thread::yield_now();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        runtime.block_on(async {
            let spool = open(folder.path());
            assert_whole(&spool).await;
            let conn = Connection::open(folder.path().join("spool.db")).unwrap();
            let said: String = conn.query_row("PRAGMA integrity_check", [], |row| row.get(0)).unwrap();
            assert_eq!(said, "ok");
            let files = "SELECT count(*) FROM object WHERE file IS NOT NULL";
            let named: i64 = conn.query_row(files, [], |row| row.get(0)).unwrap();
            let there = std::fs::read_dir(folder.path().join("nars")).unwrap().count();
            assert_eq!(there as i64, named, "files that no row names are removed");
            let without =
                "SELECT count(*) FROM block WHERE id NOT IN (SELECT block FROM object WHERE block IS NOT NULL)";
            let empty: i64 = conn.query_row(without, [], |row| row.get(0)).unwrap();
            assert_eq!(empty, 0, "no block is without an object");
            spool.close().await;
        });
    }
}
