//! Opening: new files, old ones with rows, newer ones, and what is no database.

use nixci_protocol::nixci::control::{AttemptId, EvaluationId, EvaluationState};
use nixci_protocol::nixci::outcome::FailureClass;
use nixci_protocol::types::{DrvOutput, Hash, NarHash, StorePath};
use rusqlite::Connection;

use super::super::attempts::AttemptResult;
use super::super::contents::Provenance;
use super::super::{DrvId, Error, Index, attempts, contents, derivations, evaluations, jobs, paths, schema};
use super::path;

/// Rows as version 1 wrote them. Later migrations are tested on these; they are never edited.
const ROWS_1: &str = include_str!("rows-1.sql");

/// Rows that version 2 wrote besides. Never edited either.
const ROWS_2: &str = include_str!("rows-2.sql");

#[test]
fn migrations_are_sound() {
    schema::MIGRATIONS.validate().unwrap();
}

#[tokio::test]
async fn rows_of_the_first_schema_are_read_by_todays_code() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index.db");
    {
        let mut conn = Connection::open(&file).unwrap();
        schema::MIGRATIONS.to_version(&mut conn, 1).unwrap();
        conn.execute_batch(ROWS_1).unwrap();
    }
    let index = Index::open(&file).unwrap();
    index
        .read(|conn| {
            let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
            assert_eq!(version, schema::KNOWN);

            let evaluation = evaluations::get(conn, EvaluationId(1))?.unwrap();
            assert_eq!(evaluation.submission.project, "acme/widgets");
            assert_eq!(evaluation.submission.labels["runner"], "hosted");
            assert_eq!(evaluation.state, EvaluationState::Building);

            let rows = jobs::of(conn, EvaluationId(1))?;
            assert_eq!(rows.len(), 2);
            assert_eq!(rows[0].attr.names(), ["checks", "x86_64-linux", "a.b"]);
            assert_eq!(rows[0].drv, Some((DrvId(1), path("top.drv"))));
            assert_eq!(rows[1].error.as_deref(), Some("attribute missing"));

            assert_eq!(derivations::inputs(conn, DrvId(1))?, [DrvId(2)]);
            let needs = derivations::requirements(conn, &[DrvId(1), DrvId(2)])?;
            assert_eq!(needs[0].as_ref().unwrap().features, ["big-parallel", "kvm"]);
            assert_eq!(needs[1], None);
            assert_eq!(derivations::outputs(conn, DrvId(1))?[0].path, Some(path("top")));

            let failed = attempts::get(conn, AttemptId(2))?.unwrap();
            assert_eq!(failed.result, Some(AttemptResult::Failed(FailureClass::HashMismatch)));
            assert_eq!((failed.message.as_str(), failed.log_lines), ("hash mismatch", 12));
            assert_eq!(attempts::running(conn)?[0].id, AttemptId(3));

            let info = paths::infos(conn, &[path("top")])?.remove(0).unwrap();
            assert_eq!(info.info.references.first(), Some(&path("lib")));
            assert_eq!(paths::stores(conn, &path("top"))?, ["auto"]);
            Ok(())
        })
        .await
        .unwrap();
}

#[tokio::test]
async fn rows_of_the_second_schema_are_read_by_todays_code() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index.db");
    {
        let mut conn = Connection::open(&file).unwrap();
        schema::MIGRATIONS.to_version(&mut conn, 1).unwrap();
        conn.execute_batch(ROWS_1).unwrap();
        schema::MIGRATIONS.to_version(&mut conn, 2).unwrap();
        conn.execute_batch(ROWS_2).unwrap();
    }
    let index = Index::open(&file).unwrap();
    index
        .read(|conn| {
            let hash = NarHash([0; 32]);
            let mut digest = *path("top").digest();
            digest[0] = 0x39;
            let floating = StorePath::new(digest, "floating").unwrap();
            let asked = [(path("top"), hash), (floating.clone(), hash)];
            // `top` has failed here, and only its NAR was read.
            assert_eq!(
                contents::provenance(conn, "auto", &asked)?,
                [Provenance::Foreign, Provenance::Built { read: None }]
            );
            let mut modulo = [0; 32];
            (modulo[0], modulo[31]) = (0x11, 0x11);
            let id = DrvOutput {
                drv_hash: Hash::from_sha256(modulo),
                output: "out".parse().unwrap(),
            };
            assert!(contents::is_realised(conn, "auto", &id, &floating)?);
            Ok(())
        })
        .await
        .unwrap();
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index.db");
    drop(Index::open(&file).unwrap());
    let conn = Connection::open(&file).unwrap();
    conn.pragma_update(None, "user_version", 99).unwrap();
    let error = Index::open(&file).unwrap_err();
    assert!(matches!(error, Error::NewerSchema { found: 99, .. }), "{error:?}");
    assert!(error.to_string().contains("run the newer version again"), "{error}");
    let kept: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0)).unwrap();
    assert_eq!(kept, 99);
}

#[test]
fn what_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("index.db");
    std::fs::write(&file, "not a database, but long enough to look at".repeat(50)).unwrap();
    let error = Index::open(&file).unwrap_err();
    assert!(matches!(&error, Error::Open { .. }), "{error:?}");
    assert!(error.to_string().contains("index.db"), "{error}");
    assert!(matches!(
        Index::open(&dir.path().join("no/such/folder/index.db")),
        Err(Error::Open { .. })
    ));
}
