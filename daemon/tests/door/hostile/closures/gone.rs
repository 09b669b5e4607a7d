//! Clients that go away, and two that send the same at once.

use nixci_protocol::nixci::OP_ADD_CLOSURE;
use nixci_store::testing::poll_until;

use super::*;
use crate::common::connect;

/// Open files of the daemon.
fn open_files(scene: &Scene) -> usize {
    let pid = scene.service.pid().unwrap();
    std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

/// Resident memory in KiB, now.
fn resident(scene: &Scene) -> u64 {
    let pid = scene.service.pid().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// One round of clients that negotiate, send a part of a closure, and are gone, all at the same time.
async fn come_and_go(scene: &Scene, round: u64) {
    let large = item(round, &noise(round, 1_000_000), &[]);
    let packed = zstd_of(&stream(&[large]));
    let request = request(&packed);
    let mut here = Vec::new();
    for part in [0, 8, 16, 20, 400, request.len() / 2, request.len() - 9, request.len()] {
        // What it negotiated is protected while it is here, and it is still here when it goes.
        let mut client = connect(&scene.socket()).await;
        valid(&mut client, &[round, round + 1]).await;
        let mut raw = Raw::ours(&scene.socket()).await;
        raw.send(&request[..part]).await;
        here.push((client, raw));
    }
    drop(here);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_clients_that_are_gone_nothing_stays() {
    const ROUNDS: u64 = 40;
    let scene = Scene::new().await;
    // What the daemon opens and takes once.
    for round in 0..10 {
        come_and_go(&scene, round * 10).await;
    }
    let settled = |scene: &Scene| {
        let names = large_files(scene);
        names
            .iter()
            .all(|name| name.ends_with(".nar.zst"))
            .then_some(names.len())
    };
    poll_until("the first rounds to end", || settled(&scene));
    let mut client = connect(&scene.socket()).await;
    let (files, memory) = (open_files(&scene), resident(&scene));
    for round in 10..ROUNDS {
        come_and_go(&scene, round * 10).await;
    }
    poll_until("temporary files to be removed", || settled(&scene));
    poll_until("connections to be closed", || {
        (open_files(&scene) <= files).then_some(())
    });
    let grown = resident(&scene).saturating_sub(memory);
    println!("{files} open files, {memory} KiB before, {grown} KiB more after {ROUNDS} rounds");
    assert!(grown < 40 << 10, "{grown} KiB more");
    // Who sends it whole is served, and only one file is kept.
    let large = item(10_000, &noise(7, 1_000_000), &[]);
    let mut raw = Raw::ours(&scene.socket()).await;
    assert_eq!(add(&mut raw, &zstd_of(&stream(&[large]))).await, Ok(1));
    assert_eq!(valid(&mut client, &[10_000]).await, [true]);
    drop(raw);
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrived_whole_is_stored_although_nobody_waits_for_it() {
    let scene = Scene::new().await;
    let mut client = connect(&scene.socket()).await;
    for round in 0..50 {
        // A derivation takes two steps: the graph, then the spool.
        let item = proven("gone.drv", &drv(&round.to_string()), ContentAddressMethod::Text);
        let mut raw = Raw::ours(&scene.socket()).await;
        raw.send(&request(&zstd_of(&stream(std::slice::from_ref(&item))))).await;
        drop(raw);
        let question = QueryValidBatch::of([&item.info.path]);
        let waiting = async {
            while !client.call(&question, &mut ()).await.unwrap().get(0) {
                tokio::task::yield_now().await;
            }
        };
        let came = tokio::time::timeout(std::time::Duration::from_secs(20), waiting).await;
        assert!(came.is_ok(), "what came in round {round} is lost");
    }
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clients_that_upload_the_same_at_once_both_end_well_and_it_is_stored_once() {
    let scene = Scene::new().await;
    let items = [
        item(1, b"small", &[]),
        item(2, &noise(2, 1_000_000), &[1]),
        item(3, &noise(3, 600_000), &[1, 2]),
        item(4, b"top", &[1, 2, 3]),
    ];
    let packed = zstd_of(&stream(&items));
    let (first, rest) = packed.split_at(packed.len() / 2);
    let mut one = Raw::ours(&scene.socket()).await;
    let mut two = Raw::ours(&scene.socket()).await;
    // One is in the middle of a large object when the other begins, and ends after it.
    let begin = [words(&[u64::from(OP_ADD_CLOSURE), first.len() as u64]), first.to_vec()].concat();
    let end = [words(&[rest.len() as u64]), rest.to_vec(), words(&[0])].concat();
    one.send(&begin).await;
    poll_until("the first object to arrive", || {
        (!large_files(&scene).is_empty()).then_some(())
    });
    assert_eq!(add(&mut two, &packed).await, Ok(4));
    one.send(&end).await;
    assert_eq!(one.said().await, Said::Done);
    assert_eq!(one.take(8).await, words(&[0]));
    // And many in step.
    let later: Vec<Item> = (0..40)
        .map(|at| item(100 + at, &noise(at, if at % 10 == 0 { 400_000 } else { 900 }), &[4]))
        .collect();
    let packed = zstd_of(&stream(&later));
    let mut running = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let (socket, packed) = (scene.socket(), packed.clone());
        running.spawn(async move { add(&mut Raw::ours(&socket).await, &packed).await });
    }
    let mut added = 0;
    while let Some(ended) = running.join_next().await {
        added += ended.unwrap().unwrap();
    }
    assert_eq!(added, 40);
    assert_eq!(large_files(&scene).len(), 2 + 4);
    let mut client = connect(&scene.socket()).await;
    for item in items.iter().chain(&later) {
        let mut content = Vec::new();
        let size = item.info.info.nar_size;
        client
            .nar_from_path(&item.info.path, size, &mut content, &mut ())
            .await
            .unwrap();
        assert!(content == item.nar, "{}", item.info.path);
    }
    for raw in [&mut one, &mut two] {
        assert!(raw.goes_on().await);
    }
    drop((one, two));
    scene.others_go_on().await;
}
