//! Large objects and large closures, beside a direct copy to the same kind of store.

use std::fs::File;
use std::io::{Read, Write};
use std::process::Stdio;
use std::time::Instant;

use crate::world::{World, ran};
use nixci_store::testing::recorded::{self, Set};
use nixci_store::testing::{NixVersion, TestDaemon};
use rstest::rstest;

const LARGE_MIB: u64 = 400;
/// What the daemon may have resident at most while such an object passes.
const MEMORY_MIB: u64 = 150;

fn large(world: &World) -> String {
    let file = world.client.scratch().join("large");
    let mut noise = File::open("/dev/urandom").unwrap().take(LARGE_MIB << 20);
    std::io::copy(&mut noise, &mut File::create(&file).unwrap()).unwrap();
    let path = world.run("nix", &["store", "add-file", file.to_str().unwrap()]);
    std::fs::remove_file(file).unwrap();
    path.trim().to_owned()
}

fn timed(what: &str, work: impl FnOnce()) -> f64 {
    let start = Instant::now();
    work();
    let took = start.elapsed().as_secs_f64();
    println!("{what}: {took:.2} s");
    took
}

#[rstest]
#[case::oldest_to_the_spool(NixVersion::V2_8, "")]
#[case::newest_to_the_spool(NixVersion::V2_34, "")]
#[case::newest_through(NixVersion::V2_34, "writes = \"through\"")]
fn heavy_a_path_of_several_hundred_mib_passes_in_little_memory(#[case] version: NixVersion, #[case] keys: &str) {
    let world = World::of(TestDaemon::start(version), TestDaemon::start(version), keys);
    let path = large(&world);
    let direct = TestDaemon::start(version);
    timed("direct, in", || {
        world.run(
            "nix",
            &["copy", "--to", &format!("unix://{}", direct.socket().display()), &path],
        );
    });
    timed("nixci, in", || {
        world.run("nix", &["copy", "--to", &world.socket(), &path]);
    });
    drop(direct);
    let (_sshd, ssh) = world.sshd();
    for (way, uri) in [("pipe", world.pipe()), ("ssh", ssh)] {
        let dir = tempfile::tempdir_in(world.client.scratch()).unwrap();
        let back = format!("local?root={}", dir.path().display());
        timed(&format!("nixci, out by {way}"), || {
            world.run(
                "nix",
                &["copy", "--no-check-sigs", "--from", &uri, "--to", &back, &path],
            );
        });
        let here = std::fs::read(dir.path().join(&path[1..])).unwrap();
        assert_eq!(here.len() as u64, LARGE_MIB << 20);
        assert!(
            here == std::fs::read(world.client.physical(&path)).unwrap(),
            "the bytes are the same"
        );
    }
    let peak = world.nixci.peak_mib();
    println!("peak: {peak} MiB");
    assert!(peak < MEMORY_MIB, "{peak} MiB resident");
}

/// The recorded closure by stock `nix copy --derivation --stdin`; the roots go to its standard input.
fn copy_recorded(world: &World, roots: &[&str], to: &str) {
    let list = world.client.scratch().join("roots");
    File::create(&list)
        .unwrap()
        .write_all(roots.join("\n").as_bytes())
        .unwrap();
    let output = world
        .client
        .command_at("nix", &recorded::whole().uri())
        .args(["copy", "--derivation", "--stdin", "--to", to])
        .stdin(Stdio::from(File::open(list).unwrap()))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stderr),
        world.nixci.log()
    );
}

#[rstest]
#[case::to_the_spool("")]
#[case::through("writes = \"through\"")]
fn heavy_the_recorded_closure_is_copied_by_stock_nix(#[case] keys: &str) {
    let version = NixVersion::NEWEST;
    let world = World::of(TestDaemon::start(version), TestDaemon::start(version), keys);
    let graph = recorded::whole();
    let roots = graph.roots(Set::Base);
    let direct = TestDaemon::start(version);
    let stock = timed("direct, cold", || {
        copy_recorded(&world, &roots, &format!("unix://{}", direct.socket().display()));
    });
    let ours = timed("nixci, cold", || copy_recorded(&world, &roots, &world.socket()));
    timed("direct, again", || {
        copy_recorded(&world, &roots, &format!("unix://{}", direct.socket().display()));
    });
    timed("nixci, again", || copy_recorded(&world, &roots, &world.socket()));
    println!(
        "nixci over direct: {:.2}; peak {} MiB",
        ours / stock,
        world.nixci.peak_mib()
    );
    drop(direct);

    // And out again, with everything that was put in.
    let pipe = world.pipe();
    let all = ran(
        world
            .client
            .command("nix")
            .args(["path-info", "--all", "--store", &pipe]),
        &world.nixci,
    );
    assert!(all.lines().count() >= 28_240, "{}", all.lines().count());
    let dir = tempfile::tempdir_in(world.client.scratch()).unwrap();
    let back = format!("local?root={}", dir.path().display());
    timed("nixci, all of it out", || {
        world.run(
            "nix",
            &["copy", "--no-check-sigs", "--all", "--from", &pipe, "--to", &back],
        );
    });
    let arrived = world.run("nix", &["path-info", "--all", "--store", &back]);
    assert!(arrived.lines().count() >= 28_240);
    assert!(world.nixci.peak_mib() < 400, "{} MiB resident", world.nixci.peak_mib());
}
