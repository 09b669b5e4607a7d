//! Collections: what goes, what stays, and that the rest never notices.

use std::collections::HashSet;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use rusqlite::Connection;

use super::*;

mod killed;
mod model;
mod space;

/// Roots by path.
fn roots(of: &[&StorePath]) -> HashSet<[u8; 20]> {
    of.iter().map(|path| *path.digest()).collect()
}

/// Collects everything that nobody needs, however young.
async fn collect(spool: &Spool, of: &[&StorePath]) -> Freed {
    mark(spool, of).await.sweep().await.unwrap()
}

async fn mark(spool: &Spool, of: &[&StorePath]) -> Garbage {
    let collection = spool.collect().await;
    collection.mark(roots(of), Duration::ZERO).await.unwrap()
}

/// What is valid, without asking for it.
async fn listed(spool: &Spool) -> BTreeSet<String> {
    let all = spool.all().await.unwrap();
    assert_eq!(all.len(), spool.len(), "memory and rows agree");
    all.iter().map(|path| path.name().to_owned()).collect()
}

/// Every object has its references and its content. Asks for nothing.
async fn assert_whole(spool: &Spool) {
    let all = spool.all().await.unwrap();
    let digests: HashSet<[u8; 20]> = all.iter().map(|path| *path.digest()).collect();
    let (asked, blocks) = (all.clone(), spool.blocks.clone());
    let (references, found) = spool
        .database
        .read(move |conn| {
            let found: Vec<_> = asked.iter().map(|path| blocks.find(conn, path)).collect();
            Ok((objects::references(conn, &asked)?, found))
        })
        .await
        .unwrap();
    for (path, (references, found)) in all.iter().zip(references.into_iter().zip(found)) {
        for reference in references.unwrap() {
            assert!(digests.contains(reference.digest()), "{path} lost {reference}");
        }
        match found.unwrap().unwrap() {
            Found::Block(content) => assert!(!content.is_empty()),
            Found::File { name, .. } => assert!(spool.large.size(&name) > 0, "{path} lost {name}"),
        }
    }
}

async fn add(spool: &Spool, object: &(PathInfo, Bytes)) {
    let received = spool
        .receive(object.0.clone(), &mut &object.1[..], Authority::Untrusted)
        .await;
    spool.add(vec![received.unwrap()]).await.unwrap();
}

/// `top` refers to `middle`, which refers to `bottom`.
async fn chain(spool: &Spool) -> [(PathInfo, Bytes); 3] {
    let bottom = text("bottom", b"bottom", &[]);
    let middle = text("middle", b"middle", &[&bottom.0.path]);
    let top = text("top", b"top", &[&middle.0.path]);
    for object in [&bottom, &middle, &top] {
        add(spool, object).await;
    }
    [bottom, middle, top]
}

#[tokio::test]
async fn what_no_root_needs_goes_and_can_come_again() {
    let (spool, folder) = spool();
    let [bottom, middle, top] = chain(&spool).await;
    let found = mark(&spool, &[&middle.0.path]).await;
    assert_eq!((found.marked().objects, found.marked().dead), (3, 1));
    drop(found);
    assert_eq!(spool.len(), 3, "looking changes nothing");

    let freed = collect(&spool, &[&middle.0.path]).await;
    assert_eq!((freed.objects, freed.nar_bytes), (1, top.1.len() as u64));
    assert_eq!(
        listed(&spool).await,
        BTreeSet::from(["bottom", "middle"].map(str::to_owned))
    );
    assert!(!spool.contains(&top.0.path));
    assert!(spool.info(&top.0.path).await.unwrap().is_none());
    assert_whole(&spool).await;

    add(&spool, &top).await;
    assert_eq!(read(&spool, &top.0.path).await, top.1);
    assert_eq!(read(&spool, &bottom.0.path).await, bottom.1);
    collect(&spool, &[]).await;
    spool.close().await;
    assert!(open(folder.path()).is_empty());
}

#[tokio::test]
async fn what_is_young_stays_with_what_it_needs() {
    let (spool, _folder) = spool();
    chain(&spool).await;
    let old = |name: &'static str| {
        spool.database.write(Durability::Process, move |tx| {
            Ok(tx.execute("UPDATE object SET added = 1 WHERE name = ?1", [name])?)
        })
    };
    for name in ["bottom", "top"] {
        old(name).await.unwrap();
    }
    let hour = Duration::from_hours(1);
    let found = spool.collect().await.mark(HashSet::new(), hour).await.unwrap();
    found.sweep().await.unwrap();
    assert_eq!(
        listed(&spool).await,
        BTreeSet::from(["bottom", "middle"].map(str::to_owned))
    );
}

#[tokio::test]
async fn a_lease_protects_what_was_answered_in_any_way_until_it_is_dropped() {
    for way in 0..8 {
        let (spool, _folder) = spool();
        let [bottom, middle, _] = chain(&spool).await;
        let lease = spool.lease();
        // So that what was added does not count as asked for by this lease.
        collect(&spool, &[&middle.0.path]).await;
        {
            let _busy = lease.busy();
            let path = &middle.0.path;
            match way {
                0 => assert!(spool.contains(path)),
                1 => assert_eq!(spool.valid_batch(&[*path.digest()]), [1]),
                2 => drop(spool.info(path).await.unwrap().unwrap()),
                3 => drop(spool.references(vec![path.clone()]).await.unwrap()),
                4 => drop(spool.by_digest(path.digest()).await.unwrap().unwrap()),
                5 => drop(spool.nar(path).await.unwrap().unwrap()),
                6 => drop(spool.files(vec![path.clone()]).await.unwrap()),
                _ => assert_eq!(spool.add(vec![proven(middle.clone())]).await.unwrap(), 0),
            }
        }
        for _ in 0..40 {
            collect(&spool, &[]).await;
        }
        assert_eq!(spool.len(), 2, "way {way}");
        assert!(read(&spool, &bottom.0.path).await == bottom.1);
        assert_eq!(spool.leases(), 1);
        drop(lease);
        assert_eq!(spool.leases(), 0);
        collect(&spool, &[]).await;
        assert_eq!(spool.len(), 0, "way {way}");
    }
}

#[tokio::test]
async fn an_idle_lease_keeps_nothing_of_what_came_after_its_use() {
    let (spool, _folder) = spool();
    let idle = spool.lease();
    let asked = text("asked", b"asked", &[]);
    {
        let _busy = idle.busy();
        add(&spool, &asked).await;
    }
    for day in 0..100_u32 {
        let other = spool.lease();
        {
            let _busy = other.busy();
            add(&spool, &text(&format!("day-{day}"), &day.to_le_bytes(), &[])).await;
        }
        drop(other);
        collect(&spool, &[]).await;
        // What was added within the period that the first collection ended is the exception.
        assert!(spool.len() <= 2, "day {day}: {}", spool.len());
        assert!(spool.contains(&asked.0.path));
    }
    drop(idle);
    collect(&spool, &[]).await;
    assert_eq!(spool.len(), 0);
}

#[tokio::test]
async fn a_lease_that_is_in_use_all_the_time_loses_nothing_over_many_collections() {
    let (spool, _folder) = spool();
    let lease = spool.lease();
    let mut asked = Vec::new();
    for day in 0..100_u32 {
        let busy = lease.busy();
        let object = text(&format!("day-{day}"), &day.to_le_bytes(), &[]);
        add(&spool, &object).await;
        asked.push(object.0.path);
        if day % 3 == 0 {
            drop(busy);
            collect(&spool, &[]).await;
        } else {
            collect(&spool, &[]).await;
            drop(busy);
        }
        let here = spool.database.read(objects::all).await.unwrap();
        assert_eq!(here.len(), asked.len(), "day {day}");
    }
    drop(lease);
    collect(&spool, &[]).await;
    assert_eq!(spool.len(), 0);
}

#[tokio::test]
async fn what_is_asked_for_between_mark_and_sweep_stays_with_what_it_needs() {
    let (spool, _folder) = spool();
    let [_, middle, _] = chain(&spool).await;
    let garbage = mark(&spool, &[]).await;
    assert_eq!(garbage.marked().dead, 3);
    assert!(spool.contains(&middle.0.path));
    assert_eq!(garbage.sweep().await.unwrap().objects, 1);
    assert_eq!(
        listed(&spool).await,
        BTreeSet::from(["bottom", "middle"].map(str::to_owned))
    );
    assert_whole(&spool).await;
}

#[tokio::test]
async fn what_is_added_between_mark_and_sweep_keeps_what_it_refers_to() {
    let (spool, _folder) = spool();
    let [_, middle, top] = chain(&spool).await;
    let garbage = mark(&spool, &[]).await;
    // Without a question before, as by a client that was told in another connection.
    let late = text("late", b"late", &[&middle.0.path]);
    spool.add(vec![proven(late)]).await.unwrap();
    assert_eq!(garbage.sweep().await.unwrap().objects, 1);
    assert_eq!(
        listed(&spool).await,
        BTreeSet::from(["bottom", "middle", "late"].map(str::to_owned))
    );
    assert_whole(&spool).await;

    // What was there already is not written again, and stays all the same.
    spool.add(vec![proven(top.clone())]).await.unwrap();
    let garbage = mark(&spool, &[]).await;
    spool.add(vec![proven(top)]).await.unwrap();
    assert_eq!(garbage.sweep().await.unwrap().objects, 1);
    assert_eq!(
        listed(&spool).await,
        BTreeSet::from(["bottom", "middle", "top"].map(str::to_owned))
    );
    assert_whole(&spool).await;
}

#[tokio::test]
async fn references_that_came_later_than_what_refers_to_them_are_never_lost() {
    let (spool, _folder) = spool();
    let bottom = text("bottom", b"bottom", &[]);
    let middle = text("middle", b"middle", &[&bottom.0.path]);
    let top = text("top", b"top", &[&middle.0.path]);
    let batch = [&top, &middle, &bottom].map(|object| proven(object.clone()));
    spool.add(batch.into()).await.unwrap();
    collect(&spool, &[&top.0.path]).await;
    assert_eq!(spool.len(), 3);
    // The wrong way round they go one by one, each when nothing refers to it any more.
    for left in [2, 1, 0] {
        collect(&spool, &[]).await;
        assert_eq!(spool.len(), left);
        assert_whole(&spool).await;
    }
}

#[tokio::test]
async fn a_transaction_that_fails_takes_nothing_away() {
    let (spool, folder) = spool();
    let [bottom, middle, top] = chain(&spool).await;
    let large = source("large", file_nar(&noise(1, 300_000)), &[]);
    add(&spool, &large).await;
    let conn = Connection::open(folder.path().join("spool.db")).unwrap();
    conn.execute_batch(
        "CREATE TRIGGER broken BEFORE DELETE ON object WHEN old.name = 'middle'
         BEGIN SELECT RAISE(ABORT, 'the disk is on fire'); END",
    )
    .unwrap();
    let error = mark(&spool, &[]).await.sweep().await.unwrap_err();
    assert!(format!("{error:?}").contains("the disk is on fire"), "{error:?}");
    assert_eq!(spool.len(), 4);
    assert_whole(&spool).await;
    for object in [&bottom, &middle, &top, &large] {
        assert!(spool.contains(&object.0.path));
        assert!(read(&spool, &object.0.path).await == object.1);
    }
    conn.execute_batch("DROP TRIGGER broken").unwrap();
    collect(&spool, &[]).await;
    assert_eq!(spool.len(), 0);
    assert_eq!(std::fs::read_dir(folder.path().join("nars")).unwrap().count(), 0);
}

#[tokio::test]
async fn rows_of_the_first_schema_count_as_new() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("spool.db");
    {
        let mut conn = Connection::open(&path).unwrap();
        MIGRATIONS.to_version(&mut conn, 1).unwrap();
        conn.execute_batch(include_str!("../rows-1.sql")).unwrap();
    }
    let spool = open(folder.path());
    assert_eq!(spool.len(), 2);
    let garbage = spool
        .collect()
        .await
        .mark(HashSet::new(), Duration::from_hours(1))
        .await
        .unwrap();
    assert_eq!((garbage.marked().objects, garbage.marked().dead), (2, 0));
    drop(garbage);
    assert_whole(&spool).await;
    collect(&spool, &[]).await;
    assert_eq!(spool.len(), 0);
}

/// Clients that ask, send what they were not told is there, and read it all back, while collections run as fast as
/// they can.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn clients_never_notice_a_collection() {
    let (spool, _folder) = spool();
    let over = AtomicBool::new(false);
    let client = |seed: u64| {
        let spool = spool.clone();
        async move {
            for round in 0..12 {
                let lease = spool.lease();
                let mut below: Option<StorePath> = None;
                let mut mine = Vec::new();
                for level in 0..12_u64 {
                    let _busy = lease.busy();
                    // Shared with the others in part.
                    let content = [level, if level < 6 { round } else { seed }]
                        .map(u64::to_le_bytes)
                        .concat();
                    let references: Vec<&StorePath> = below.iter().collect();
                    let object = text(&format!("level-{level}"), &content, &references);
                    let [bits] = spool.valid_batch(&[*object.0.path.digest()])[..] else {
                        panic!("one digest has one bit");
                    };
                    if bits == 0 {
                        spool.add(vec![proven(object.clone())]).await.unwrap();
                    }
                    below = Some(object.0.path.clone());
                    mine.push(object);
                }
                for object in &mine {
                    assert_eq!(read(&spool, &object.0.path).await, object.1);
                }
            }
        }
    };
    let collecting = async {
        let mut gone = 0;
        while !over.load(SeqCst) {
            gone += collect(&spool, &[]).await.objects;
        }
        gone
    };
    let clients = async {
        futures_util::future::join_all((0..4).map(|seed| tokio::spawn(client(seed))))
            .await
            .into_iter()
            .for_each(|client| client.unwrap());
        over.store(true, SeqCst);
    };
    let (gone, ()) = tokio::join!(collecting, clients);
    assert!(gone > 0, "collections had something to do");
    assert_whole(&spool).await;
    assert_eq!(spool.leases(), 0);
    collect(&spool, &[]).await;
    assert_eq!(spool.len(), 0);
}

/// It also prints what it took; figures count only from an optimised build.
#[test]
fn a_million_digests_are_answered_leased_and_aged() {
    let digest = |at: u32| {
        let mut digest = [7; 20];
        digest[..4].copy_from_slice(&at.wrapping_mul(0x9e37_79b1).to_le_bytes());
        digest
    };
    let valid = Arc::new(Valid::new((0..1_000_000).map(digest).collect()));
    let asked: Vec<[u8; 20]> = (0..100_000).map(|at| digest(at * 11)).collect();
    let lease = valid.lease();
    let busy = lease.busy();
    for what in ["the first time", "again"] {
        let clock = Instant::now();
        let bits = valid.batch(&asked);
        eprintln!("validity of 100,000 {what}: {:?}", clock.elapsed());
        let ones: u32 = bits.iter().map(|byte| byte.count_ones()).sum();
        assert_eq!(ones, 1_000_000_u32.div_ceil(11));
    }
    drop(busy);
    for _ in 0..20 {
        let busy = lease.busy();
        valid.touch(&asked[..10]);
        drop(busy);
        let clock = Instant::now();
        let kept = valid.begin_period();
        eprintln!("a period begins: {:?}", clock.elapsed());
        let kept = valid.kept(&asked, kept);
        assert_eq!(kept.into_iter().filter(|kept| *kept).count(), asked.len());
    }
}
