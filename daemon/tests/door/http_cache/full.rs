//! A disk for NARs that is really full.

use nixci_store::testing::{NixVersion, small_disk};

use super::Cached;

#[test]
fn clients_get_their_nars_when_the_disk_for_them_is_full() {
    let Some(folder) = small_disk("http_cache::full::clients_get_their_nars_when_the_disk_for_them_is_full") else {
        return;
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let cached = Cached::with(NixVersion::NEWEST, |config| {
            std::fs::create_dir_all(&config.state_dir).unwrap();
            std::os::unix::fs::symlink(&folder, config.state_dir.join("nars")).unwrap();
            // More than there is.
            config.cache.size = Some(1 << 30);
        })
        .await;
        let mut whole = Vec::new();
        for (name, size) in [("small", 400 << 10), ("large", 12 << 20)] {
            let path = cached.add(name, &[0, size]);
            let address = cached.narinfo(&path).await.of("URL").to_owned();
            let first = cached.bytes(&address).await;
            whole.push((address, first));
        }
        let [(small, small_bytes), (large, large_bytes)] = &whole[..] else {
            panic!("two NARs");
        };
        assert!(large_bytes.len() > 4 << 20, "it does not fit");
        // Asked for again it is to be kept, which fails in the middle of it, also for who joined meanwhile.
        for _ in 0..2 {
            let (one, other) = tokio::join!(cached.bytes(large), cached.bytes(large));
            assert!(one == *large_bytes && other == *large_bytes);
        }
        assert!(cached.sent("fill").await > 0);
        assert_eq!(cached.sent("disk").await, 0);
        assert!(cached.files().is_empty(), "nothing is left of it: {:?}", cached.files());

        // What fits is kept as ever.
        for _ in 0..2 {
            assert!(cached.bytes(small).await == *small_bytes);
        }
        assert!(cached.sent("disk").await > 0);
        assert_eq!(cached.files().len(), 1);
        cached.stop().await;
    });
}
