//! Uploads to a daemon of ours: one question of bits, one compressed stream, into a spool.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking, as the tests do")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::io::{PathStreamReader, StreamKind};
use nixci_protocol::nixci::{Bitmap, FEATURE_CLOSURE};
use nixci_protocol::op::{Reply, Request};
use nixci_protocol::server::{Exchange, Handler, HandlerError, ServerHello, serve};
use nixci_protocol::types::{StorePath, Trust};
use nixci_protocol::wire::Limits;
use nixci_store::local::LocalStore;
use nixci_store::negotiate::{Plan, negotiate};
use nixci_store::remote::Environment;
use nixci_store::spool::{Authority, Spool};
use nixci_store::testing::recorded::{self, Set};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use nixci_store::upload::{ObjectSource, upload};
use tokio::io::AsyncReadExt;
use tokio::task::JoinHandle;

/// As much of a daemon of ours as an upload needs.
struct Peer {
    spool: Spool,
    received: Arc<AtomicUsize>,
}

impl Handler for Peer {
    async fn handle(&mut self, request: Request, exchange: &mut Exchange<'_>) -> Result<Reply, HandlerError> {
        match request {
            Request::QueryValidBatch(batch) => Ok(Bitmap(self.spool.valid_batch(&batch.digests)).into()),
            Request::AddClosure(_) => {
                let dir = exchange.negotiated().store_dir.clone();
                let mut packed = Vec::new();
                exchange.body().read_to_end(&mut packed).await.unwrap();
                self.received.fetch_add(packed.len(), Ordering::Relaxed);
                let plain = zstd::stream::decode_all(&packed[..]).unwrap();
                let mut stream = PathStreamReader::new(StreamKind::Tagged, dir, Limits::default(), &plain[..]);
                let mut objects = Vec::new();
                while let Some(info) = stream.next().await.unwrap() {
                    objects.push(
                        self.spool
                            .receive(info, &mut stream.nar(), Authority::Untrusted)
                            .await
                            .unwrap(),
                    );
                }
                Ok(Reply::Count(self.spool.add(objects).await.unwrap()))
            }
            other => panic!("{other:?} is not part of an upload"),
        }
    }
}

/// A spool and a connection to it.
struct Pair {
    connection: Connection,
    spool: Spool,
    received: Arc<AtomicUsize>,
    _dir: tempfile::TempDir,
    _server: JoinHandle<()>,
}

async fn pair() -> Pair {
    let dir = tempfile::tempdir().unwrap();
    let spool = Spool::open(dir.path(), nixci_protocol::types::StoreDir::default()).unwrap();
    let (ours, theirs) = tokio::io::duplex(64 * 1024);
    let received = Arc::new(AtomicUsize::new(0));
    let peer = Peer {
        spool: spool.clone(),
        received: received.clone(),
    };
    let hello = ServerHello {
        version_text: "2.34.8".to_owned(),
        trust: Trust::NotTrusted,
        features: vec![FEATURE_CLOSURE.to_owned()],
        store_dir: spool.store_dir().clone(),
        limits: Limits::default(),
    };
    let (read, write) = tokio::io::split(theirs);
    let server = tokio::spawn(async move {
        let _ = serve(read, write, hello, peer).await;
    });
    let (read, write) = tokio::io::split(ours);
    let hello = Hello {
        features: vec![FEATURE_CLOSURE.to_owned()],
        ..Hello::default()
    };
    let connection = Connection::open(read, write, hello).await.unwrap();
    Pair {
        connection,
        spool,
        received,
        _dir: dir,
        _server: server,
    }
}

impl Pair {
    async fn copy(&mut self, source: &impl ObjectSource, roots: &[StorePath]) -> (Plan, usize) {
        let before = self.received.load(Ordering::Relaxed);
        let plan = negotiate(&mut self.connection, source, roots.to_vec()).await.unwrap();
        let sent = upload(&mut self.connection, source, &plan.missing, |_| {})
            .await
            .unwrap();
        assert_eq!(sent.paths, plan.missing.len() as u64);
        (plan, self.received.load(Ordering::Relaxed) - before)
    }
}

#[tokio::test]
async fn a_closure_arrives_whole_and_goes_on_to_a_store_where_it_builds() {
    let from = TestDaemon::start(NixVersion::NEWEST);
    let big = from.scratch().join("big");
    let noise: Vec<u8> = (0..3_000_000_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8)
        .collect();
    std::fs::write(&big, &noise).unwrap();
    let paths = from.instantiate(
        "closure",
        &[
            TestDrv::good("base")
                .attribute("file", big.to_str().unwrap())
                .script("test -s $file"),
            TestDrv::good("top").needs(&["base"]),
        ],
    );
    let source = LocalStore::open_in(Some(&from.local_uri()), Environment::with(from.environment(""))).unwrap();
    let top = source.store_dir().parse(&paths["top"]).unwrap();
    let mut pair = pair().await;
    let (plan, _) = pair.copy(&source, std::slice::from_ref(&top)).await;
    assert_eq!((plan.missing.len(), pair.spool.len()), (3, 3));
    let (plan, bytes) = pair.copy(&source, std::slice::from_ref(&top)).await;
    assert_eq!((plan.missing.len(), plan.rounds, bytes), (0, 1, 0));

    // The spool is a source as well: what is in it is forwarded the same way.
    let to = TestDaemon::start(NixVersion::NEWEST);
    let remote = nixci_store::remote::Remote::new(
        "to",
        to.uri().parse().unwrap(),
        nixci_store::remote::RemoteOptions::default(),
    );
    let mut connection = remote.acquire().await.unwrap();
    let plan = negotiate(&mut **connection, &pair.spool, [top]).await.unwrap();
    assert_eq!(plan.missing.len(), 3);
    upload(&mut connection, &pair.spool, &plan.missing, |_| {})
        .await
        .unwrap();
    to.run("nix-store", &["--verify", "--check-contents"]);
    to.run("nix-store", &["-r", &paths["top"]]);
}

#[tokio::test]
async fn heavy_the_recorded_sets_take_few_bytes() {
    let graph = recorded::whole();
    let source = LocalStore::open_in(Some(&graph.uri()), Environment::with::<&str, &str>([])).unwrap();
    let roots = |set| -> Vec<StorePath> {
        graph
            .roots(set)
            .into_iter()
            .map(|path| source.store_dir().parse(path).unwrap())
            .collect()
    };
    let mut pair = pair().await;
    let start = std::time::Instant::now();
    let (plan, bytes) = pair.copy(&source, &roots(Set::Base)).await;
    println!(
        "cold: {} paths, asked {}, {bytes} bytes, {:?}",
        plan.missing.len(),
        plan.asked,
        start.elapsed()
    );
    assert_eq!(plan.missing.len(), 28_240);
    assert!(bytes + plan.asked * 20 <= 11_700_000, "{bytes}");

    let start = std::time::Instant::now();
    let (plan, _) = pair.copy(&source, &roots(Set::Base)).await;
    println!("unchanged: asked {}, {:?}", plan.asked, start.elapsed());
    assert_eq!((plan.missing.len(), plan.rounds), (0, 1));
    assert!(plan.asked * 20 <= 145_000, "{}", plan.asked);

    let start = std::time::Instant::now();
    let (plan, bytes) = pair.copy(&source, &roots(Set::Head)).await;
    println!(
        "head: {} paths, asked {}, {bytes} bytes, {:?}",
        plan.missing.len(),
        plan.asked,
        start.elapsed()
    );
    assert_eq!(plan.missing.len(), 1_478);
    assert!(bytes <= 2_000_000, "{bytes}");
    assert!(plan.rounds <= 4 && plan.asked * 20 <= 290_000, "{plan:?}");
}
