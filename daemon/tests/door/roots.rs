//! A set of roots is recognised in the handshake, as long as all of it is here.

use std::path::Path;

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::nixci::{AddClosure, Bitmap, FEATURE_CLOSURE, QueryValidBatch, RootsDigest};
use nixci_protocol::types::{StoreDir, StorePath};
use nixci_store::testing::{NixVersion, Service, TestDaemon, TestDrv, poll_until};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::common::body_for;
use crate::world::front;

async fn connect_with(socket: &Path, features: &[&str]) -> Connection {
    let stream = UnixStream::connect(socket).await.unwrap();
    let (read, write) = stream.into_split();
    let hello = Hello {
        features: features.iter().map(|feature| (*feature).to_owned()).collect(),
        ..Hello::default()
    };
    Connection::open(read, write, hello).await.unwrap()
}

async fn connect(nixci: &Service, roots: RootsDigest) -> Connection {
    connect_with(&nixci.socket(), &[FEATURE_CLOSURE, &roots.feature()]).await
}

async fn knows(nixci: &Service, roots: RootsDigest) -> bool {
    roots.is_known(connect(nixci, roots).await.negotiated())
}

async fn valid(connection: &mut Connection, paths: &[StorePath]) -> Bitmap {
    connection.call(&QueryValidBatch::of(paths), &mut ()).await.unwrap()
}

/// Waits until a set is known: nothing tells when it has been written.
fn wait_until_known(nixci: &Service, roots: RootsDigest) {
    tokio::task::block_in_place(|| {
        poll_until("the set to be known", || {
            tokio::runtime::Handle::current()
                .block_on(knows(nixci, roots))
                .then_some(())
        });
    });
}

fn digest(paths: &[StorePath]) -> RootsDigest {
    RootsDigest::of(&StoreDir::default(), paths)
}

/// nixci, and a store with two derivations.
fn scene() -> (Service, TestDaemon, Vec<String>, Vec<StorePath>) {
    let store = TestDaemon::start(NixVersion::NEWEST);
    let list = [TestDrv::good("base"), TestDrv::good("app").needs(&["base"])];
    let drvs: Vec<String> = store.instantiate("roots", &list).into_values().collect();
    let paths = drvs.iter().map(|drv| StoreDir::default().parse(drv).unwrap()).collect();
    (front(&store, ""), store, drvs, paths)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_that_was_asked_about_is_known_when_all_of_it_is_here_also_after_a_restart() {
    let (nixci, store, drvs, paths) = scene();
    let roots = digest(&paths);
    let mut first = connect(&nixci, roots).await;
    assert!(!roots.is_known(first.negotiated()));
    assert_eq!(valid(&mut first, &paths).await, Bitmap(vec![0]));
    let body = body_for(&store, &drvs).await;
    first.call_framed(&AddClosure {}, &body[..], &mut ()).await.unwrap();
    wait_until_known(&nixci, roots);
    // Asked about by nobody as a set, though all of it is here.
    assert!(!knows(&nixci, digest(&paths[..1])).await);

    nixci.stop();
    nixci.start_again();
    let mut again = connect(&nixci, roots).await;
    assert!(roots.is_known(again.negotiated()));
    // The connection goes on like any other.
    assert_eq!(valid(&mut again, &paths).await, Bitmap(vec![0b11]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_set_of_which_one_path_is_gone_is_not_known_until_that_is_back() {
    let (nixci, store, drvs, paths) = scene();
    let roots = digest(&paths);
    let body = body_for(&store, &drvs).await;
    let mut first = connect(&nixci, roots).await;
    first.call_framed(&AddClosure {}, &body[..], &mut ()).await.unwrap();
    assert_eq!(valid(&mut first, &paths).await, Bitmap(vec![0b11]));
    wait_until_known(&nixci, roots);

    nixci.stop();
    let at = paths.iter().position(|path| path.name() == "app.drv").unwrap();
    let spool = rusqlite::Connection::open(nixci.scratch().join("state/spool/spool.db")).unwrap();
    let gone = spool.execute("DELETE FROM object WHERE digest = ?1", [paths[at].digest()]);
    assert_eq!(gone.unwrap(), 1);
    drop(spool);
    nixci.start_again();
    let mut again = connect(&nixci, roots).await;
    assert!(!roots.is_known(again.negotiated()));
    assert_eq!(valid(&mut again, &paths).await, Bitmap(vec![0b11 & !(1 << at)]));
    again.call_framed(&AddClosure {}, &body[..], &mut ()).await.unwrap();
    assert!(knows(&nixci, roots).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_or_unknown_set_is_a_feature_that_nobody_has() {
    let (nixci, _store, _drvs, paths) = scene();
    let good = digest(&paths).feature();
    for feature in [
        good.as_str(),
        &good[..good.len() - 2],
        &format!("{good}00"),
        &good.to_uppercase(),
        "nixci-roots-1:",
        &"nixci-roots-1:".repeat(1000),
    ] {
        let mut connection = connect_with(&nixci.socket(), &[FEATURE_CLOSURE, feature]).await;
        let features: Vec<&String> = connection.negotiated().features.iter().collect();
        assert_eq!(features, [FEATURE_CLOSURE], "{feature}");
        assert_eq!(valid(&mut connection, &paths).await, Bitmap(vec![0]));
        assert!(connection.is_reusable());
    }
}

#[tokio::test]
async fn a_stock_daemon_overlooks_the_question() {
    for version in [NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34] {
        let stock = TestDaemon::start(version);
        let drvs = stock.instantiate("roots", &[TestDrv::good("base")]);
        let path = StoreDir::default().parse(&drvs["base"]).unwrap();
        let roots = digest(std::slice::from_ref(&path));
        let mut connection = connect_with(&stock.socket(), &[FEATURE_CLOSURE, &roots.feature()]).await;
        assert!(connection.negotiated().features.is_empty());
        let valid = nixci_protocol::op::IsValidPath { path };
        assert!(connection.call(&valid, &mut ()).await.unwrap());
    }
}

/// An example of the page on our extension.
fn example(title: &str) -> Vec<u8> {
    let page = include_str!("../../../protocol/src/nixci/extension.md");
    let (_, rest) = page.split_once(&format!("# {title}\n")).unwrap();
    let lines = rest.lines().take_while(|line| !line.starts_with(['#', '`']));
    let bytes = lines.flat_map(|line| line.split(' ').map(|byte| u8::from_str_radix(byte, 16).unwrap()));
    bytes.collect()
}

#[tokio::test]
async fn a_client_that_sends_the_examples_of_the_page_is_understood() {
    let (nixci, _store, _drvs, _paths) = scene();
    let mut stream = UnixStream::connect(nixci.socket()).await.unwrap();
    // What comes back of the words of the handshake depends on what the daemon has, and on its version.
    let mut answer = vec![0; 16];
    stream.write_all(&example("client: magic, version 1.38")).await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, example("server: magic, version 1.38"));
    let rest = example("client: three features, no processor, no reserved space");
    stream.write_all(&rest).await.unwrap();
    let last = *b"stla\0\0\0\0";
    let mut heard = Vec::new();
    while !heard.ends_with(&last) {
        heard.push(stream.read_u8().await.unwrap());
    }
    for (request, reply) in [
        (
            "AddClosure of nothing: zstd of a word 0, in one frame",
            "reply: nothing was new",
        ),
        ("QueryValidBatch of two paths", "reply: the second is valid"),
    ] {
        stream.write_all(&example(request)).await.unwrap();
        let mut expected = example(reply);
        let mut answer = vec![0; expected.len()];
        stream.read_exact(&mut answer).await.unwrap();
        if request.starts_with("Query") {
            // Nothing is here.
            expected[16] = 0;
        }
        assert_eq!(answer, expected, "{request}");
    }
}
