//! Commands of a daemon, and what is found in a state folder.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use nixci_protocol::nixci::control::AttemptId;
use nixci_protocol::types::{StoreDir, StorePath};
use nixci_store::logs::{Entry, Logs};
use nixci_store::spool::Spool;
use nixci_store::testing::Service;
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// The program under test, with a configuration.
pub(crate) fn daemon(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_nixci-daemon"));
    command.env("NIXCI_CONFIG", config);
    command
}

pub(crate) fn backup(service: &Service, to: &Path) -> Output {
    daemon(&service.config()).arg("backup").arg(to).output().unwrap()
}

/// Takes a backup, and returns what it says of itself.
pub(crate) fn backed_up(service: &Service, to: &Path) -> Value {
    let output = daemon(&service.config())
        .args(["backup", "--json"])
        .arg(to)
        .output()
        .unwrap();
    serde_json::from_slice(&good(&output)).unwrap()
}

/// Standard output of what must have succeeded.
pub(crate) fn good(output: &Output) -> Vec<u8> {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout.clone()
}

/// The one line of what must have been refused.
pub(crate) fn refused(output: &Output) -> String {
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert_eq!(said.lines().count(), 1, "one line: {said}");
    let said = said.strip_prefix("nixci-daemon: ").expect("it says who speaks");
    said.trim_end().to_owned()
}

/// A configuration with this state folder and no stores that answer.
pub(crate) fn config_for(state: &Path) -> PathBuf {
    let file = state.with_extension("toml");
    let text = format!(
        "state_dir = \"{}\"\n[listen]\nsocket = \"{}\"\nhttp = \"off\"\n[[store]]\nname = \"none\"\nuri = \"unix:///nowhere\"\n",
        state.display(),
        state.with_extension("socket").display()
    );
    std::fs::write(&file, text).unwrap();
    file
}

/// Restores into a new state folder.
pub(crate) fn restore(from: &Path, state: &Path) -> Output {
    daemon(&config_for(state)).arg("restore").arg(from).output().unwrap()
}

pub(crate) fn check(backup: &Path) -> Output {
    Command::new(env!("CARGO_BIN_EXE_nixci-daemon"))
        .args(["restore", "--check"])
        .arg(backup)
        .output()
        .unwrap()
}

pub(crate) fn open(database: &Path) -> Connection {
    Connection::open_with_flags(database, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap()
}

fn texts(conn: &Connection, sql: &str) -> Vec<String> {
    let mut find = conn.prepare(sql).unwrap();
    let rows = find.query_map([], |row| row.get(0)).unwrap();
    rows.collect::<rusqlite::Result<_>>().unwrap()
}

/// What a state has.
#[derive(Debug)]
pub(crate) struct Found {
    /// The keys of evaluations.
    pub(crate) keys: BTreeSet<String>,
    pub(crate) open: usize,
    pub(crate) logs: usize,
    pub(crate) objects: usize,
}

/// Looks through a state folder without a daemon: whatever the index refers to must be there, whole.
pub(crate) async fn look_through(state: &Path) -> Found {
    let index = open(&state.join("index.db"));
    for file in [state.join("index.db"), state.join("spool/spool.db")] {
        let conn = open(&file);
        assert_eq!(texts(&conn, "PRAGMA integrity_check"), ["ok"], "{}", file.display());
        let mut dangling = conn.prepare("PRAGMA foreign_key_check").unwrap();
        assert!(!dangling.exists([]).unwrap(), "{}", file.display());
    }
    assert_private(state);

    let spool = Spool::open(&state.join("spool"), StoreDir::default()).unwrap();
    let mut of_jobs = index
        .prepare(
            "SELECT DISTINCT digest, name FROM job JOIN derivation d ON d.id = drv
             WHERE evaluation IN (SELECT id FROM evaluation WHERE state IN ('receiving', 'building'))",
        )
        .unwrap();
    let rows = of_jobs.query_map([], |row| Ok((row.get::<_, [u8; 20]>(0)?, row.get::<_, String>(1)?)));
    let mut next: Vec<StorePath> = rows
        .unwrap()
        .map(|row| row.unwrap())
        .map(|(digest, name)| StorePath::new(digest, &name).unwrap())
        .collect();
    let mut seen: BTreeSet<StorePath> = next.iter().cloned().collect();
    while let Some(path) = next.pop() {
        let info = spool.info(&path).await.unwrap();
        let info = info.unwrap_or_else(|| panic!("{path} is in the spool")).info;
        let mut nar = spool.nar(&path).await.unwrap().expect("its content is there");
        let mut content = Vec::new();
        tokio::io::AsyncReadExt::read_to_end(&mut nar, &mut content)
            .await
            .unwrap();
        assert_eq!(nixci_protocol::types::NarHash::of(&content), info.nar_hash, "{path}");
        for reference in info.references {
            if seen.insert(reference.clone()) {
                next.push(reference);
            }
        }
    }
    spool.close().await;

    let logs = Logs::open(&state.join("logs")).unwrap();
    let mut of_attempts = index
        .prepare("SELECT id, log_lines, result IS NULL FROM attempt WHERE log_lines IS NULL OR log_lines > 0")
        .unwrap();
    let rows = of_attempts.query_map([], |row| {
        Ok((
            row.get::<_, i64>(0)?,
            row.get::<_, Option<i64>>(1)?,
            row.get::<_, bool>(2)?,
        ))
    });
    let mut found = 0;
    for row in rows.unwrap() {
        let (id, lines, is_running) = row.unwrap();
        let mut read = logs.read(AttemptId(id));
        let (mut got, mut is_broken) = (0, false);
        while let Some(entry) = read.next().await.unwrap() {
            match entry {
                Entry::Line(_) => got += 1,
                Entry::Broken => is_broken = true,
                Entry::Phase(_) | Entry::Truncated { .. } | Entry::Unwritten => {}
            }
        }
        if !is_running && let Some(lines) = lines {
            assert!(
                got == lines && !is_broken,
                "log {id}: {got} of {lines} lines, broken: {is_broken}"
            );
            found += 1;
        }
    }
    Found {
        keys: texts(&index, "SELECT key FROM evaluation").into_iter().collect(),
        open: texts(
            &index,
            "SELECT key FROM evaluation WHERE state IN ('receiving', 'building')",
        )
        .len(),
        logs: found,
        objects: seen.len(),
    }
}

/// Nobody but the owner may look into it.
fn assert_private(folder: &Path) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let mode = entry.metadata().unwrap().permissions().mode();
        // What SQLite and the lock put there is inside a folder that is closed.
        let is_kept = entry.file_name() == "lock" || entry.file_name().to_string_lossy().ends_with("-shm");
        assert!(
            is_kept || mode.trailing_zeros() >= 6,
            "{} has mode {mode:o}",
            entry.path().display()
        );
        if entry.path().is_dir() {
            assert_private(&entry.path());
        }
    }
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Puts the state of a backup in the place of a service's own, and starts it on that.
pub(crate) fn replace_state(service: &Service, from: &Path) {
    service.stop();
    std::fs::remove_dir_all(service.scratch().join("state")).unwrap();
    good(&daemon(&service.config()).arg("restore").arg(from).output().unwrap());
    service.start_again();
}
