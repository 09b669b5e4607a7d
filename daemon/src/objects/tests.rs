//! Leases on a real store.

use std::time::{Duration, Instant};

use nixci_protocol::types::StoreDir;
use nixci_store::remote::RemoteOptions;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, poll_until};

use super::*;

struct World {
    store: TestDaemon,
    objects: Objects,
    stop: Shutdown,
    _home: tempfile::TempDir,
}

impl World {
    fn new(life: Duration) -> Self {
        let store = TestDaemon::start(NixVersion::V2_34);
        let home = tempfile::tempdir().unwrap();
        let mut config = Config::in_folder(home.path(), &store.uri(), 1);
        config.limits.known_time = life;
        let rooms = (
            Index::open(&home.path().join("index.db")).unwrap(),
            Spool::open(&home.path().join("spool"), StoreDir::default()).unwrap(),
            Logs::open(&home.path().join("logs")).unwrap(),
        );
        let remote = || {
            let uri = store.uri().parse().unwrap();
            Remote::new("default", uri, RemoteOptions::default())
        };
        let readers = Readers {
            plain: remote(),
            set: remote(),
        };
        let stop = Shutdown::default();
        let signer = Signer::new(Vec::new(), StoreDir::default(), rooms.0.clone());
        let objects = Objects::new(rooms, [readers], &signer, &config, &stop);
        Self {
            store,
            objects,
            stop,
            _home: home,
        }
    }

    fn derivation(&self, name: &str) -> StorePath {
        let drvs = self.store.instantiate("lease", &[TestDrv::good(name)]);
        StoreDir::default().parse(&drvs[name]).unwrap()
    }

    /// Asks for it as often as it takes until it is known.
    async fn learn(&self, path: &StorePath) {
        let patience = Duration::from_mins(1);
        let learning = async {
            while self.objects.known_info(path).is_none() {
                assert!(self.objects.info(path).await.unwrap().is_some());
            }
        };
        tokio::time::timeout(patience, learning).await.unwrap();
    }

    fn deletes(&self, path: &StorePath) -> bool {
        let full = StoreDir::default().display(path).to_string();
        let deleted = self.store.output("nix-store", &["--delete", &full]);
        deleted.status.success()
    }

    async fn end(self) {
        drop(self.objects);
        self.stop.run(Duration::from_secs(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collection_finds_nothing_kept_but_what_clients_took_roots_on() {
    let world = World::new(Duration::from_mins(10));
    let (asked, used) = (world.derivation("asked"), world.derivation("used"));
    world.learn(&asked).await;
    world.learn(&used).await;
    assert!(!world.deletes(&asked), "what is known is protected");
    let mut roots = Roots::default();
    assert!(world.objects.promise(&used, &mut roots));

    let retired = world.objects.retire().await;
    assert!(!world.objects.is_known(&asked) && !world.objects.is_known(&used));
    // What is asked for meanwhile is answered, and not kept.
    assert!(world.objects.info(&asked).await.unwrap().is_some());
    assert!(!world.objects.is_known(&asked));
    poll_until("the old connection to be gone", || world.deletes(&asked).then_some(()));
    assert!(world.objects.info(&asked).await.unwrap().is_none());
    assert!(!world.deletes(&used), "a client's root stays");
    drop(retired);

    world.learn(&used).await;
    drop(roots);
    let retired = world.objects.retire().await;
    poll_until("the client's root to be gone with the client", || {
        world.deletes(&used).then_some(())
    });
    drop(retired);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_known_ends_with_its_time_and_with_its_connection() {
    let world = World::new(Duration::from_secs(2));
    let path = world.derivation("ends");
    world.learn(&path).await;
    poll_until("its time to be over", || (!world.objects.is_known(&path)).then_some(()));
    poll_until("its root to be gone", || world.deletes(&path).then_some(()));
    world.end().await;

    let world = World::new(Duration::from_mins(10));
    let path = world.derivation("breaks");
    world.learn(&path).await;
    world.store.kill9();
    poll_until("the lost connection to be noticed", || {
        (!world.objects.is_known(&path)).then_some(())
    });
    assert!(world.objects.info(&path).await.is_err(), "nobody can tell now");
    world.store.start_again();
    world.learn(&path).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_info_that_was_changed_is_asked_for_again() {
    let world = World::new(Duration::from_mins(10));
    let path = world.derivation("signed");
    world.learn(&path).await;
    world.objects.forget(&path);
    assert!(world.objects.known_info(&path).is_none() && world.objects.is_known(&path));
    world.learn(&path).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closure_that_only_a_store_has_is_brought_whole() {
    let world = World::new(Duration::from_mins(10));
    let names: Vec<String> = (0..500).map(|nth| format!("n{nth}")).collect();
    // Ten wide and fifty deep.
    let drv = |(nth, name): (usize, &String)| {
        let below: Vec<&str> = nth
            .checked_sub(10)
            .map(|below| names[below].as_str())
            .into_iter()
            .collect();
        TestDrv::good(name).needs(&below)
    };
    let drvs: Vec<TestDrv> = names.iter().enumerate().map(drv).collect();
    let drvs = world.store.instantiate("bring", &drvs);
    let path = |name: &String| StoreDir::default().parse(&drvs[name]).unwrap();
    let tops: BTreeSet<StorePath> = names[490..].iter().map(path).collect();
    let begun = Instant::now();
    let brought = world.objects.bring(tops.clone()).await.unwrap();
    println!("brought {} paths in {:?}", brought.len(), begun.elapsed());
    assert_eq!(
        brought.into_iter().collect::<BTreeSet<_>>(),
        drvs.keys().map(path).collect()
    );
    assert!(drvs.keys().map(path).all(|path| world.objects.spool.contains(&path)));
    assert_eq!(world.objects.bring(tops).await.unwrap(), []);
    world.end().await;
}
