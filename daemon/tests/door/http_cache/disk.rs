//! What is kept on disk, and stores that die.

use nixci_daemon::Config;
use nixci_store::testing::NixVersion;
use reqwest::header::{CACHE_CONTROL, RANGE, RETRY_AFTER};
use reqwest::{Method, StatusCode};

use super::{Cached, header};

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_dies_in_the_middle_of_a_nar_breaks_the_answer_off() {
    let cached = Cached::start(NixVersion::V2_34).await;
    let path = cached.add("dies", &[0, 250 << 20]);
    let small = cached.add("small", &[0, 2 << 20]);
    let packed = cached.narinfo(&path).await.of("URL").to_owned();
    let plain = packed.strip_suffix(".zst").unwrap().to_owned();
    let small_packed = cached.narinfo(&small).await.of("URL").to_owned();
    let kept = cached.bytes(&small_packed).await;
    assert_eq!(cached.bytes(&small_packed).await, kept);
    assert_eq!(cached.files().len(), 1);

    // On the fly; while it is filled; as it is.
    for (address, how) in [(&packed, "store"), (&packed, "fill"), (&plain, "store")] {
        let before = cached.sent(how).await;
        let mut response = cached.get(address).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert!(!response.chunk().await.unwrap().unwrap().is_empty());
        assert_eq!(cached.sent(how).await, before + 1);
        cached.store.kill9();
        let broken = loop {
            match response.chunk().await {
                Ok(Some(_)) => {}
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(broken, "{address} ended well");
        cached.store.start_again();
        assert_eq!(cached.files().len(), 1, "nothing of it was kept");
    }

    // While it is gone nobody is told that something is not there.
    cached.store.kill9();
    for unknown in [format!("{}.narinfo", "0".repeat(32)), plain.clone()] {
        for method in [Method::GET, Method::HEAD] {
            let response = cached.ask(method, &unknown).send().await.unwrap();
            if unknown != plain {
                assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{unknown}");
                assert_eq!(header(&response, &CACHE_CONTROL), "no-store");
                assert!(header(&response, &RETRY_AFTER).parse::<u32>().unwrap() > 0);
            }
            assert_ne!(response.status(), StatusCode::NOT_FOUND, "{unknown}");
        }
    }
    assert_eq!(
        cached.bytes(&small_packed).await,
        kept,
        "what is on disk is there all the same"
    );
    cached.store.start_again();
    let response = cached.get(&format!("{}.narinfo", "0".repeat(32))).await;
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
    assert_eq!(cached.bytes(&packed).await.len(), cached.bytes(&packed).await.len());
    cached.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_for_twice_is_kept_and_no_more_than_fits() {
    let small = |config: &mut Config| config.cache.size = Some(8 << 20);
    let cached = Cached::with(NixVersion::V2_34, small).await;
    let mut addresses = Vec::new();
    for name in ["a", "bb", "ccc"] {
        let path = cached.add(name, &[1, 3 << 20]);
        addresses.push(cached.narinfo(&path).await.of("URL").to_owned());
    }
    let first = cached.bytes(&addresses[0]).await;
    assert_eq!((cached.files().len(), cached.sent("store").await), (0, 1));
    // Two at once, and one that goes away.
    let leaving = cached.get(&addresses[0]).await;
    let (second, third) = tokio::join!(cached.bytes(&addresses[0]), cached.bytes(&addresses[0]));
    drop(leaving);
    assert!(second == first && third == first);
    assert_eq!(cached.files().len(), 1, "one file, however many asked");
    let from_disk = cached.sent("disk").await;
    assert_eq!(cached.bytes(&addresses[0]).await, first);
    assert_eq!(
        (cached.sent("disk").await, cached.sent("store").await),
        (from_disk + 1, 1)
    );

    let mut whole = vec![first];
    for address in &addresses[1..] {
        let once = cached.bytes(address).await;
        assert_eq!(cached.bytes(address).await, once);
        whole.push(once);
    }
    assert_eq!(cached.files().len(), 2, "the least recently used one went");
    let held: u64 = cached.files().iter().map(|file| file.metadata().unwrap().len()).sum();
    assert!(held <= 8 << 20);

    // Larger than may be kept: that shows only while it is written, and the answer goes on without it.
    let path = cached.add("too-large", &[1, 6 << 20]);
    let large = cached.narinfo(&path).await.of("URL").to_owned();
    let once = cached.bytes(&large).await;
    for _ in 0..2 {
        assert!(cached.bytes(&large).await == once);
    }
    let part = cached
        .ask(Method::GET, &large)
        .header(RANGE, "bytes=5-")
        .send()
        .await
        .unwrap();
    assert_eq!(
        part.status(),
        StatusCode::OK,
        "its length is never known: the whole of it"
    );
    assert!(part.bytes().await.unwrap() == once);
    assert_eq!(
        cached.files().len(),
        1,
        "it took one place, and not again once that was known"
    );

    // A restart keeps them; a damaged one is found out before a byte of it is sent.
    let cached = cached.again(small).await;
    let from_disk = cached.sent("disk").await;
    assert!(cached.bytes(&addresses[2]).await == whole[2]);
    assert_eq!(cached.sent("disk").await, from_disk + 1);
    for file in cached.files() {
        let mut bytes = std::fs::read(&file).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x10;
        std::fs::write(&file, bytes).unwrap();
    }
    let cached = cached.again(small).await;
    for (address, whole) in addresses.iter().zip(&whole) {
        assert!(cached.bytes(address).await == *whole);
    }
    assert_eq!(cached.sent("disk").await, from_disk + 1);

    // A disk that takes nothing is nobody's problem.
    std::fs::remove_dir_all(cached.home.path().join("state/nars")).unwrap();
    for (address, whole) in addresses.iter().zip(&whole) {
        for _ in 0..2 {
            assert!(cached.bytes(address).await == *whole);
        }
    }
    let off = cached.again(|config| config.cache.size = Some(0)).await;
    for _ in 0..3 {
        assert!(off.bytes(&addresses[0]).await == whole[0]);
    }
    assert!(off.files().is_empty());
    let none = off.again(|config| config.cache.serve = false).await;
    assert_eq!(none.get("nix-cache-info").await.status(), StatusCode::NOT_FOUND);
    assert_eq!(none.get(&addresses[0]).await.status(), StatusCode::NOT_FOUND);
    none.stop().await;
}
