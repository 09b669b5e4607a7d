//! A disk that fills in the middle of an upload: what was durable stays, and there is one clear error.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod common;

use std::path::Path;

use common::items::{Item, item, noise, stream, valid, zstd_of};
use common::small_disk::SmallDisk;
use common::{ask, connect};
use nixci_protocol::client::{self, Connection};
use nixci_protocol::nixci::AddClosure;
use nixci_protocol::nixci::control::Request;

/// The disk, and what of it the ballast takes.
const DISK_MIB: usize = 110;
const BALLAST_MIB: usize = 70;

/// Takes room on the disk.
fn ballast(disk: &SmallDisk) {
    std::fs::write(disk.inside("ballast"), vec![1; BALLAST_MIB << 20]).unwrap();
}

fn make_room(disk: &SmallDisk) {
    std::fs::remove_file(disk.inside("ballast")).unwrap();
}

async fn add(client: &mut Connection, items: &[Item]) -> Result<u64, String> {
    let packed = zstd_of(&stream(items));
    match client.call_framed(&AddClosure {}, &packed[..], &mut ()).await {
        Ok(added) => Ok(added),
        Err(client::Error::Remote(error)) => Err(error.message),
        Err(error) => panic!("the connection is lost: {error}"),
    }
}

/// Reads an object back.
async fn has(client: &mut Connection, item: &Item) {
    let (size, mut content) = (item.info.info.nar_size, Vec::new());
    client
        .nar_from_path(&item.info.path, size, &mut content, &mut ())
        .await
        .unwrap();
    assert!(content == item.nar, "{}", item.info.path);
}

fn numbers(items: std::ops::Range<u64>) -> Vec<u64> {
    items.collect()
}

/// The names in the folder of large objects.
fn large_files(folder: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_in_the_middle_of_small_objects_keeps_the_first_of_them() {
    const COUNT: u64 = 480;
    let disk = SmallDisk::start(DISK_MIB).await;
    let mut client = connect(&disk.socket()).await;
    assert_eq!(add(&mut client, &[item(0, b"before", &[])]).await, Ok(1));
    ballast(&disk);
    // Forty-eight megabytes in batches of sixteen, where there is room for some.
    let items: Vec<Item> = (1..=COUNT).map(|at| item(at, &noise(at, 100_000), &[at - 1])).collect();
    let error = add(&mut client, &items).await.unwrap_err();
    let spool = disk.state().join("spool");
    assert!(
        error.contains(&format!("no space left in {}: free some", spool.display())) && !error.contains('\n'),
        "{error}"
    );
    let here = valid(&mut client, &numbers(0..COUNT + 1)).await;
    let kept = here.iter().filter(|valid| **valid).count() as u64;
    assert!(kept > 100 && kept < COUNT, "{kept} were kept");
    assert!(
        here[..usize::try_from(kept).unwrap()].iter().all(|valid| *valid),
        "the first are kept"
    );
    // Others are served, and are told the same.
    let mut other = connect(&disk.socket()).await;
    let _: serde_json::Value = ask(&mut other, &Request::Info).await;
    make_room(&disk);
    assert_eq!(add(&mut client, &items).await, Ok(COUNT + 1 - kept));
    assert_eq!(valid(&mut other, &numbers(0..COUNT + 1)).await, vec![true; 481]);
    for number in [1, kept, COUNT] {
        has(&mut other, &items[usize::try_from(number).unwrap() - 1]).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fills_in_the_middle_of_a_large_object_leaves_nothing_of_it() {
    let disk = SmallDisk::start(DISK_MIB).await;
    let mut client = connect(&disk.socket()).await;
    ballast(&disk);
    let large = item(2, &noise(2, 50 << 20), &[1]);
    let items = [item(1, b"first", &[]), large.clone(), item(3, b"last", &[2])];
    let error = add(&mut client, &items).await.unwrap_err();
    let nars = disk.state().join("spool/nars");
    assert!(
        error.contains(&format!("no space left in {}: free some", nars.display())) && !error.contains('\n'),
        "{error}"
    );
    assert_eq!(valid(&mut client, &numbers(1..4)).await, [true, false, false]);
    assert_eq!(large_files(&disk.inside("spool/nars")), Vec::<String>::new());
    make_room(&disk);
    assert_eq!(add(&mut client, &items).await, Ok(2));
    assert_eq!(valid(&mut client, &numbers(1..4)).await, [true; 3]);
    has(&mut client, &large).await;
}
