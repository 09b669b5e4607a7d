//! References and names that are not what they should be.

use nixci_protocol::nixci::{OP_QUERY_VALID_BATCH, QueryValidBatch};
use nixci_protocol::wire::encode;

use super::*;
use crate::common::connect;

#[tokio::test(flavor = "multi_thread")]
async fn references_that_are_missing_late_or_in_a_circle_are_refused_and_what_came_before_stays() {
    let scene = Scene::new().await;
    let mut raw = Raw::ours(&scene.socket()).await;
    let mut client = connect(&scene.socket()).await;
    let missing = [item(1, b"1", &[]), item(2, b"2", &[1, 99]), item(3, b"3", &[])];
    let late = [item(11, b"11", &[]), item(12, b"12", &[13]), item(13, b"13", &[])];
    let circle = [item(21, b"21", &[]), item(22, b"22", &[23]), item(23, b"23", &[22])];
    for (items, reference) in [(missing, 99), (late, 13), (circle, 23)] {
        let numbers: Vec<u64> = (0..3).map(|at| reference / 10 % 9 * 10 + at + 1).collect();
        let error = add(&mut raw, &zstd_of(&stream(&items))).await.unwrap_err();
        let expected = format!(
            "{} refers to {}, which is not here: send it first",
            items[1].info.path,
            path(reference)
        );
        assert!(error.starts_with(&expected), "{error}");
        assert_eq!(valid(&mut client, &numbers).await, [true, false, false], "{error}");
        assert!(raw.goes_on().await);
    }
    // To itself is no circle; and what is sent again in the right order is taken.
    let itself = [item(31, b"31", &[31]), item(32, b"32", &[31, 32])];
    assert_eq!(add(&mut raw, &zstd_of(&stream(&itself))).await, Ok(2));
    let again = [item(11, b"11", &[]), item(13, b"13", &[]), item(12, b"12", &[13])];
    assert_eq!(add(&mut raw, &zstd_of(&stream(&again))).await, Ok(2));
    assert_eq!(valid(&mut client, &[11, 12, 13, 31, 32]).await, [true; 5]);
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_path_twice_is_stored_once() {
    let scene = Scene::new().await;
    let mut raw = Raw::ours(&scene.socket()).await;
    let large = item(1, &noise(1, 700_000), &[]);
    let small = item(2, b"small", &[1]);
    let twice = [large.clone(), large.clone(), small.clone(), small.clone()];
    assert_eq!(add(&mut raw, &zstd_of(&stream(&twice))).await, Ok(2));
    assert_eq!(large_files(&scene).len(), 1);
    assert_eq!(add(&mut raw, &zstd_of(&stream(&twice))).await, Ok(0));
    // What is there is not looked at again, whatever is said of it; but the stream ends where it ends.
    let mut lies = large.clone();
    lies.info.info.nar_size = u64::MAX;
    let error = add(&mut raw, &zstd_of(&stream(&[lies]))).await.unwrap_err();
    assert!(error.contains("the stream of paths ends after 1 paths"), "{error}");
    assert_eq!(large_files(&scene).len(), 1);
    let mut client = connect(&scene.socket()).await;
    let mut content = Vec::new();
    let size = large.info.info.nar_size;
    client
        .nar_from_path(&large.info.path, size, &mut content, &mut ())
        .await
        .unwrap();
    assert!(content == large.nar);
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn content_that_does_not_give_its_name_is_refused_even_from_root() {
    let scene = Scene::new().await;
    let mut raw = Raw::ours(&scene.socket()).await;
    let mut client = connect(&scene.socket()).await;
    for (name, content, method) in [
        ("x.drv", &drv("x")[..], ContentAddressMethod::Text),
        ("text", b"text", ContentAddressMethod::Text),
        ("source", b"source", ContentAddressMethod::Nar),
        ("large", &noise(1, 400_000), ContentAddressMethod::Nar),
    ] {
        let honest = proven(name, content, method);
        let mut changed = content.to_vec();
        changed[0] ^= 1;
        // Other content with the hashes it promises, other content with its own, and another name for the same.
        let promised = Item {
            nar: file(&changed),
            ..honest.clone()
        };
        let mut own = proven(name, &changed, method);
        own.info.path = honest.info.path.clone();
        let mut renamed = honest.clone();
        let other = proven(&format!("other-{name}"), content, method);
        renamed.info.path = other.info.path.clone();
        renamed.info.path = StorePath::new(*other.info.path.digest(), name).unwrap();
        let before = item(method as u64 * 10 + content.len() as u64, b"before", &[]);
        for lie in [promised, own, renamed] {
            let error = add(&mut raw, &zstd_of(&stream(&[before.clone(), lie.clone()])))
                .await
                .unwrap_err();
            assert!(error.contains(&lie.info.path.to_string()), "{name}: {error}");
            assert!(!error.contains('\n'), "{error}");
            assert!(raw.goes_on().await);
            let paths = [&before.info.path, &lie.info.path];
            let bits = client.call(&QueryValidBatch::of(paths), &mut ()).await.unwrap();
            assert_eq!((bits.get(0), bits.get(1)), (true, false), "{name}: {error}");
        }
        assert_eq!(add(&mut raw, &zstd_of(&stream(&[honest]))).await, Ok(1), "{name}");
    }
    assert_eq!(large_files(&scene).len(), 1, "what was refused left nothing");
    scene.others_go_on().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_of_digests_of_any_length_are_answered_or_refused() {
    let scene = Scene::with("[limits]\nmax_text = 65536\n").await;
    let mut raw = Raw::ours(&scene.socket()).await;
    let op = words(&[u64::from(OP_QUERY_VALID_BATCH)]);
    add(&mut raw, &zstd_of(&stream(&[item(5, b"5", &[])]))).await.unwrap();
    // As many bits as there are digests, rounded up to bytes, and no more.
    for count in [0, 1, 7, 8, 9, 3_276] {
        let paths: Vec<StorePath> = (0..count).map(path).collect();
        let question = QueryValidBatch::of(&paths);
        raw.send(&[op.clone(), encode(&raw.on, &question).to_vec()].concat())
            .await;
        assert_eq!(raw.said().await, Said::Done);
        let mut bits = vec![0; usize::try_from(count).unwrap().div_ceil(8)];
        if count > 5 {
            bits[0] = 1 << 5;
        }
        let reply = string(bits);
        assert_eq!(raw.take(reply.len()).await, reply, "{count} digests");
        assert!(raw.goes_on().await);
    }
    for (length, expected) in [
        (1, "1 bytes of digests are not a multiple of 20"),
        (19, "19 bytes of digests are not a multiple of 20"),
        (65_519, "65519 bytes of digests are not a multiple of 20"),
        (65_540, "string of 65540 bytes exceeds max_text (65536)"),
        (1 << 40, "exceeds max_text (65536)"),
        (u64::MAX, "exceeds max_text (65536)"),
    ] {
        let mut raw = Raw::ours(&scene.socket()).await;
        let sent = usize::try_from(length).unwrap_or(0).min(70_000).next_multiple_of(8);
        raw.send(&[op.clone(), words(&[length]), vec![0; sent]].concat()).await;
        match raw.said().await {
            Said::Error(error) => assert!(error.contains(expected), "{expected:?}: {error}"),
            other => panic!("{expected:?}: {other:?}"),
        }
        assert_eq!(raw.said().await, Said::Closed, "nobody knows where the request ends");
    }
    scene.others_go_on().await;
}
