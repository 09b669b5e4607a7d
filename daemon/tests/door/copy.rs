//! `nix copy` in both directions, by every way to reach the daemon.

use std::path::Path;

use crate::world::{World, failed, front, lines, output, ran};
use nixci_store::testing::{NixVersion, TestDaemon, TestDrv};
use rstest::rstest;

/// A library, a program that needs it, and a source: built in the client's store.
fn built(world: &World, salt: &str) -> (String, String) {
    let drvs = world.client.instantiate(
        salt,
        &[
            TestDrv::good("lib").attribute("src", "builtins.toFile \"source\" \"the source of lib\""),
            TestDrv::good("app").needs(&["lib"]).script("echo $needs > $out"),
        ],
    );
    let app = &drvs["app"];
    (app.clone(), world.build_at_client(app))
}

/// What a path needs, as the store that the command is about tells.
fn closure(world: &World, store: &[&str], path: &str) -> Vec<String> {
    let mut arguments = vec!["path-info", "--recursive"];
    arguments.extend_from_slice(store);
    arguments.push(path);
    lines(&world.run("nix", &arguments))
}

/// Hash, size and references of a closure, as a store on disk tells.
fn told(world: &World, store: &str, path: &str) -> serde_json::Value {
    let arguments = ["path-info", "--json", "--recursive", "--store", store, path];
    let text = world.run("nix", &arguments);
    let mut told: serde_json::Value = serde_json::from_str(&text).unwrap();
    let infos: Vec<&mut serde_json::Value> = match &mut told {
        serde_json::Value::Array(list) => list.iter_mut().collect(),
        serde_json::Value::Object(map) => map.values_mut().collect(),
        _ => panic!("{text}"),
    };
    for info in infos {
        let info = info.as_object_mut().unwrap();
        info.retain(|key, _| matches!(key.as_str(), "path" | "narHash" | "narSize" | "references" | "deriver"));
    }
    told
}

/// A store without a daemon, to be copied into.
fn disk(dir: &Path) -> String {
    format!("local?root={}", dir.display())
}

#[rstest]
fn closures_go_in_by_every_door_and_come_back_the_same(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let mut world = World::new(version);
    let (drv, out) = built(&world, "copy");
    let own = world.client.local_uri();
    for way in [
        "socket",
        "socket, four connections",
        "pipe",
        "pipe, four connections",
        "ssh",
        "ssh, compressed",
    ] {
        // What another door brought is not brought again, so each gets a daemon of its own.
        world.nixci = front(&world.store, "");
        let (_sshd, ssh) = world.sshd();
        let (to, from) = match way {
            "socket" => (world.socket(), world.pipe()),
            "socket, four connections" => {
                let four = |uri: String, sign| format!("{uri}{sign}max-connections=4");
                (four(world.socket(), '?'), four(world.pipe(), '&'))
            }
            "pipe" => (world.pipe(), world.pipe()),
            "pipe, four connections" => {
                let uri = format!("{}&max-connections=4", world.pipe());
                (uri.clone(), uri)
            }
            "ssh" => (ssh.clone(), ssh),
            _ => {
                // With more than one connection these wait for themselves before they start ssh, whoever is there: a
                // program in its place, as above, is started at once.
                let connections = match version {
                    NixVersion::V2_8 | NixVersion::V2_26 => 1,
                    NixVersion::V2_34 => 4,
                };
                let uri = format!("{ssh}&compress=true&max-connections={connections}");
                (uri.clone(), uri)
            }
        };
        world.run("nix", &["copy", "--no-check-sigs", "--to", &to, &out]);
        world.run("nix", &["copy", "--derivation", "--to", &to, &drv]);
        assert_eq!(
            closure(&world, &["--store", &from], &out),
            closure(&world, &[], &out),
            "{way}"
        );

        let dir = tempfile::tempdir().unwrap();
        let back = disk(dir.path());
        world.run(
            "nix",
            &["copy", "--no-check-sigs", "--from", &from, "--to", &back, &out],
        );
        world.run(
            "nix",
            &[
                "copy",
                "--no-check-sigs",
                "--derivation",
                "--from",
                &from,
                "--to",
                &back,
                &drv,
            ],
        );
        for path in [&out, &drv] {
            assert_eq!(told(&world, &back, path), told(&world, &own, path), "{way}");
        }
        ran(
            world
                .client
                .command_at("nix-store", &back)
                .args(["--verify", "--check-contents"]),
            &world.nixci,
        );
        let _ = output(std::process::Command::new("chmod").args(["-R", "u+w"]).arg(dir.path()));
    }
}

#[rstest]
fn everything_there_is_is_copied_at_once(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let world = World::new(version);
    let (_, out) = built(&world, "all");
    // The store behind has something of its own.
    let own = world.store.instantiate("behind", &[TestDrv::good("behind")]);
    let behind = world
        .store
        .run("nix-store", &["--realise", &own["behind"]])
        .trim()
        .to_owned();
    world.run("nix", &["copy", "--no-check-sigs", "--all", "--to", &world.socket()]);
    let pipe = world.pipe();
    let all = lines(&world.run("nix", &["path-info", "--all", "--store", &pipe]));
    for path in [&out, &behind] {
        assert!(all.contains(path), "{path} is missing: {all:?}");
    }
    let here = lines(&world.run("nix", &["path-info", "--all"]));
    let lost: Vec<_> = here.iter().filter(|path| !all.contains(path)).collect();
    assert!(lost.is_empty(), "{lost:?}");

    let dir = tempfile::tempdir().unwrap();
    let back = disk(dir.path());
    world.run(
        "nix",
        &["copy", "--no-check-sigs", "--all", "--from", &pipe, "--to", &back],
    );
    let arrived = lines(&world.run("nix", &["path-info", "--all", "--store", &back]));
    assert_eq!(arrived, all);
    let _ = output(std::process::Command::new("chmod").args(["-R", "u+w"]).arg(dir.path()));
}

#[rstest]
fn the_destination_substitutes_what_it_can(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let client = TestDaemon::start(version);
    let cache = tempfile::tempdir().unwrap();
    let cache_uri = format!("file://{}", cache.path().display());
    let store = TestDaemon::builder(version)
        .config(&format!("substituters = {cache_uri}?trusted=1"))
        .start();
    let world = World::of(store, client, "");
    let (_, out) = built(&world, "substituted");
    let lib = closure(&world, &[], &out)
        .into_iter()
        .find(|path| path.ends_with("-lib"))
        .unwrap();
    world.run("nix", &["copy", "--to", &cache_uri, &lib]);
    let to = world.pipe();
    let mut arguments = vec![
        "copy",
        "--no-check-sigs",
        "--substitute-on-destination",
        "--to",
        &to,
        &out,
    ];
    if version == NixVersion::V2_8 {
        // It looks at the setting only, whatever the command says.
        arguments.extend(["--option", "builders-use-substitutes", "true"]);
    }
    world.run("nix", &arguments);
    assert!(
        world.store.physical(&lib).exists(),
        "the store behind fetched it by itself"
    );
    assert!(
        !world.store.physical(&out).exists(),
        "the rest was sent, and is in the spool"
    );
    assert_eq!(closure(&world, &["--store", &to], &out), closure(&world, &[], &out));
}

#[rstest]
fn two_clients_that_copy_the_same_do_not_disturb_each_other(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let world = World::new(version);
    let (drv, out) = built(&world, "twice");
    let (socket, pipe) = (world.socket(), world.pipe());
    std::thread::scope(|scope| {
        for to in [&socket, &pipe, &socket, &pipe] {
            let (world, drv, out) = (&world, &drv, &out);
            scope.spawn(move || {
                world.run("nix", &["copy", "--no-check-sigs", "--to", to, out]);
                world.run("nix", &["copy", "--derivation", "--to", to, drv]);
            });
        }
    });
    assert_eq!(closure(&world, &["--store", &pipe], &out), closure(&world, &[], &out));
}

#[rstest]
fn unsigned_outputs_of_a_user_who_is_not_trusted_are_refused(
    #[values(NixVersion::V2_8, NixVersion::V2_26, NixVersion::V2_34)] version: NixVersion,
) {
    let world = World::of(
        TestDaemon::start(version),
        TestDaemon::start(version),
        "trusted_users = []",
    );
    let (drv, out) = built(&world, "untrusted");
    for to in [world.socket(), world.pipe()] {
        let said = failed(
            world
                .client
                .command("nix")
                .args(["copy", "--no-check-sigs", "--to", &to, &out]),
        );
        assert!(said.contains("lacks a signature by a trusted key"), "{said}");
        // Derivations prove themselves.
        world.run("nix", &["copy", "--derivation", "--to", &to, &drv]);
    }
}

#[test]
fn a_closure_that_only_the_store_behind_has_is_brought_in_batches() {
    let world = World::new(NixVersion::NEWEST);
    let names: Vec<String> = (0..500).map(|nth| format!("n{nth}")).collect();
    let mut drvs: Vec<TestDrv> = Vec::new();
    // Ten wide and fifty deep.
    for (nth, name) in names.iter().enumerate() {
        let below: Vec<&str> = nth
            .checked_sub(10)
            .map(|below| names[below].as_str())
            .into_iter()
            .collect();
        drvs.push(TestDrv::good(name).needs(&below));
    }
    let tops: Vec<&str> = names[490..].iter().map(String::as_str).collect();
    drvs.push(TestDrv::good("all").needs(&tops));
    world.store.instantiate("brought", &drvs);
    drvs.push(TestDrv::good("app").needs(&["all"]));
    let drvs = world.client.instantiate("brought", &drvs);
    let begun = std::time::Instant::now();
    world.run("nix", &["copy", "--derivation", "--to", &world.socket(), &drvs["app"]]);
    println!("501 derivations brought in {} ms", begun.elapsed().as_millis());
    // They are the spool's own now, and go to any store from there.
    let other = TestDaemon::start(NixVersion::NEWEST);
    world.store.kill9();
    let to = format!("unix://{}", other.socket().display());
    let from = world.pipe();
    world.run(
        "nix",
        &[
            "copy",
            "--derivation",
            "--no-check-sigs",
            "--from",
            &from,
            "--to",
            &to,
            &drvs["app"],
        ],
    );
    assert!(other.physical(&drvs["n0"]).exists());
}
