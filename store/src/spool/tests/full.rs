//! A disk that is really full.

use super::*;
use crate::index::{self, Index, derivations};
use crate::testing::small_disk;

const BALLAST: usize = 512 * 1024;

#[test]
fn a_full_disk_is_one_clear_error_and_the_spool_goes_on_afterwards() {
    let Some(folder) =
        small_disk("spool::tests::full::a_full_disk_is_one_clear_error_and_the_spool_goes_on_afterwards")
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        std::fs::write(folder.join("ballast"), noise(0, BALLAST)).unwrap();
        let spool = open(&folder);
        let object = |seed| source("src", file_nar(&noise(seed, 100_000)), &[]);
        let mut stored = Vec::new();
        let refused = loop {
            let next = object(stored.len() as u64 + 1);
            match spool.add(vec![proven(next.clone())]).await {
                Ok(added) => assert_eq!(added, 1),
                Err(error) => break (next, error),
            }
            stored.push(next);
        };
        assert!(stored.len() > 3, "{}", stored.len());
        let (waiting, error) = refused;
        let said = error.to_string();
        let named = folder.to_str().unwrap();
        assert!(
            said.contains("no space left in") && said.contains(named) && said.contains("free some"),
            "{said}"
        );

        let large = source("large", file_nar(&noise(99, 1_500_000)), &[]);
        let error = spool
            .receive(large.0.clone(), &mut &large.1[..], Authority::Untrusted)
            .await
            .unwrap_err();
        assert!(
            matches!(&error, Error::Full { dir } if dir.ends_with("nars")),
            "{error:?}"
        );
        assert!(!spool.contains(&waiting.0.path));
        assert_eq!(std::fs::read_dir(folder.join("nars")).unwrap().count(), 0);

        // Once there is room, everything goes on.
        std::fs::remove_file(folder.join("ballast")).unwrap();
        assert_eq!(spool.add(vec![proven(waiting.clone())]).await.unwrap(), 1);
        stored.push(waiting);
        spool.close().await;
        let spool = open(&folder);
        assert_eq!(spool.len(), stored.len());
        for (info, nar) in &stored {
            assert!(read(&spool, &info.path).await == *nar);
        }
    });
}

#[test]
fn a_full_disk_leaves_the_index_intact_and_its_writer_working() {
    let Some(folder) = small_disk("spool::tests::full::a_full_disk_leaves_the_index_intact_and_its_writer_working")
    else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().build().unwrap();
    runtime.block_on(async {
        std::fs::write(folder.join("ballast"), noise(0, BALLAST)).unwrap();
        let index = Index::open(&folder.join("index.db")).unwrap();
        let paths = |from: u64| -> Vec<StorePath> {
            (from..from + 500)
                .map(|at| StorePath::new(noise(at + 1, 20).try_into().unwrap(), &"n".repeat(100)).unwrap())
                .collect()
        };
        let mut known = 0;
        let error = loop {
            let next = paths(known);
            match index.write(move |tx| derivations::mention(tx, &next)).await {
                Ok(_) => known += 500,
                Err(error) => break error,
            }
        };
        assert!(
            matches!(&error, index::Error::Full { dir } if *dir == folder),
            "{error:?}"
        );
        std::fs::remove_file(folder.join("ballast")).unwrap();
        let next = paths(known);
        index
            .write_durable(move |tx| derivations::mention(tx, &next))
            .await
            .unwrap();
        index.close().await;
        let index = Index::open(&folder.join("index.db")).unwrap();
        for from in (0..=known).step_by(500) {
            let asked = paths(from);
            let ids = index.read(move |conn| derivations::ids(conn, &asked)).await.unwrap();
            assert!(ids.iter().all(Option::is_some), "those of {from} are lost");
        }
    });
}
