use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use nixci_protocol::op::Nar;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};

use super::*;

const OPTIONS: NarCacheOptions = NarCacheOptions {
    capacity: 64 << 20,
    level: 3,
};

/// Bytes that compress a little, different ones for each seed.
fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state & 0x3f) as u8
    };
    (0..length).map(|_| next()).collect()
}

/// A NAR that comes in pieces of this size.
struct Trickle {
    content: Bytes,
    step: usize,
}

impl AsyncRead for Trickle {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let length = self.step.min(into.remaining()).min(self.content.len());
        into.put_slice(&self.content.split_to(length));
        Poll::Ready(Ok(()))
    }
}

fn nar(content: &[u8], step: usize) -> Nar {
    let content = Bytes::copy_from_slice(content);
    Nar::new(content.len() as u64, Trickle { content, step })
}

fn ticket(cache: &NarCache, hash: &NarHash) -> Ticket {
    match cache.claim(hash) {
        Claim::Fill(ticket) => ticket,
        other => panic!("expected the right to fill, found {other:?}"),
    }
}

async fn all(mut follower: Follower) -> Result<Vec<u8>, Fault> {
    let mut bytes = Vec::new();
    while let Some(piece) = follower.next().await? {
        bytes.extend_from_slice(&piece);
        assert_eq!(follower.at(), bytes.len() as u64);
    }
    Ok(bytes)
}

async fn fill(cache: &NarCache, content: &[u8]) -> NarHash {
    let hash = NarHash::of(content);
    all(ticket(cache, &hash).fill(nar(content, 70_000))).await.unwrap();
    hash
}

async fn read(cached: &CachedNar, from: u64, to: u64) -> Vec<u8> {
    let (mut pieces, mut bytes) = (cached.read(from, to), Vec::new());
    while let Some(piece) = pieces.next().await.unwrap() {
        bytes.extend_from_slice(&piece);
    }
    bytes
}

fn files(dir: &std::path::Path) -> Vec<String> {
    let names = std::fs::read_dir(dir).unwrap();
    names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn whoever_follows_reads_the_same_bytes_as_from_the_file_and_as_packed_on_the_fly() {
    let dir = tempfile::tempdir().unwrap();
    let cache = NarCache::open(dir.path(), OPTIONS).unwrap();
    for length in [1, 100, SMALL, BLOCK - 1, BLOCK, BLOCK + 1, 5 * BLOCK + 7] {
        let content = content(length as u64, length);
        let hash = NarHash::of(&content);
        assert!(cache.get(&hash).await.is_none());
        let claimed = ticket(&cache, &hash);
        let Claim::Follow(second) = cache.claim(&hash) else {
            panic!("two writers of one NAR")
        };
        let (first, second) = tokio::join!(all(claimed.fill(nar(&content, 4_711))), all(second));
        let packed = first.unwrap();
        assert_eq!(packed, second.unwrap());
        assert_eq!(zstd::decode_all(&packed[..]).unwrap(), content);

        let cached = cache.get(&hash).await.unwrap();
        assert_eq!(read(&cached, 0, u64::MAX).await, packed);
        assert!(matches!(cache.claim(&hash), Claim::There));
        let told = cache.packed(&hash).unwrap();
        assert_eq!(told.file_size, packed.len() as u64);
        assert_eq!(told.file_hash.as_bytes(), Sha256::digest(&packed).as_slice());
        let middle = told.file_size / 2;
        assert_eq!(
            read(&cached, middle, middle + 3).await,
            packed[middle as usize..].iter().copied().take(3).collect::<Vec<_>>()
        );

        let mut streamed = Packer::new(nar(&content, 1 << 30), hash, OPTIONS.level);
        let mut flying = Vec::new();
        while let Some(frame) = streamed.next().await.unwrap() {
            flying.extend_from_slice(&frame);
        }
        assert_eq!(flying, packed, "{length} bytes");
    }
    assert_eq!(cache.len(), 7);
}

const SMALL: usize = 4_000;

#[tokio::test]
async fn a_nar_that_is_not_the_promised_one_never_ends_well() {
    let dir = tempfile::tempdir().unwrap();
    let cache = NarCache::open(dir.path(), OPTIONS).unwrap();
    for length in [SMALL, 3 * BLOCK] {
        let promised = NarHash::of(b"something else");
        let content = content(1, length);
        let fault = all(ticket(&cache, &promised).fill(nar(&content, 70_000)))
            .await
            .unwrap_err();
        assert!(
            matches!(&fault, Fault::Nar(error) if matches!(**error, PackError::Hash { .. })),
            "{fault:?}"
        );

        let hash = NarHash::of(&content);
        let short = Nar {
            size: length as u64 + 8,
            ..nar(&content, 70_000)
        };
        let fault = all(ticket(&cache, &hash).fill(short)).await.unwrap_err();
        assert!(
            matches!(&fault, Fault::Nar(error) if matches!(**error, PackError::Short { .. })),
            "{fault:?}"
        );
    }
    assert!(cache.is_empty());
    assert_eq!((cache.bytes(), files(dir.path())), (0, Vec::new()));
}

#[tokio::test]
async fn whoever_follows_gets_what_there_is_and_learns_of_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let cache = NarCache::open(dir.path(), OPTIONS).unwrap();
    let content = content(2, 9 * BLOCK);
    let hash = NarHash::of(&content);
    let (mut sink, reader) = tokio::io::duplex(BLOCK);
    let mut follower = ticket(&cache, &hash).fill(Nar::new(content.len() as u64, reader));
    // Enough that frames are finished whatever number is packed ahead.
    sink.write_all(&content[..8 * BLOCK]).await.unwrap();
    assert!(!follower.next().await.unwrap().unwrap().is_empty());
    drop(sink);
    let fault = loop {
        match follower.next().await {
            Ok(piece) => assert!(piece.is_some(), "a broken NAR ended well"),
            Err(fault) => break fault,
        }
    };
    assert!(matches!(fault, Fault::Nar(_)), "{fault:?}");

    // A ticket that is not used tells those who wait to help themselves.
    let unused = ticket(&cache, &hash);
    let Claim::Follow(mut waiting) = cache.claim(&hash) else {
        panic!("two writers of one NAR")
    };
    drop(unused);
    assert!(matches!(waiting.whole().await, Err(Fault::File(_))));
    assert!(matches!(cache.claim(&hash), Claim::Fill(_)));
}

#[tokio::test]
async fn least_recently_used_files_go_and_the_order_survives_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let one = content(0, 100_000);
    let size = {
        let cache = NarCache::open(&dir.path().join("scale"), OPTIONS).unwrap();
        fill(&cache, &one).await;
        cache.bytes()
    };
    let options = NarCacheOptions {
        capacity: size * 4 + size / 2,
        ..OPTIONS
    };
    let dir = dir.path().join("cache");
    let cache = NarCache::open(&dir, options).unwrap();
    let mut hashes = Vec::new();
    for seed in 0..4 {
        hashes.push(fill(&cache, &content(seed, 100_000)).await);
    }
    assert!(cache.get(&hashes[0]).await.is_some());
    hashes.push(fill(&cache, &content(4, 100_000)).await);
    assert!(cache.get(&hashes[1]).await.is_none(), "the oldest unused one went");
    assert!(cache.get(&hashes[0]).await.is_some());
    assert_eq!((cache.len(), files(&dir).len()), (4, 4));
    assert!(cache.bytes() <= options.capacity);

    // Times of change say what was used last; here the file of seed 2 is made the newest.
    for (nth, seed) in [3, 0, 4, 2].into_iter().enumerate() {
        let name = files(&dir)
            .into_iter()
            .find(|name| name.starts_with(&nixci_protocol::types::nix32::encode(&hashes[seed].0)))
            .unwrap();
        let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000 + nth as u64);
        std::fs::File::options()
            .write(true)
            .open(dir.join(name))
            .unwrap()
            .set_modified(time)
            .unwrap();
    }
    drop(cache);
    std::fs::write(dir.join("partial-0123-7"), "half").unwrap();
    std::fs::write(dir.join("notes"), "mine").unwrap();
    let smaller = NarCacheOptions {
        capacity: size * 2 + size / 2,
        ..OPTIONS
    };
    let cache = NarCache::open(&dir, smaller).unwrap();
    assert_eq!(cache.len(), 2);
    assert!(cache.get(&hashes[2]).await.is_some() && cache.get(&hashes[4]).await.is_some());
    assert_eq!(
        files(&dir).len(),
        3,
        "the half written file is gone, a foreign one stays"
    );
    let other = NarCache::open(&dir, NarCacheOptions { level: 4, ..OPTIONS }).unwrap();
    assert!(other.is_empty() && files(&dir) == ["notes"]);
}

#[tokio::test]
async fn damaged_files_are_noticed_and_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let damage = |kind: &str| {
        let path = dir.path().join(files(dir.path()).pop().unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        match kind {
            "a flipped bit" => {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
            }
            "a cut" => bytes.truncate(bytes.len() / 2),
            _ => {}
        }
        std::fs::write(&path, bytes).unwrap();
    };
    let content = content(5, 2 * BLOCK);
    for kind in ["a flipped bit", "a cut"] {
        for restart in [true, false] {
            let mut cache = NarCache::open(dir.path(), OPTIONS).unwrap();
            let hash = fill(&cache, &content).await;
            assert!(cache.get(&hash).await.is_some());
            damage(kind);
            if restart {
                cache = NarCache::open(dir.path(), OPTIONS).unwrap();
            }
            assert!(cache.get(&hash).await.is_none(), "{kind}, restart: {restart}");
            assert!(
                cache.is_empty() && files(dir.path()).is_empty(),
                "{kind}, restart: {restart}"
            );
        }
    }
    let cache = NarCache::open(dir.path(), OPTIONS).unwrap();
    let hash = fill(&cache, &content).await;
    damage("written again as it was");
    let (first, second) = tokio::join!(cache.get(&hash), cache.get(&hash));
    assert!(first.is_some() && second.is_some());
}

#[tokio::test]
async fn what_cannot_be_kept_is_no_fault_of_the_nar() {
    let dir = tempfile::tempdir().unwrap();
    let cache = NarCache::open(
        dir.path(),
        NarCacheOptions {
            capacity: BLOCK as u64,
            level: 1,
        },
    )
    .unwrap();
    let kept = fill(&cache, &content(7, 1_000)).await;
    let content = content(6, 4 * BLOCK);
    let hash = NarHash::of(&content);
    let fault = all(ticket(&cache, &hash).fill(nar(&content, 70_000)))
        .await
        .unwrap_err();
    assert!(
        matches!(fault, Fault::File(_)),
        "larger than half of the cache: {fault:?}"
    );
    assert!(cache.get(&kept).await.is_some(), "it took nobody's place");
    assert_eq!(cache.len(), 1);
    assert!(matches!(cache.claim(&hash), Claim::Busy), "it is not tried again");

    std::fs::remove_dir_all(dir.path()).unwrap();
    let content = &content[..1_000];
    let hash = NarHash::of(content);
    let fault = all(ticket(&cache, &hash).fill(nar(content, 70_000))).await.unwrap_err();
    assert!(matches!(fault, Fault::File(_)), "no folder: {fault:?}");
    assert!(cache.get(&kept).await.is_none());
    assert_eq!(cache.bytes(), 0);

    let off = NarCache::open(dir.path(), NarCacheOptions { capacity: 0, ..OPTIONS }).unwrap();
    assert!(matches!(off.claim(&hash), Claim::Busy));
}

#[test]
fn the_second_question_is_known_from_the_first() {
    let mut asked = Asked::default();
    let hash = |nth: u64| NarHash::of(&nth.to_le_bytes());
    assert!(!asked.note(hash(0)));
    assert!(asked.note(hash(0)));
    for nth in 1..GENERATION as u64 + 10 {
        assert!(!asked.note(hash(nth)));
    }
    assert!(asked.note(hash(0)), "it was in the generation before");
    for nth in 0..3 * GENERATION as u64 {
        asked.note(hash(1_000_000 + nth));
    }
    assert!(!asked.note(hash(0)));
    assert!(asked.now.len() <= GENERATION && asked.before.len() <= GENERATION);
}
