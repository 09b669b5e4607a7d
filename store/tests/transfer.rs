//! Sending closures to real stores that are collected at the worst moments.

#![expect(clippy::unwrap_used, reason = "this is a test, and a failure here is a failed test")]

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::types::{PathInfo, StoreDir, StorePath};
use nixci_store::local::LocalStore;
use nixci_store::negotiate::{Memory, Oracle};
use nixci_store::remote::Environment;
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use nixci_store::transfer::{TransferError, transfer};
use nixci_store::upload::{NarReader, Object, ObjectSource, SourceError};
use rstest::rstest;
use tokio::net::UnixStream;

/// A store to read from, which does something else first whenever objects are read from it.
struct Acting<A> {
    store: LocalStore,
    reads: AtomicUsize,
    act: A,
}

impl<A: Fn(usize) + Sync> ObjectSource for Acting<A> {
    async fn references(&self, paths: &[StorePath]) -> Result<Vec<Vec<StorePath>>, SourceError> {
        self.store.references(paths).await
    }

    async fn objects(&self, paths: &[StorePath]) -> Result<Vec<Object>, SourceError> {
        (self.act)(self.reads.fetch_add(1, Ordering::SeqCst));
        self.store.objects(paths).await
    }

    async fn nar(&self, path: &StorePath) -> Result<NarReader, SourceError> {
        self.store.nar(path).await
    }
}

/// Where derivations come from, and where they go.
struct Pair {
    from: TestDaemon,
    to: TestDaemon,
    drvs: BTreeMap<String, String>,
}

impl Pair {
    fn new(version: NixVersion, drvs: &[TestDrv]) -> Self {
        let from = TestDaemon::start(NixVersion::V2_34);
        let drvs = from.instantiate("transfer", drvs);
        Self {
            from,
            to: TestDaemon::start(version),
            drvs,
        }
    }

    fn acting<A: Fn(usize) + Sync>(&self, act: A) -> Acting<A> {
        let environment = Environment::with(self.from.environment(""));
        Acting {
            store: LocalStore::open_in(Some(&self.from.local_uri()), environment).unwrap(),
            reads: AtomicUsize::new(0),
            act,
        }
    }

    fn path(&self, name: &str) -> StorePath {
        StoreDir::default().parse(&self.drvs[name]).unwrap()
    }

    async fn connect(&self) -> Connection {
        let (read, write) = UnixStream::connect(self.to.socket()).await.unwrap().into_split();
        Connection::open(read, write, Hello::default()).await.unwrap()
    }

    /// Puts these there, and lets go of them.
    async fn put(&self, names: &[&str], memory: &Memory) {
        let roots: Vec<StorePath> = names.iter().map(|name| self.path(name)).collect();
        let mut connection = self.connect().await;
        let source = self.acting(|_| ());
        transfer(&mut connection, &source, &roots, memory, |_| ())
            .await
            .unwrap();
        connection.close_and_wait().await.unwrap();
    }

    /// Whether a path could be deleted at the destination.
    fn delete(&self, name: &str) -> bool {
        self.to
            .output("nix-store", &["--delete", &self.drvs[name]])
            .status
            .success()
    }

    /// Whether everything is there, as somebody else sees it.
    async fn has(&self, names: &[&str]) -> bool {
        let paths: Vec<StorePath> = names.iter().map(|name| self.path(name)).collect();
        let valid = self.connect().await.valid(&paths).await.unwrap();
        (0..paths.len()).all(|position| valid.get(position))
    }
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::middle(NixVersion::V2_26)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_collected_between_the_question_and_the_upload_is_sent(#[case] version: NixVersion) {
    let drvs = ["base", "other"].map(TestDrv::good);
    let app = TestDrv::good("app").needs(&["base", "other"]);
    let pair = Pair::new(version, &[&drvs[..], &[app]].concat());
    let memory = Memory::new(100);
    pair.put(&["base", "other"], &memory).await;
    assert_eq!(memory.known().len(), 2);
    let source = pair.acting(|read| match read {
        0 => assert!(pair.delete("base"), "nothing keeps it yet"),
        _ => assert!(!pair.delete("other"), "what the second try rests on is kept"),
    });
    let mut connection = pair.connect().await;
    let sent = transfer(&mut connection, &source, &[pair.path("app")], &memory, |_| ())
        .await
        .unwrap();
    assert_eq!((sent.paths, source.reads.load(Ordering::SeqCst)), (2, 2));
    assert!(pair.has(&["app", "base", "other"]).await);
    assert!(!pair.delete("app"), "it is kept for as long as the connection lasts");
    let digests = |names: &[&str]| names.iter().map(|name| *pair.path(name).digest()).collect();
    assert_eq!(*memory.known(), digests(&["app", "base", "other"]), "memory began anew");
    connection.close_and_wait().await.unwrap();
    assert!(pair.delete("app"));
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_collected_in_the_middle_of_an_upload_is_sent(#[case] version: NixVersion) {
    let names: Vec<String> = (0..500).map(|nth| format!("n{nth}")).collect();
    let mut drvs: Vec<TestDrv> = names.iter().map(|name| TestDrv::good(name)).collect();
    let mut all: Vec<&str> = names.iter().map(String::as_str).collect();
    drvs.push(TestDrv::good("base"));
    all.push("base");
    drvs.push(TestDrv::good("app").needs(&all));
    let pair = Pair::new(version, &drvs);
    let memory = Memory::new(1_000);
    pair.put(&["base"], &memory).await;
    // Objects are read in batches of 128, the third when the first was passed on.
    let source = pair.acting(|read| {
        if read == 2 {
            assert!(pair.delete("base"));
        }
    });
    let mut connection = pair.connect().await;
    let sent = transfer(&mut connection, &source, &[pair.path("app")], &memory, |_| ())
        .await
        .unwrap();
    assert_eq!(sent.paths, 2, "what had arrived is not sent again");
    all.push("app");
    assert!(pair.has(&all).await);
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn a_memory_of_what_was_collected_is_dropped(#[case] version: NixVersion) {
    let base = [TestDrv::good("bottom"), TestDrv::good("base").needs(&["bottom"])];
    let app = TestDrv::good("app").needs(&["base"]);
    let pair = Pair::new(version, &[&base[..], &[app]].concat());
    let memory = Memory::new(100);
    pair.put(&["base"], &memory).await;
    pair.to.run("nix-store", &["--gc"]);
    assert!(!pair.has(&["bottom"]).await);
    assert_eq!(memory.known().len(), 2);
    let mut connection = pair.connect().await;
    let source = pair.acting(|_| ());
    let sent = transfer(&mut connection, &source, &[pair.path("app")], &memory, |_| ())
        .await
        .unwrap();
    assert_eq!((sent.paths, source.reads.load(Ordering::SeqCst)), (3, 1));
    assert_eq!(memory.known().len(), 3);
    // And a right one spares the question below.
    let sent = transfer(&mut connection, &source, &[pair.path("app")], &memory, |_| ())
        .await
        .unwrap();
    assert_eq!(sent.paths, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_keeps_nothing_is_given_up() {
    let names: Vec<String> = (0..9).map(|nth| format!("n{nth}")).collect();
    let mut drvs: Vec<TestDrv> = names.iter().map(|name| TestDrv::good(name)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    drvs.push(TestDrv::good("app").needs(&names));
    let pair = Pair::new(NixVersion::V2_34, &drvs);
    let memory = Memory::default();
    pair.put(&names, &memory).await;
    let source = pair.acting(|read| {
        // No collector does that to what has roots, but somebody may to its database.
        let database = pair.to.root().join("nix/var/nix/db/db.sqlite");
        let database = rusqlite::Connection::open(database).unwrap();
        database.busy_timeout(Duration::from_secs(30)).unwrap();
        database.pragma_update(None, "foreign_keys", true).unwrap();
        let forgotten = database.execute("delete from ValidPaths where path = ?", [&pair.drvs[names[read]]]);
        assert_eq!(forgotten.unwrap(), 1);
    });
    let mut connection = pair.connect().await;
    let error = transfer(&mut connection, &source, &[pair.path("app")], &memory, |_| ())
        .await
        .unwrap_err();
    assert!(matches!(error, TransferError::Collected { times: 5, .. }), "{error:?}");
    assert!(error.to_string().contains("5 times in a row"), "{error}");
}

/// A source whose objects are not what their infos say.
struct Lying(LocalStore, AtomicUsize);

impl ObjectSource for Lying {
    async fn references(&self, paths: &[StorePath]) -> Result<Vec<Vec<StorePath>>, SourceError> {
        self.0.references(paths).await
    }

    async fn objects(&self, paths: &[StorePath]) -> Result<Vec<Object>, SourceError> {
        self.1.fetch_add(1, Ordering::SeqCst);
        let mut objects = self.0.objects(paths).await?;
        for Object {
            info: PathInfo { info, .. },
            ..
        } in &mut objects
        {
            info.nar_hash.0[0] ^= 1;
        }
        Ok(objects)
    }

    async fn nar(&self, path: &StorePath) -> Result<NarReader, SourceError> {
        self.0.nar(path).await
    }
}

#[rstest]
#[case::oldest(NixVersion::V2_8)]
#[case::newest(NixVersion::V2_34)]
#[tokio::test(flavor = "multi_thread")]
async fn what_a_store_refuses_for_itself_is_sent_once(#[case] version: NixVersion) {
    let pair = Pair::new(version, &[TestDrv::good("base"), TestDrv::good("app").needs(&["base"])]);
    let source = Lying(pair.acting(|_| ()).store, AtomicUsize::new(0));
    let mut connection = pair.connect().await;
    let roots = [pair.path("app")];
    let error = transfer(&mut connection, &source, &roots, &Memory::default(), |_| ())
        .await
        .unwrap_err();
    assert!(
        matches!(&error, TransferError::Store(error) if error.is_remote()),
        "{error:?}"
    );
    assert_eq!(source.1.load(Ordering::SeqCst), 1);
}
