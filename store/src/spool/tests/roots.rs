//! Sets of roots are recognised as long as all of them is here.

use std::collections::HashSet;
use std::time::Duration;

use nixci_protocol::nixci::RootsDigest;
use rusqlite::Connection;

use super::*;
use crate::index::Durability;
use crate::spool::roots::{Room, put};

fn digest(members: &[[u8; 20]]) -> RootsDigest {
    RootsDigest::of_members(&dir(), &mut members.to_vec())
}

/// Sets that are remembered, whether or not their members are here.
async fn remembered(spool: &Spool) -> Vec<Vec<u8>> {
    let rows = spool.database.read(|conn| {
        let mut find = conn.prepare("SELECT members FROM roots ORDER BY used")?;
        let rows = find.query_map([], |row| row.get(0))?;
        Ok(rows.collect::<rusqlite::Result<_>>()?)
    });
    rows.await.unwrap()
}

/// Removes what nobody needs.
async fn collect(spool: &Spool) {
    let garbage = spool
        .collect()
        .await
        .mark(HashSet::new(), Duration::ZERO)
        .await
        .unwrap();
    garbage.sweep().await.unwrap();
}

#[tokio::test]
async fn a_set_is_known_once_it_is_remembered_and_here_and_after_a_restart() {
    let (spool, folder) = spool();
    let (lib, lib_nar) = text("lib", b"lib", &[]);
    let (drv, drv_nar) = text("a.drv", b"Derive()", &[&lib.path]);
    let members = vec![*drv.path.digest(), *lib.path.digest()];
    let roots = digest(&members);
    assert!(!spool.knows_roots(roots).await.unwrap());

    // Before the objects, as clients say first what they are going to send.
    spool.remember_roots(roots, members.clone()).await.unwrap();
    assert!(!spool.knows_roots(roots).await.unwrap());
    spool.add(vec![proven((lib, lib_nar))]).await.unwrap();
    assert!(!spool.knows_roots(roots).await.unwrap(), "one of two is here");
    spool.add(vec![proven((drv, drv_nar))]).await.unwrap();
    assert!(spool.knows_roots(roots).await.unwrap());
    assert!(!spool.knows_roots(digest(&members[..1])).await.unwrap());
    spool.close().await;

    let spool = open(folder.path());
    let lease = spool.lease();
    {
        let _busy = lease.busy();
        assert!(spool.knows_roots(roots).await.unwrap());
    }
    // Who was told so keeps all of it.
    collect(&spool).await;
    assert!(spool.knows_roots(roots).await.unwrap());
    drop(lease);
    collect(&spool).await;
    assert_eq!(spool.len(), 0);
    assert!(!spool.knows_roots(roots).await.unwrap());
}

#[tokio::test]
async fn what_is_kept_is_bounded_and_what_was_used_last_stays() {
    let (spool, _folder) = spool();
    let sets: Vec<Vec<[u8; 20]>> = (1..=5_u8).map(|number| vec![[number; 20], [0; 20]]).collect();
    let room = |bytes, sets| Room { bytes, sets };
    for (nth, room) in [
        (0, room(120, 9)),
        (1, room(120, 9)),
        (2, room(120, 9)),
        (0, room(120, 9)),
        (3, room(120, 9)),
    ] {
        let members = sets[nth].clone();
        let roots = digest(&members);
        let written = spool
            .database
            .write(Durability::Process, move |tx| put(tx, &roots, &members, room));
        written.await.unwrap();
    }
    let kept = |numbers: &[usize]| numbers.iter().map(|nth| sets[*nth].concat()).collect::<Vec<_>>();
    assert_eq!(remembered(&spool).await, kept(&[2, 0, 3]));

    let (members, roots) = (sets[4].clone(), digest(&sets[4]));
    let written = spool
        .database
        .write(Durability::Process, move |tx| put(tx, &roots, &members, room(120, 2)));
    written.await.unwrap();
    assert_eq!(remembered(&spool).await, kept(&[3, 4]));

    // Too large for anything to be kept of it, and nothing at all.
    for members in [vec![[7; 20]; 400_001], Vec::new()] {
        spool.remember_roots(digest(&members), members).await.unwrap();
    }
    // Nor another set than the one that was asked for.
    spool.remember_roots(digest(&sets[0]), sets[1].clone()).await.unwrap();
    assert_eq!(remembered(&spool).await.len(), 2);
}

#[tokio::test]
async fn a_set_that_is_asked_for_becomes_the_newest() {
    let (spool, _folder) = spool();
    let [first, second] = [text("a", b"a", &[]), text("b", b"b", &[])];
    let members = [*first.0.path.digest(), *second.0.path.digest()];
    spool.add(vec![proven(first), proven(second)]).await.unwrap();
    for member in members {
        spool.remember_roots(digest(&[member]), vec![member]).await.unwrap();
    }
    assert_eq!(remembered(&spool).await, members);
    assert!(spool.knows_roots(digest(&members[..1])).await.unwrap());
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while remembered(&spool).await != [members[1], members[0]] {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap();
}

#[tokio::test]
async fn rows_of_earlier_schemas_are_read_by_todays_code() {
    let folder = tempfile::tempdir().unwrap();
    {
        let mut conn = Connection::open(folder.path().join("spool.db")).unwrap();
        MIGRATIONS.to_version(&mut conn, 1).unwrap();
        conn.execute_batch(include_str!("rows-1.sql")).unwrap();
        MIGRATIONS.to_version(&mut conn, 2).unwrap();
    }
    MIGRATIONS.validate().unwrap();
    let spool = open(folder.path());
    let [lib, drv] = [([0; 20], "lib"), ([1; 20], "a.drv")].map(|(digest, name)| StorePath::new(digest, name).unwrap());
    assert_eq!(
        spool.references(vec![drv.clone()]).await.unwrap(),
        [Some(vec![lib.clone()])]
    );
    let members = vec![*lib.digest(), *drv.digest()];
    spool.remember_roots(digest(&members), members.clone()).await.unwrap();
    assert!(spool.knows_roots(digest(&members)).await.unwrap());
}
