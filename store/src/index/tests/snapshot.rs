//! Copies of an index.

use rusqlite::Connection;

use super::*;
use crate::index::snapshot::{Snapshot, check, contents, take_up};

#[tokio::test]
async fn a_copy_shows_one_moment_while_others_write() {
    let (index, dir) = index();
    let add = |number: i64| {
        move |tx: &Transaction<'_>| {
            tx.execute("INSERT INTO project (name) VALUES (?1)", [format!("project-{number}")])?;
            Ok(())
        }
    };
    for number in 0..500 {
        index.write(add(number)).await.unwrap();
    }
    let snapshot = Snapshot::of_index(&dir.path().join("index.db")).unwrap();
    for number in 500..600 {
        index.write(add(number)).await.unwrap();
    }
    let to = dir.path().join("copy.db");
    let file = std::fs::File::create_new(&to).unwrap();
    snapshot.copy(&to, &file).unwrap();
    let schema = snapshot.schema();
    drop(snapshot);
    let mut beside = std::fs::read_dir(dir.path()).unwrap();
    assert!(beside.all(|entry| {
        let name = entry.unwrap().file_name();
        name == "copy.db" || !name.to_string_lossy().starts_with("copy")
    }));
    let conn = check(&to, schema).unwrap();
    let projects: i64 = conn
        .query_row("SELECT count(*) FROM project", [], |row| row.get(0))
        .unwrap();
    assert_eq!(projects, 500);
    assert_eq!(contents(&conn).unwrap().evaluations, 0);
    assert!(check(&to, schema + 1).is_err());
    index.close().await;
}

#[test]
fn what_is_taken_up_leaves_out_numbers_and_doubts_what_was_not_sent() {
    const HOUR: i64 = 3_600_000;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("index.db");
    drop(Index::open(&path).unwrap());
    let conn = Connection::open(&path).unwrap();
    conn.execute_batch("INSERT INTO project (id, name) VALUES (1, 'o/r')")
        .unwrap();
    let taken = 100 * HOUR;
    // Two hundred in the last hour, and some long before.
    for nth in 1..=300 {
        let created = if nth <= 100 { HOUR } else { taken - HOUR / 2 };
        conn.execute(
            "INSERT INTO evaluation (key, project, source, labels, principal, state, created)
             VALUES (?1, 1, 's', '{}', 'p', 'building', ?2)",
            rusqlite::params![format!("key{nth}"), created],
        )
        .unwrap();
    }
    let status = |context: &str, tried: &str, sent: &str, refused: &str| {
        conn.execute_batch(&format!(
            "INSERT INTO status (forge, repository, commit_id, context, evaluation, role, seq, state, content, wanted,
                tried_seq, tried, sent_seq, refused)
             VALUES ('f', 'o/r', 'c', '{context}', 1, 'summary', 3, 'success', '{{}}', 7, {tried}, {sent}, {refused})"
        ))
        .unwrap();
    };
    status("sent", "3, 8", "3", "NULL");
    status("waits", "NULL, NULL", "NULL", "NULL");
    status("older", "2, 8", "2", "NULL");
    status("refused", "2, 8", "2", "9");
    drop(conn);
    take_up(&path, taken, taken + HOUR).unwrap();
    let conn = Connection::open(&path).unwrap();
    let next = |table: &str| -> i64 {
        let find = "SELECT seq + 1 FROM sqlite_sequence WHERE name = ?1";
        conn.query_row(find, [table], |row| row.get(0)).unwrap()
    };
    assert_eq!(next("evaluation"), 300 + 2_000 + 1);
    assert_eq!((next("attempt"), next("status")), (1_001, 1_005));
    let doubts = |context: &str| -> (Option<i64>, Option<i64>) {
        let find = "SELECT tried_seq, tried FROM status WHERE context = ?1";
        conn.query_row(find, [context], |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap()
    };
    assert_eq!(doubts("sent"), (Some(3), Some(8)));
    assert_eq!(doubts("waits"), (Some(3), Some(7)));
    assert_eq!(doubts("older"), (Some(3), Some(8)));
    assert_eq!(doubts("refused"), (Some(2), Some(8)));
}
