//! What collections give back of the disk.

use super::*;

fn size_of(folder: &Path) -> u64 {
    let conn = Connection::open(folder.join("spool.db")).unwrap();
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))
        .unwrap();
    std::fs::metadata(folder.join("spool.db")).unwrap().len()
}

#[tokio::test]
async fn blocks_and_files_go_and_the_database_shrinks() {
    let (spool, folder) = spool();
    let lonely = |at: u64| source(&format!("src-{at}"), file_nar(&noise(at, 40_000)), &[]);
    let mut kept = Vec::new();
    for batch in 0..20_u64 {
        // Several share a block, of which one stays.
        let objects: Vec<_> = (0..6).map(|nth| lonely(batch * 6 + nth)).collect();
        spool.add(objects.iter().cloned().map(proven).collect()).await.unwrap();
        kept.push(objects[2].clone());
    }
    let large = [1, 2].map(|seed| source(&format!("large-{seed}"), file_nar(&noise(seed, 600_000)), &[]));
    for object in &large {
        add(&spool, object).await;
    }
    kept.push(large[0].clone());
    let blocks = |spool: &Spool| {
        let spool = spool.clone();
        async move {
            let count =
                |conn: &Connection| Ok(conn.query_row("SELECT count(*) FROM block", [], |row| row.get::<_, i64>(0))?);
            spool.database.read(count).await.unwrap()
        }
    };
    assert_eq!(blocks(&spool).await, 20);
    let before = size_of(folder.path());
    let paths: Vec<&StorePath> = kept.iter().map(|(info, _)| &info.path).collect();
    let found = mark(&spool, &paths).await;
    let expected = found.marked().disk_bytes;
    let freed = found.sweep().await.unwrap();
    assert_eq!(freed.objects, 101);
    assert!(freed.disk_bytes > 100 * 40_000 + 600_000, "{freed:?}");
    assert!(
        freed.disk_bytes.abs_diff(expected) < expected / 10,
        "{freed:?}, and {expected} were promised"
    );
    // Twenty of 40,000 bytes, at most six to a block.
    assert!(blocks(&spool).await <= 6, "{}", blocks(&spool).await);
    assert_eq!(std::fs::read_dir(folder.path().join("nars")).unwrap().count(), 1);
    let after = size_of(folder.path());
    assert!(after < before / 3, "{before} bytes became {after}");
    for spool in [spool.clone(), open(folder.path())] {
        for (info, nar) in &kept {
            assert!(read(&spool, &info.path).await == *nar, "{}", info.path);
        }
    }
    // What was packed anew is not packed again.
    assert_eq!(collect(&spool, &paths).await, Freed::default());
}

#[tokio::test]
async fn a_nar_that_is_being_read_is_read_to_its_end() {
    let (spool, _folder) = spool();
    let large = source("large", file_nar(&noise(1, 3_000_000)), &[]);
    let small = source("small", file_nar(&noise(2, 30_000)), &[]);
    for object in [&large, &small] {
        add(&spool, object).await;
        let mut nar = spool.nar(&object.0.path).await.unwrap().unwrap();
        collect(&spool, &[]).await;
        assert_eq!(spool.len(), 0);
        let mut content = Vec::new();
        nar.read_to_end(&mut content).await.unwrap();
        assert!(content == object.1);
    }
}
