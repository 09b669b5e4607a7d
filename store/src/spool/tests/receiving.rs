//! Taking objects from streams.

use nixci_protocol::types::{AddMethod, HashAlgo};

use tokio::io::AsyncWriteExt as _;

use super::*;

#[tokio::test]
async fn a_refused_object_leaves_the_stream_where_the_next_one_begins() {
    let (spool, folder) = spool();
    for size in [100, 400_000] {
        let (mut wrong, nar) = source("wrong", file_nar(&noise(1, size)), &[]);
        wrong.info.nar_hash = NarHash([7; 32]);
        let (right, next) = source("right", file_nar(&noise(2, size)), &[]);
        let stream = [nar, next].concat();
        let mut stream = &stream[..];
        let error = spool.receive(wrong, &mut stream, Authority::Trusted).await.unwrap_err();
        assert!(matches!(error, Error::Verify(VerifyError::NarHash { .. })), "{error}");
        let received = spool.receive(right, &mut stream, Authority::Untrusted).await.unwrap();
        assert!(stream.is_empty());
        drop(received);
    }
    // What was received and not added leaves nothing.
    assert_eq!(std::fs::read_dir(folder.path().join("nars")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_stream_that_ends_early_is_said_to() {
    let (spool, folder) = spool();
    for size in [100, 400_000] {
        let (info, nar) = source("cut", file_nar(&noise(1, size)), &[]);
        let mut stream = &nar[..nar.len() - 10];
        let error = spool
            .receive(info.clone(), &mut stream, Authority::Trusted)
            .await
            .unwrap_err();
        let expected = format!(
            "the content of {} ended after {} of {} bytes",
            info.path,
            nar.len() - 10,
            nar.len()
        );
        assert_eq!(error.to_string(), expected);
    }
    assert_eq!(std::fs::read_dir(folder.path().join("nars")).unwrap().count(), 0);
    let (mut huge, _) = source("huge", b"x".to_vec(), &[]);
    huge.info.nar_size = u64::MAX;
    let error = spool
        .receive(huge, &mut &b"x"[..], Authority::Trusted)
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Short { got: 1, .. }), "{error}");
}

#[tokio::test]
async fn dumps_get_the_paths_nix_gives_them() {
    let (spool, _folder) = spool();
    let method = |method, algo| AddMethod { method, algo };
    let sha256 = HashAlgo::Sha256;
    let nar = file_nar(b"hello\n");
    // What Nix 2.34.8 answered to `AddToStore`.
    for (name, how, dump, expected) in [
        (
            "u",
            method(ContentAddressMethod::Text, sha256),
            &b"u"[..],
            "7lmww5ks62qvwklysqlsfbn6p4yl2ijr-u",
        ),
        (
            "x",
            method(ContentAddressMethod::Flat, sha256),
            b"hello\n",
            "974pyy65p8annw3kp4ibcknbhz1pndwm-x",
        ),
        (
            "x",
            method(ContentAddressMethod::Nar, sha256),
            &nar,
            "m5zd3qj7c4bs4g5d8hqvs5pc5xicclfg-x",
        ),
        (
            "x",
            method(ContentAddressMethod::Nar, HashAlgo::Sha1),
            &nar,
            "1m8hwvaiqwwr1adbqyk91zavsxx4cpbg-x",
        ),
    ] {
        let received = spool
            .receive_dump(name, how, BTreeSet::new(), &mut &dump[..])
            .await
            .unwrap();
        assert_eq!(received.info().path.to_string(), expected);
        spool.add(vec![received]).await.unwrap();
    }
    for (how, content) in [
        (method(ContentAddressMethod::Flat, HashAlgo::Sha512), noise(3, 1000)),
        (method(ContentAddressMethod::Flat, HashAlgo::Md5), noise(3, 700_001)),
        (method(ContentAddressMethod::Flat, sha256), noise(3, 700_000)),
        (
            method(ContentAddressMethod::Nar, HashAlgo::Sha512),
            file_nar(&noise(4, 700_000)),
        ),
    ] {
        let received = spool
            .receive_dump("big", how, BTreeSet::new(), &mut &content[..])
            .await
            .unwrap();
        let path = received.info().path.clone();
        spool.add(vec![received]).await.unwrap();
        let is_nar = how.method == ContentAddressMethod::Nar;
        let expected = if is_nar { content } else { file_nar(&content) };
        assert!(read(&spool, &path).await == expected);
    }
    let mut empty = &b""[..];
    let git = method(ContentAddressMethod::Git, HashAlgo::Sha1);
    let refused = spool.receive_dump("m", git, BTreeSet::new(), &mut empty).await;
    let error = refused.unwrap_err();
    assert!(error.to_string().contains("which is not supported"), "{error}");
    let text = method(ContentAddressMethod::Text, sha256);
    let refused = spool.receive_dump("bad name", text, BTreeSet::new(), &mut empty).await;
    assert!(matches!(refused, Err(Error::Verify(VerifyError::Unaddressable { .. }))));
}

/// A runtime on which two things may block at once.
fn narrow() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(1).max_blocking_threads(2).enable_all();
    builder.build().unwrap()
}

#[test]
fn who_sends_or_reads_slowly_keeps_nobody_from_the_disk() {
    let runtime = narrow();
    let (spool, _folder) = runtime.block_on(async { spool() });
    runtime.block_on(async {
        let (info, nar) = source("large", file_nar(&noise(1, 3_000_000)), &[]);
        let mut stream = &nar[..];
        let large = spool
            .receive(info.clone(), &mut stream, Authority::Untrusted)
            .await
            .unwrap();
        spool.add(vec![large]).await.unwrap();
        // Some read the beginning and stop; some send the beginning of an object and stop.
        let mut readers = Vec::new();
        let mut senders = Vec::new();
        for seed in 0..4 {
            let mut reader = spool.nar(&info.path).await.unwrap().unwrap();
            reader.read_exact(&mut [0; 1000]).await.unwrap();
            readers.push(reader);
            let (slow, nar) = source("slow", file_nar(&noise(seed + 2, 1_000_000)), &[]);
            let (mut client, mut daemon) = tokio::io::duplex(1000);
            let spool = spool.clone();
            let receiving = tokio::spawn(async move { spool.receive(slow, &mut daemon, Authority::Untrusted).await });
            // All but the last pieces are taken, so the object is being received.
            client.write_all(&nar[..500_000]).await.unwrap();
            senders.push((client, receiving, nar));
        }
        let (info, nar) = source("other", file_nar(&noise(9, 1_000_000)), &[]);
        let other = spool.receive(info.clone(), &mut &nar[..], Authority::Untrusted).await;
        spool.add(vec![other.unwrap()]).await.unwrap();
        assert!(read(&spool, &info.path).await == nar);
        // And those who go on after all get what they asked for.
        for (mut client, receiving, nar) in senders {
            client.write_all(&nar[500_000..]).await.unwrap();
            receiving.await.unwrap().unwrap();
        }
        for mut reader in readers {
            let mut rest = Vec::new();
            reader.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest.len() as u64, reader.size() - 1000);
        }
    });
}
