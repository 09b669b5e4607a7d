//! Every derivation of the recorded graph, as real Nix wrote it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::*;
use crate::testing::{data_dir, recorded};

/// Bytes of NARs in one call of `add`.
const BATCH: usize = 8 * 1024 * 1024;

/// The objects in the order of the graph, which is references first. Sources are not read: they stand for themselves.
fn objects() -> Vec<(PathInfo, Bytes)> {
    let whole = recorded::whole();
    let packed = std::fs::File::open(data_dir().join("corepkgs/graph.tsv.zst")).unwrap();
    let graph = String::from_utf8(zstd::decode_all(packed).unwrap()).unwrap();
    let paths: Vec<StorePath> = whole.paths().iter().map(|path| dir().parse(path).unwrap()).collect();
    let on_disk = whole.root().join("nix/store");
    let mut objects = Vec::new();
    for (line, path) in graph.lines().zip(&paths) {
        let fields: Vec<&str> = line.split('\t').collect();
        if fields[0] == "s" {
            let nar = file_nar(path.to_string().as_bytes());
            objects.push((info(path.clone(), &nar, BTreeSet::new(), None), nar.into()));
        } else {
            let content = std::fs::read(on_disk.join(path.to_string())).unwrap();
            let nar = file_nar(&content);
            let ca = ContentAddress {
                method: ContentAddressMethod::Text,
                hash: Hash::sha256_of(&content),
            };
            let references = fields[3]
                .split_whitespace()
                .map(|node| paths[node.parse::<usize>().unwrap()].clone());
            objects.push((info(path.clone(), &nar, references.collect(), Some(ca)), nar.into()));
        }
    }
    objects
}

/// Adds all in batches, and returns how long checking took.
async fn store(spool: &Spool, objects: &[(PathInfo, Bytes)]) -> Duration {
    let (mut batch, mut size, mut checking) = (Vec::new(), 0, Duration::ZERO);
    for (info, nar) in objects {
        let authority = if info.info.ca.is_some() {
            Authority::Untrusted
        } else {
            Authority::Trusted
        };
        size += nar.len();
        let since = Instant::now();
        batch.push(verify(&rules(), info.clone(), nar.clone(), authority).unwrap());
        checking += since.elapsed();
        if size >= BATCH {
            spool.add(std::mem::take(&mut batch)).await.unwrap();
            size = 0;
        }
    }
    spool.add(batch).await.unwrap();
    checking
}

/// It also prints what it took; figures count only from an optimised build.
#[tokio::test]
async fn a_real_closure_is_proven_stored_and_read_back() {
    let objects = objects();
    let (spool, folder) = spool();
    let bytes: usize = objects.iter().map(|(_, nar)| nar.len()).sum();
    let clock = Instant::now();
    let checking = store(&spool, &objects).await;
    let took = clock.elapsed();
    eprintln!(
        "{} objects, {bytes} bytes checked and durable: {took:?}, of which checked: {checking:?}",
        objects.len()
    );
    assert_eq!(spool.len(), objects.len());
    spool.close().await;
    let stored = std::fs::metadata(folder.path().join("spool.db")).unwrap().len();
    eprintln!("spool.db: {stored} bytes");
    assert!(stored < bytes as u64 / 3);

    let clock = Instant::now();
    let spool = open(folder.path());
    eprintln!("opened: {:?}", clock.elapsed());
    let digests: Vec<[u8; 20]> = objects.iter().map(|(info, _)| *info.path.digest()).collect();
    let clock = Instant::now();
    let valid = spool.valid_batch(&digests);
    eprintln!("validity of all: {:?}", clock.elapsed());
    assert_eq!(
        valid.iter().map(|byte| byte.count_ones() as usize).sum::<usize>(),
        objects.len()
    );
    let paths: Vec<StorePath> = objects.iter().map(|(info, _)| info.path.clone()).collect();
    let clock = Instant::now();
    let references = spool.references(paths.clone()).await.unwrap();
    eprintln!("references of all: {:?}", clock.elapsed());
    let clock = Instant::now();
    let infos = spool.infos(paths.clone()).await.unwrap();
    eprintln!("infos of all: {:?}", clock.elapsed());
    for (((expected, _), got), info) in objects.iter().zip(references).zip(infos) {
        let got: BTreeSet<_> = got.unwrap().into_iter().collect();
        assert_eq!(got, expected.info.references);
        assert_eq!(info.unwrap().info.references, expected.info.references);
    }
    let clock = Instant::now();
    let mut differ = HashMap::new();
    for (info, nar) in &objects {
        if spool.small(&info.path).await.unwrap().as_ref() != Some(nar) {
            differ.insert(&info.path, nar.len());
        }
    }
    eprintln!("all read one by one: {:?}", clock.elapsed());
    assert!(differ.is_empty(), "{differ:?}");
}

/// Collects what the newer of two recorded evaluations does not need, while somebody asks about what it does, and then
/// the rest. It also prints what it took; figures count only from an optimised build.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_real_closure_is_collected() {
    let objects = objects();
    let (spool, folder) = spool();
    store(&spool, &objects).await;
    let whole = recorded::whole();
    let roots: Vec<StorePath> = whole
        .roots(recorded::Set::Head)
        .into_iter()
        .map(|path| dir().parse(path).unwrap())
        .collect();
    let references: HashMap<&StorePath, &BTreeSet<StorePath>> = objects
        .iter()
        .map(|(info, _)| (&info.path, &info.info.references))
        .collect();
    let mut needed: BTreeSet<&StorePath> = BTreeSet::new();
    let mut next: Vec<&StorePath> = roots.iter().collect();
    while let Some(path) = next.pop() {
        if needed.insert(path) {
            next.extend(references[path]);
        }
    }
    let digests: Vec<[u8; 20]> = needed.iter().map(|path| *path.digest()).collect();
    let size = || std::fs::metadata(folder.path().join("spool.db")).unwrap().len();
    eprintln!(
        "{} objects, {} needed, spool.db: {}",
        objects.len(),
        needed.len(),
        size()
    );

    let collect = |roots: &[StorePath]| {
        let roots = roots.iter().map(|path| *path.digest()).collect();
        let spool = spool.clone();
        async move {
            let clock = Instant::now();
            let garbage = spool.collect().await.mark(roots, Duration::ZERO).await.unwrap();
            let (marked, took) = (garbage.marked(), clock.elapsed());
            let clock = Instant::now();
            let freed = garbage.sweep().await.unwrap();
            eprintln!("mark {took:?}, sweep {:?}: {marked:?}, {freed:?}", clock.elapsed());
            freed
        }
    };
    let collecting = tokio::spawn(collect(&roots));
    let (mut asked, mut slowest) = (0, Duration::ZERO);
    while !collecting.is_finished() {
        let clock = Instant::now();
        let bits = spool.valid_batch(&digests);
        slowest = slowest.max(clock.elapsed());
        asked += 1;
        assert_eq!(
            bits.iter().map(|byte| byte.count_ones() as usize).sum::<usize>(),
            digests.len()
        );
        tokio::task::yield_now().await;
    }
    eprintln!(
        "{asked} questions about {} paths meanwhile, the slowest took {slowest:?}",
        digests.len()
    );
    let freed = collecting.await.unwrap();
    assert_eq!(freed.objects as usize, objects.len() - needed.len());
    assert_eq!(spool.len(), needed.len());
    let paths: Vec<StorePath> = needed.into_iter().cloned().collect();
    let read: HashMap<&StorePath, &Bytes> = objects.iter().map(|(info, nar)| (&info.path, nar)).collect();
    for path in &paths {
        assert_eq!(spool.small(path).await.unwrap().as_ref(), Some(read[path]), "{path}");
    }
    // What was read just now is in nobody's use.
    assert_eq!(collect(&[]).await.objects as usize, paths.len());
    assert_eq!(spool.len(), 0);
    spool.close().await;
    eprintln!("spool.db: {}", size());
    assert!(size() < 1 << 20);
}
