//! The same paths again: recognised by one digest, in the handshake.

#![expect(clippy::unwrap_used, reason = "a helper of tests fails by panicking")]

use nixci_protocol::client::{Connection, Hello};
use nixci_protocol::nixci::{FEATURE_CLOSURE, RootsDigest};
use nixci_protocol::types::{StoreDir, StorePath};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv, poll_until};
use tokio::net::UnixStream;

use crate::counter::{Counter, Traffic};
use crate::world::World;

/// Bytes both ways that an unchanged set may cost.
const MOST: u64 = 1024;

/// A handshake with these features, and whether the last of them is shared.
async fn greet(socket: &str, features: Vec<String>) -> bool {
    let (read, write) = UnixStream::connect(socket).await.unwrap().into_split();
    let last = features.last().cloned().unwrap();
    let hello = Hello {
        features,
        ..Hello::default()
    };
    let connection = Connection::open(read, write, hello).await.unwrap();
    connection.negotiated().has(&last)
}

fn wait_until_known(world: &World, paths: &[StorePath]) {
    let roots = RootsDigest::of(&StoreDir::default(), paths);
    let socket = world.socket();
    poll_until("the set to be known", || {
        let features = vec![FEATURE_CLOSURE.to_owned(), roots.feature()];
        world.wait(greet(socket.to_str().unwrap(), features)).then_some(())
    });
}

fn scene(world: &World) -> (String, Vec<StorePath>, Counter) {
    let names: Vec<String> = (0..300).map(|n| format!("job-{n}")).collect();
    let list: Vec<TestDrv> = names.iter().map(|name| TestDrv::good(name)).collect();
    let (jobs, drvs) = world.jobs("again", &list);
    let paths = drvs.values().map(|drv| StoreDir::default().parse(drv).unwrap());
    let counter = Counter::start(&world.dir().join("counter"), &world.socket());
    (jobs, paths.collect(), counter)
}

fn both_ways(traffic: Traffic) -> u64 {
    traffic.up + traffic.down
}

#[test]
fn an_unchanged_set_is_copied_again_with_a_handshake_alone() {
    let world = World::new();
    let (_, paths, counter) = scene(&world);
    let store_dir = StoreDir::default();
    let lines: Vec<String> = paths.iter().map(|path| store_dir.display(path).to_string()).collect();
    let all = lines.join("\n");
    let copy = ["--to", counter.socket(), "copy", "--stdin"];
    world.nixci_with(&copy, &all).ends(0).says("copied");
    let first = counter.take();
    assert!(first.up > 20 * paths.len() as u64, "{first:?}");
    wait_until_known(&world, &paths);

    world.wait(greet(counter.socket(), vec![FEATURE_CLOSURE.to_owned()]));
    let greeting = counter.take();
    // Nothing local is read: the paths are not even there.
    let elsewhere = TestDaemon::start(NixVersion::NEWEST);
    let uri = elsewhere.uri();
    for from in [&[][..], &["--from", &uri]] {
        // In another order, and one of them twice.
        let backwards: Vec<&str> = lines.iter().rev().chain(&lines[..1]).map(String::as_str).collect();
        let ran = world
            .nixci_with(&[&copy[..], from].concat(), &backwards.join("\n"))
            .ends(0);
        ran.says("nothing to copy").says("300 paths");
        let again = counter.take();
        println!("first {first:?}, again {again:?}, a handshake {greeting:?}");
        assert!(both_ways(again) < MOST, "{again:?}");
        assert_eq!(again.turns, greeting.turns);
    }

    // A part of it is another set, which costs one question more than a handshake.
    world
        .nixci_with(&copy, &lines[1..].join("\n"))
        .ends(0)
        .says("nothing to copy");
    assert_eq!(counter.take().turns, greeting.turns + 2);
}

#[test]
fn a_stock_daemon_is_asked_as_before() {
    let world = World::quiet();
    let (_, drvs) = world.jobs("again", &[TestDrv::good("a"), TestDrv::good("b").needs(&["a"])]);
    let stock = TestDaemon::start(NixVersion::NEWEST);
    let counter = Counter::start(&world.dir().join("counter"), &stock.socket());
    let copy = ["--to", counter.socket(), "copy", &drvs["b"]];
    world.nixci(&copy).ends(0).says("copied");
    counter.take();
    world.nixci(&copy).ends(0).says("nothing to copy");
    let again = counter.take();
    world.wait(greet(counter.socket(), vec![FEATURE_CLOSURE.to_owned()]));
    assert_eq!(again.turns, counter.take().turns + 2);
}
